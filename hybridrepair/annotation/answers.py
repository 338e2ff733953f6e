"""Answers read from what annotators give back: a CSV file, an export of Label Studio, or a folder of sorted images."""
import os
from pathlib import Path

from hybridrepair.annotation import label_studio, sorted_images, spreadsheet
from hybridrepair.annotation.answer import Answer
from hybridrepair.base import digests
from hybridrepair.base.errors import UserError
from hybridrepair.base.text import text_of
from hybridrepair.images.data import Dataset
from hybridrepair.images.identity import Identity, id_of

QUESTIONS = "to_label.csv"  # in the folder of questions: the file that is filled in
WHAT = "labels file"  # how messages call what --labels names
DIGITS = 18  # of a position at most
BY = ("id", "digest", "file", "index")  # columns that name an image; the first that has a text does


def given(path: Path) -> Path:
    """What in `path` holds the answers: the path itself, or, of a whole folder of questions, the file that is filled in.

    UserError where the folder has images to be sorted too: those that nobody has sorted yet look like answers.
    """
    folder, file = path / sorted_images.FOLDER, path / QUESTIONS
    if not file.is_file():
        return path
    if folder.is_dir():
        raise UserError(f"{WHAT} {path} is a whole folder of questions; give {folder} or {file}, whichever holds the answers")
    return file


def read(path: Path, dataset: Dataset, ids: list[str]) -> list[Answer]:
    """The answers in `path`, whose kind is recognised; `ids` of the images by rank, where a manifest has them.

    UserError if it cannot be read.
    """
    if path.is_dir():
        sorted_in = sorted_images.read(path, WHAT, dataset.class_names, not dataset.files, ids)
        tell_moved(path, sorted_in)
        return sorted_in
    if begins_as_json(path):
        return label_studio.read(path, WHAT)
    answers = read_csv(path, dataset)
    if any(isinstance(answer.image, int) for answer in answers):
        print(f"{WHAT} {path} does not say more of some images than their position in the dataset (index): right only if no image "
              "was added or removed since", flush=True)
    return answers


def tell_moved(folder: Path, found: list[Answer]) -> None:
    """Print how many images were sorted into another class than the predicted one, where the questions lie beside the folder."""
    file = folder.parent / QUESTIONS
    try:
        rows = [row for _, row in spreadsheet.read(file, WHAT)] if file.is_file() else []
    except UserError:
        rows = []  # the answers are in the folders, and good without it
    predicted = {row["digest"]: row["predicted class"] for row in rows if row.keys() >= {"digest", "predicted class"}}
    known = [(answer.label, predicted[answer.image.digest]) for answer in found
             if answer.label and isinstance(answer.image, Identity) and answer.image.digest in predicted]
    if known:
        print(f"{WHAT} {folder}: {sum(label != other for label, other in known)} of {len(known)} images were moved to another class",
              flush=True)


def is_csv(path: Path) -> bool:
    """Whether the labels in `path` may have gone through a spreadsheet, and may name annotators in a column."""
    return path.is_file() and not begins_as_json(path)


def begins_as_json(path: Path) -> bool:
    """Whether a file, whatever it is called, begins like an export of Label Studio."""
    try:
        with open(path, "rb") as file:
            return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")
    except OSError:
        return False  # said by whoever reads it


def read_csv(path: Path, dataset: Dataset) -> list[Answer]:
    """The rows of a CSV file with the column label and one of BY, and perhaps annotator. UserError for a row that names no image."""
    rows = spreadsheet.read(path, WHAT)
    if not rows or "label" not in rows[0][1] or not set(BY) & rows[0][1].keys():
        raise UserError(f"{WHAT} {path} has no rows with the columns id (or index) and label; fill in a {QUESTIONS} or a selected.csv")
    ids = {id_of(dataset, index) for index in dataset.split["pool"]} if dataset.files else set()
    answers = []
    for line, row in rows:
        where, cell = f"{WHAT} {path}, line {line}", {name: row.get(name, "") for name in BY}
        if row.get(label_studio.ID) and cell["id"].isdecimal():  # from a table of Label Studio, where id is that of the task
            cell["id"] = row[label_studio.ID]
        identity = Identity(cell["id"] or id_of_file(cell["file"], dataset, ids), cell["digest"].strip())
        image: Identity | int = identity
        if not any(identity):
            index = cell["index"].strip()
            if cell["file"] or not index.isdecimal() or len(index) > DIGITS:  # the position of a file that is gone is another image's
                raise UserError(f"{where}: image {cell['file'] or cell['index']!r} is not in the pool; remove it, or correct what "
                                "names it")
            image = int(index)
        answers.append(Answer(where, image, row["label"], row.get("annotator", "").strip()))
    return answers


def id_of_file(file: str, dataset: Dataset, ids: set[str]) -> str:
    """The one of `ids` that a file's path ends with, after the folder of the dataset, wherever that lies; "" where there is none."""
    parts, folder = os.path.normpath(file).split("/"), text_of(dataset.folder.name)
    inside = ["/".join(parts[place:]) for place in range(1, len(parts)) if parts[place - 1] == folder]
    return next((path for path in inside if path in ids), "")


def digest_of(path: Path) -> str:
    """What tells answers from others: the digest of a file, or of all images in a folder with their places."""
    path = given(path)
    if not path.is_dir():
        return digests.of(path.read_bytes())
    return digests.of(*(part for file in sorted_images.images_in(path)
                        for part in (os.fsencode(file.relative_to(path)), b"\0", file.read_bytes())))
