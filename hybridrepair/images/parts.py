"""The parts of a dataset, train, val, T2 and pool: which images each has, and what their labels must be."""
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hybridrepair.base.errors import UserError
from hybridrepair.images.arrays import UNKNOWN

FOLDERS = {"train": "train", "val": "val", "test": "T2", "field": "pool"}  # subfolder of an image folder -> part
MEASURED = ("train", "pool", "val", "T2")  # mean and std are those of the first of these that is there


def parts(folder: Path, labels: np.ndarray, split: Mapping[str, tuple[int, int | None]]) -> dict[str, np.ndarray]:
    """The indices int64 of each part of the dataset in `folder`, none for a part that `split` leaves out; labels int64 [N].

    UserError if a part is said to be there and is empty, is too long, overlaps another, or lacks labels it needs.
    """
    found, previous, last = {part: np.empty(0, np.int64) for part in FOLDERS.values()}, "", 0
    for part, (begin, end) in sorted(split.items(), key=lambda item: item[1][0]):
        end = len(labels) if end is None else end
        if not begin < end <= len(labels):
            wrong = "is empty" if begin == end else f"is images {begin} to {end}, but there are {len(labels)}"
            raise UserError(f"part {part} of dataset {folder} {wrong}; give it images, or another split in dataset.json, which may "
                            "leave it out")
        if begin < last:
            raise UserError(f"parts {previous} and {part} of dataset {folder} overlap; fix the split in dataset.json")
        if part != "pool" and labels[begin:end].min() <= UNKNOWN:
            raise UserError(f"part {part} of dataset {folder} has {(labels[begin:end] <= UNKNOWN).sum()} images without a "
                            "label; label them (in an image folder by class subfolders), or move them to the pool")
        found[part], previous, last = np.arange(begin, end), part, end
    return found
