"""Rows of CSV files that this project writes: dicts of texts."""
import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hybridrepair.base.errors import UserError
from hybridrepair.base.files import atomic

SEPARATORS = ",;\t"  # that spreadsheets write, by language
MARKS = b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"  # of UTF-8, and of UTF-16 in both orders


class Rows(NamedTuple):
    """What a CSV file holds, that may have been through a spreadsheet."""
    columns: list[str]
    rows: list[dict[str, str]]  # those that have as many cells as there are columns
    ours: bool  # whether the file is as `write_rows` makes it
    fault: str  # why they may not be all that the file holds, or not exactly, to stand after its name; "" where they are

    def all_of(self, path: Path) -> list[dict[str, str]]:
        """The rows of the file `path`. UserError where they may not be all."""
        if self.fault:
            raise UserError(f"{path} {self.fault}; correct it, or move it away")
        return self.rows


def rows_in(content: bytes) -> Rows:
    """The rows of a CSV file with these bytes, in whatever encoding and with whatever separator a spreadsheet saved it."""
    text, fault = text_in(content)
    head = text.partition("\n")[0]
    separator = max(SEPARATORS, key=head.count)
    try:
        columns, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(line)] or [[]]
    except csv.Error as error:
        return Rows([], [], False, f"is no CSV file ({error})")
    whole = [line for line in lines if len(line) == len(columns)]
    twice = [name for name, n in Counter(columns).items() if n > 1]
    if twice:
        fault = fault or f"has the column {twice[0]} twice"
    if len(whole) < len(lines):
        place = next(i for i, line in enumerate(lines, 1) if len(line) != len(columns))
        fault = fault or f"row {place} has not as many cells as there are columns"
    ours = not fault and separator == "," and not content.startswith(MARKS) and not head.endswith("\r")
    return Rows(columns, [dict(zip(columns, line)) for line in whole], ours, fault)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where it does not exist. UserError where they may not be all that it holds."""
    return rows_in(path.read_bytes() if path.exists() else b"").all_of(path)


def text_in(content: bytes) -> tuple[str, str]:
    """The text that bytes are in UTF-8, UTF-16 with its mark, or else Windows-1252, with what is wrong with that guess."""
    try:
        return content.decode("utf-16" if content.startswith(MARKS[1:]) else "utf-8-sig"), ""
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace"), "is no CSV file in UTF-8"


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """Write rows under `columns`, and after them what else rows have."""
    rows = list(rows)
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    # a carriage return ends a row where it is not quoted, which csv does of itself in later versions of Python alone
    returns = any("\r" in str(cell) for row in rows for cell in row.values())
    # of names that are not UTF-8, what base.text.text_of makes
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(names), restval="", lineterminator="\n",
                                quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
        writer.writeheader()
        writer.writerows(rows)
