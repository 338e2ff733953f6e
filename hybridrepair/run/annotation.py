"""The annotator: the only way to a pool image's label for whatever decides something; reports look at the dataset's."""
import csv
from fractions import Fraction
from pathlib import Path

import numpy as np

from hybridrepair.base.errors import UserError
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.data import Dataset


class Oracle:
    """Answers for `labels` int64 [N] of the pool, counts the images it was asked for, and refuses beyond the budget."""

    def __init__(self, labels: np.ndarray, budget: int, source: str = "the dataset"):
        self._labels, self.budget, self.source = labels, budget, source
        self._asked: set[int] = set()

    @property
    def n_asked(self) -> int:
        """Distinct images annotated so far."""
        return len(self._asked)

    def expect_labels(self) -> None:
        """UserError where there is no label at all, before anything that takes long."""
        if (self._labels == UNKNOWN).all():
            raise UserError(f"{self.source} has no labels of pool images to annotate with; run selection.py, fill in the label "
                            "column of what it writes, and pass it as --labels")

    def annotate(self, index: np.ndarray) -> np.ndarray:
        """Labels int64 [B] of the pool images `index` int64 [B]. UserError beyond the budget or where none is known."""
        asked = self._asked | set(index.tolist())
        if len(asked) > self.budget:
            raise UserError(f"{len(asked)} annotations were asked for, but the budget is {self.budget}; raise --p_budget")
        labels = self._labels[index]
        if (labels == UNKNOWN).any():
            first, n = index[labels == UNKNOWN][0], int((labels == UNKNOWN).sum())
            raise UserError(f"{self.source} has no label for {n} of {len(index)} images to be annotated, the first being pool image "
                            f"{first}; run selection.py, fill in the label column of its selected.csv, and pass it as --labels")
        self._asked = asked
        return labels


def read_labels(path: Path | str, pool: np.ndarray, class_names: list[str]) -> np.ndarray:
    """Labels int64 [N] of the pool from a CSV with the columns `index` and `label`, UNKNOWN where it has none.

    `index` is the position of an image in the dataset, as selected.csv writes it, pool int64 [N] those of the pool; a label is a class
    name, or a class number where no class has that name. UserError for an unknown row.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"labels file {path} cannot be read ({error}); give a CSV file with the columns index and label") from error
    if not rows or not {"index", "label"} <= rows[0].keys():
        raise UserError(f"labels file {path} has no rows with the columns index and label; fill in a selected.csv")
    position = {str(index): n for n, index in enumerate(pool.tolist())}
    classes = {str(number): number for number in range(len(class_names))}
    classes |= {name: number for number, name in enumerate(class_names)}
    labels = np.full(len(pool), UNKNOWN, dtype=np.int64)
    for line, row in enumerate(rows, start=2):
        index, label = (row["index"] or "").strip(), (row["label"] or "").strip()
        if index not in position:
            raise UserError(f"labels file {path}, line {line}: image {index!r} is not in the pool; remove the row or correct its index")
        if label and label not in classes:
            raise UserError(f"labels file {path}, line {line}: {label!r} is no class; use one of {', '.join(class_names[:10])}"
                            f"{', ...' if len(class_names) > 10 else ''}")
        if label:
            labels[position[index]] = classes[label]
    return labels


def oracle_of(dataset: Dataset, budget: int, labels: str | None) -> Oracle:
    """The annotator of the pool of a dataset: its own labels, or the answers in the file `labels`."""
    pool = dataset.split["pool"]
    if labels is None:
        return Oracle(dataset.labels[pool], budget, f"dataset {dataset.name}")
    return Oracle(read_labels(labels, pool, dataset.class_names), budget, f"labels file {labels}")


def budget_of(p_budget: float, n: int) -> int:
    """How many of n images `p_budget` percent are, cut. UserError if that is none, or more than all."""
    if not 0 < p_budget <= 100:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) is not within the pool; give more than 0 and at most 100")
    budget = int(Fraction(str(p_budget)) * n / 100)  # of floats, 0.57 % of 10,000 would be 56
    if budget == 0:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) of {n} pool images is 0 images; give at least "
                        f"{np.ceil(100 / n * 1000) / 1000:g}")
    return budget
