"""Spreadsheets: CSV files that went through one, and texts that come back from one as they were."""
import csv
import io
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.rows import SEPARATORS

# what a spreadsheet would compute, some also by signs of full width; '* : our own sign, so that it can be told from the text's
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
KEPT = re.compile(r"0|[1-9]\d{0,14}")  # numbers that a spreadsheet writes as it read them


def number_of(text: str) -> Decimal | None:
    """The number that a spreadsheet may take a text for: 001 and 1.0 are 1; None where it is none."""
    try:
        number = Decimal("" if "_" in text else text.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def changes(text: str) -> bool:
    """Whether a spreadsheet would compute a text, or write it as another number."""
    return bool(FORMULA.match(text)) or (number_of(text.lstrip("'")) is not None and not KEPT.fullmatch(text))


def protected(text: str) -> str:
    """The text with a ' before it where a spreadsheet would change it."""
    return f"'{text}" if changes(text) else text


def unprotected(text: str) -> str:
    """The text that `protected` was given."""
    return text[1:] if text.startswith("'") and changes(text[1:]) else text


def read(path: Path, what: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, each with its line; separated by commas, semicolons or tabs, in UTF-8 with or without a mark.

    Rows without any text are left out. UserError if it cannot be read, or has a row with more cells than columns.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # an end of a line within a cell stays what it is
            text = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} cannot be read: it is not in UTF-8 ({error.reason}); save it as CSV with the encoding "
                        "UTF-8") from error
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror}); give a CSV file, a Label Studio export or a "
                        "folder of sorted images") from error
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    separator = max(SEPARATORS, key=head.count)
    rows, line = [], 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        columns = [cell.strip() for cell in next(reader, [])]
        line = reader.line_num  # the last one read: a quoted text may have several
        for cells in reader:
            if any(cell.strip() for cell in cells[len(columns):]):
                raise UserError(f"{what} {path}, line {line + 1}: there are more cells than columns; put a text with {separator!r} in "
                                "quotes")
            if any(cell.strip() for cell in cells):
                rows.append((line + 1, dict.fromkeys(columns, "") | dict(zip(columns, map(unprotected, cells)))))
            line = reader.line_num
    except csv.Error as error:
        raise UserError(f"{what} {path} cannot be read after line {line} ({reason_of(error)}); save it as CSV anew") from error
    twice = {name for name in columns if name and columns.count(name) > 1}
    if twice:
        raise UserError(f"{what} {path} has the column {min(twice)} twice; keep one")
    return rows
