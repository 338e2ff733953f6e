"""The annotator: the only way to a pool image's label for whatever decides something; reports look at the dataset's."""
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from hybridrepair.annotation import answers
from hybridrepair.annotation.answer import Answer
from hybridrepair.annotation.classes import number_by_name
from hybridrepair.annotation.manifest import Manifest, beside, listed, selection_of
from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.data import Dataset
from hybridrepair.images.identity import CHANGED, Identity, digest_of, id_of, places


class Oracle:
    """Answers for `labels` int64 [N] of the pool, counts the images it was asked for, and refuses beyond the budget.

    `name` tells what pool image a message is about.
    """

    def __init__(self, labels: np.ndarray, budget: int, source: str = "the dataset", name: Callable[[int], str] = "image {}".format):
        self._labels, self.budget, self.source, self.name = labels, budget, source, name
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

    def knows(self, index: np.ndarray) -> np.ndarray:
        """Which of the pool images int64 [B] it has a label for, bool [B]; tells no label and counts nothing."""
        return self._labels[index] != UNKNOWN

    def check(self, index: np.ndarray) -> None:
        """UserError that names those of the pool images int64 [B] that have no label."""
        without = [self.name(place) for place in index[~self.knows(index)].tolist()]
        if without:
            raise UserError(f"{self.source} has no label for {len(without)} of {len(index)} images to be annotated: {listed(without)}; "
                            "run selection.py, have the column label filled in, and pass it as --labels, or leave those images and "
                            "their regions out by --allow_missing")

    def annotate(self, index: np.ndarray) -> np.ndarray:
        """Labels int64 [B] of the pool images `index` int64 [B]. UserError beyond the budget or where none is known."""
        asked = self._asked | set(index.tolist())
        if len(asked) > self.budget:
            raise UserError(f"{len(asked)} annotations were asked for, but the budget is {self.budget}; raise --p_budget")
        self.check(index)
        self._asked = asked
        return self._labels[index]


def oracle_of(dataset: Dataset, budget: int, labels: str | None = None, manifest: Manifest | None = None) -> Oracle:
    """The annotator of the pool of a dataset: its own labels, or the answers in `labels` to the questions of a manifest."""
    pool = dataset.split["pool"]
    found = dataset.labels[pool] if labels is None else labels_of(dataset, Path(labels), manifest)
    source = f"dataset {dataset.name}" if labels is None else f"{answers.WHAT} {labels}"
    return Oracle(found, budget, source, lambda place: id_of(dataset, pool[place]))


def labels_of(dataset: Dataset, path: Path, manifest: Manifest | None = None) -> np.ndarray:
    """Labels int64 [N] of the pool by the answers in `path`, UNKNOWN where it has none; a majority decides among annotators.

    UserError that names file and line for an image or class that is not known, an image that was changed or, with a manifest, not
    asked for, one annotator's contradiction, and images without a majority.
    """
    path, pool = answers.given(path), dataset.split["pool"]
    found = answers.read(path, dataset, manifest.ids if manifest else [])
    wanted = [answer.image for answer in found if isinstance(answer.image, Identity)]
    place = places(dataset, pool, [*(manifest.images if manifest else []), *wanted])
    place_of_index = {index: place for place, index in enumerate(pool.tolist())}
    asked = {place[image] for image in manifest.images} if manifest else set(range(len(pool)))
    given: dict[int, list[tuple[Answer, int]]] = {}
    for answer in found:
        image = answer.image
        at = place[image] if isinstance(image, Identity) else place_of_index.get(image, UNKNOWN)
        name = (image.id or image.digest) if isinstance(image, Identity) else str(image)
        if at == CHANGED:
            raise UserError(f"{answer.where}: image {name!r} was changed after it was chosen; put back the original, or select anew")
        if at < 0:
            raise UserError(f"{answer.where}: image {name!r} is not in the pool; remove it, or correct what names it")
        if manifest and at not in asked:
            raise UserError(f"{answer.where}: image {name!r} was not asked for in {manifest.path}; remove it, or pass answers of an "
                            "earlier round as --labelled")
        if answer.label.strip():
            try:
                number = number_by_name(answer.label, dataset.class_names, answers.spreadsheet_changes_names(path))
            except ValueError as error:
                raise UserError(f"{answer.where}: {error}") from error
            given.setdefault(at, []).append((answer, number))
    labels = np.full(len(pool), UNKNOWN, dtype=np.int64)
    ties = []
    for at, votes in given.items():
        labels[at] = majority(votes, id_of(dataset, pool[at]), dataset.class_names)
        if labels[at] == UNKNOWN:
            ties.append(f"image {id_of(dataset, pool[at])} " + " ".join(f"({answer.where.removeprefix(f'{answers.WHAT} ')}: "
                                                                        f"{dataset.class_names[number]})" for answer, number in votes))
    if ties:
        raise UserError(f"{answers.WHAT} {path} has no majority for {listed(ties)}; decide, and leave one answer for each of them")
    return labels


def majority(votes: list[tuple[Answer, int]], image: str, class_names: list[str]) -> int:
    """The class that most annotators gave an image, UNKNOWN where two are level. Who is not named is another one each time.

    UserError where one annotator gave two classes.
    """
    by_annotator: dict[str, tuple[Answer, int]] = {}
    for order, (answer, number) in enumerate(votes):
        first, other = by_annotator.setdefault(answer.annotator or f"\0{order}", (answer, number))
        if other != number:
            raise UserError(f"{answer.where}: annotator {answer.annotator} calls image {image} {class_names[number]!r} here and "
                            f"{class_names[other]!r} before ({first.where}); keep one answer")
    (best, most), *others = Counter(number for _, number in by_annotator.values()).most_common()
    return UNKNOWN if others and others[0][1] == most else best


def known_labels(dataset: Dataset, rounds: list[str]) -> np.ndarray:
    """Labels int64 [N] of the pool from the answers of earlier rounds, UNKNOWN elsewhere.

    Where a manifest lies beside an answer, its region's members take the label too. UserError as in `labels_of`, and where two rounds
    give an image different labels.
    """
    pool = dataset.split["pool"]
    annotated, taken = np.full((2, len(pool)), UNKNOWN, dtype=np.int64)
    for path in rounds:
        manifest = beside(Path(path), None)
        labels = labels_of(dataset, Path(path), manifest)
        differ = np.flatnonzero((labels != UNKNOWN) & (annotated != UNKNOWN) & (labels != annotated))
        if len(differ):
            raise UserError(f"{answers.WHAT} {path} gives image {id_of(dataset, pool[differ[0]])} another label than an earlier round; "
                            "keep one answer")
        annotated = np.where(labels == UNKNOWN, annotated, labels)
        if manifest:
            selection = selection_of(manifest, dataset)
            passed_on = selection.labels(labels[selection.annotated])
            taken = np.where(passed_on == UNKNOWN, taken, passed_on)
    return np.where(annotated == UNKNOWN, taken, annotated)


def text_of_known(dataset: Dataset, known: np.ndarray) -> str:
    """What tells earlier labels int64 [N] of the pool from others, wherever their images stand: their number and a digest, or ""."""
    at = np.flatnonzero(known != UNKNOWN)
    pool = dataset.split["pool"]
    told = sorted(f"{digest_of(dataset, pool[each])} {dataset.class_names[known[each]]}\n" for each in at)
    return f"{len(told)}:{checkpoint.digest(''.join(told).encode())}" if told else ""


def budget_of(p_budget: float, n: int) -> int:
    """How many of n images `p_budget` percent are, cut. UserError if that is none, or more than all."""
    if not 0 < p_budget <= 100:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) is not within the pool; give more than 0 and at most 100")
    budget = int(Fraction(str(p_budget)) * n / 100)  # of floats, 0.57 % of 10,000 would be 56
    if budget == 0:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) of {n} pool images is 0 images; give at least "
                        f"{np.ceil(100 / n * 1000) / 1000:g}")
    return budget
