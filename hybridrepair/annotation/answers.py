"""Answers read from what annotators give back: a CSV file, an export of Label Studio, or a folder of sorted images."""
import os
from pathlib import Path

from hybridrepair.annotation import label_studio, sorted_images, spreadsheet
from hybridrepair.annotation.answer import Answer
from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError
from hybridrepair.images.data import Dataset
from hybridrepair.images.identity import Identity, id_of

QUESTIONS = "to_label.csv"  # in the folder of questions: the file that is filled in
WHAT = "labels file"  # how messages call what --labels names
BY = ("id", "digest", "file", "index")  # columns that name an image; the first that has a text does


def given(path: Path) -> Path:
    """What in `path` holds the answers: the path itself, or, of a whole folder of questions, what was answered in it.

    UserError where that is not just one.
    """
    folder, file = path / sorted_images.FOLDER, path / QUESTIONS
    if not file.is_file():
        return path
    if folder.is_dir() and any(answer.label for answer in read_csv(file)):
        raise UserError(f"{WHAT} {path} holds sorted images and a {QUESTIONS} with labels; give {folder} or {file}")
    return folder if folder.is_dir() else file


def read(path: Path, dataset: Dataset, ids: list[str]) -> list[Answer]:
    """The answers in `path`, whose kind is recognised; `ids` of the images by rank, where a manifest has them.

    UserError if it cannot be read.
    """
    if path.is_dir():
        return sorted_images.read(path, WHAT, dataset.class_names, not dataset.files, ids)
    if begins_as_json(path):
        return label_studio.read(path, WHAT)
    answers = read_csv(path, dataset)
    if any(isinstance(answer.image, int) for answer in answers):
        print(f"{WHAT} {path} does not say more of some images than their position in the dataset (index): right only if no image "
              "was added or removed since", flush=True)
    return answers


def spreadsheet_changes_names(path: Path) -> bool:
    """Whether the labels in `path` may have gone through a spreadsheet."""
    return path.is_file() and not begins_as_json(path)


def begins_as_json(path: Path) -> bool:
    """Whether a file, whatever it is called, begins like an export of Label Studio."""
    try:
        with open(path, "rb") as file:
            return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")
    except OSError:
        return False  # said by whoever reads it


def read_csv(path: Path, dataset: Dataset | None = None) -> list[Answer]:
    """The rows of a CSV file with the column label and one of BY, and perhaps annotator; without a dataset `file` tells nothing."""
    rows = spreadsheet.read(path, WHAT)
    if not rows or "label" not in rows[0][1] or not set(BY) & rows[0][1].keys():
        raise UserError(f"{WHAT} {path} has no rows with the columns id (or index) and label; fill in a {QUESTIONS} or a selected.csv")
    ids = {dataset.file(index): id_of(dataset, index) for index in dataset.split["pool"]} if dataset and dataset.files else {}
    answers = []
    for line, row in rows:
        where, cell = f"{WHAT} {path}, line {line}", {name: row.get(name, "") for name in BY}
        identity = Identity(cell["id"] or ids.get(cell["file"], ""), cell["digest"].strip())
        image: Identity | int = identity
        if not any(identity):
            if not cell["index"].strip().isdecimal():
                raise UserError(f"{where}: image {cell['index']!r} is not in the pool; remove it, or correct what names it")
            image = int(cell["index"])
        answers.append(Answer(where, image, row["label"], row.get("annotator", "").strip()))
    return answers


def digest_of(path: Path) -> str:
    """What tells answers from others: the digest of a file, or of all files in a folder with their places."""
    path = given(path)
    if not path.is_dir():
        return checkpoint.digest(path.read_bytes())
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return checkpoint.digest(*(part for file in files for part in (os.fsencode(file.relative_to(path)), b"\0", file.read_bytes())))
