"""Rows of CSV files that this project writes: dicts of texts."""
import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where it does not exist. UserError for one that has a column twice."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet may have added a byte-order mark
        rows = csv.DictReader(file)
        twice = [name for name, n in Counter(rows.fieldnames or ()).items() if name and n > 1]
        if twice:
            raise UserError(f"{path} has the column {twice[0]} twice; keep one")
        return list(rows)


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    rows = list(rows)
    # a carriage return ends a row where it is not quoted, which csv does of itself in later versions of Python alone
    returns = any("\r" in str(cell) for row in rows for cell in row.values())
    # of names that are not UTF-8, what base.text.text_of makes
    with checkpoint.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n",
                                quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
        writer.writeheader()
        writer.writerows(rows)
