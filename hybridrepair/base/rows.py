"""Rows of CSV files that this project writes: dicts of texts."""
import csv
from collections.abc import Iterable
from pathlib import Path

from hybridrepair.base import checkpoint


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where it does not exist."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet may have added a byte-order mark
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    # of names that are not UTF-8, what base.text.text_of makes
    with checkpoint.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
