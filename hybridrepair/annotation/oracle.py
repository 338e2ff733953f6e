"""The annotator: the only way to a pool image's label for whatever decides something; reports look at the dataset's."""
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from hybridrepair.annotation import answers
from hybridrepair.annotation.answer import Answer
from hybridrepair.annotation.classes import number_by_name
from hybridrepair.annotation.manifest import NAME, Manifest, beside, listed, selection_of
from hybridrepair.base.errors import UserError
from hybridrepair.base.text import line_of
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.data import Dataset
from hybridrepair.images.identity import CHANGED, Identity, id_of, places

REMEDY = "run selection.py, have the column label filled in, and pass it as --labels"


class Oracle:
    """Answers for `labels` int64 [N] of the pool, counts the images it was asked for, and refuses beyond the budget.

    `name` tells what pool image a message is about, `remedy` what to do where labels are missing.
    """

    def __init__(self, labels: np.ndarray, budget: int, source: str = "the dataset", name: Callable[[int], str] = "image {}".format,
                 remedy: str = REMEDY):
        self._labels, self.budget, self.source, self.name, self.remedy = labels, budget, source, name, remedy
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
                            f"{self.remedy}, or leave those images and their regions out by --allow_missing")

    def tell_unused(self, chosen: np.ndarray) -> None:
        """Print how many images have a label without being among those chosen, int64 [B], and the first of them."""
        unused = np.setdiff1d(np.flatnonzero(self._labels != UNKNOWN), chosen).tolist()
        if unused:
            print(line_of(f"{self.source} answers {len(unused)} images that are not chosen, and those labels are not used: the first "
                          f"is {self.name(unused[0])}"), flush=True)

    def annotate(self, index: np.ndarray) -> np.ndarray:
        """Labels int64 [B] of the pool images `index` int64 [B]. UserError beyond the budget or where none is known."""
        asked = self._asked | set(index.tolist())
        if len(asked) > self.budget:
            raise UserError(f"{len(asked)} annotations were asked for, but the budget is {self.budget}; raise --p_budget")
        self.check(index)
        self._asked = asked
        return self._labels[index]


def oracle_of(dataset: Dataset, budget: int, labels: str | None = None, manifest: Manifest | None = None) -> Oracle:
    """The annotator of the pool of a dataset: its own labels, or the answers in `labels` to the questions of a manifest.

    A line says so where there are answers and no manifest.
    """
    pool = dataset.split["pool"]
    if labels is None:
        return Oracle(dataset.labels[pool], budget, f"dataset {dataset.name}", lambda place: id_of(dataset, pool[place]))
    remedy = REMEDY
    if manifest is None:
        print(f"there is no manifest beside {labels}: images are chosen anew; where it answers an earlier choice, name that by "
              "--manifest", flush=True)
        remedy = f"name the {NAME} of the choice that it answers by --manifest, {REMEDY}"
    found, why = answered(dataset, Path(labels), manifest)
    return Oracle(found, budget, f"{answers.WHAT} {labels}", lambda place: id_of(dataset, pool[place]) + why.get(place, ""), remedy)


def labels_of(dataset: Dataset, path: Path, manifest: Manifest | None = None) -> np.ndarray:
    """Labels int64 [N] of the pool by the answers in `path`, as `answered` has them."""
    return answered(dataset, path, manifest)[0]


def answered(dataset: Dataset, path: Path, manifest: Manifest | None) -> tuple[np.ndarray, dict[int, str]]:
    """Labels int64 [N] of the pool by the answers in `path`, UNKNOWN where it has none; a majority decides among annotators.

    Beside them, why there is none, by the place in the pool, where the answers say so. UserError that names file and line for an image
    or class that is not known, an image that was changed or, with a manifest, not asked for, two answers to one image by one
    annotator or by nobody named, and images without a majority.
    """
    path, pool = answers.given(path), dataset.split["pool"]
    found, is_csv = answers.read(path, dataset, manifest.ids if manifest else []), answers.is_csv(path)
    wanted = [answer.image for answer in found if isinstance(answer.image, Identity)]
    place = places(dataset, pool, [*(manifest.images if manifest else []), *wanted])
    place_of_index = {index: place for place, index in enumerate(pool.tolist())}
    asked = {place[image] for image in manifest.images} if manifest else set(range(len(pool)))
    given: dict[int, list[tuple[Answer, int]]] = {}
    why: dict[int, str] = {}
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
        if answer.missing:
            why[at] = f" ({short(answer.where)}: {answer.missing})"
        if answer.label.strip():
            try:
                number = number_by_name(answer.label, dataset.class_names, is_csv)
            except ValueError as error:
                raise UserError(f"{answer.where}: {error}") from error
            given.setdefault(at, []).append((answer, number))
    labels = np.full(len(pool), UNKNOWN, dtype=np.int64)
    ties = []
    for at, votes in given.items():
        labels[at] = majority(votes, id_of(dataset, pool[at]), dataset.class_names, is_csv)
        if labels[at] == UNKNOWN:
            ties.append(f"image {id_of(dataset, pool[at])} " + " ".join(
                f"({short(answer.where)}: {dataset.class_names[number]})" for answer, number in votes))
    if ties:
        raise UserError(f"{answers.WHAT} {path} has no majority for {listed(ties)}; decide, and leave one answer for each of them")
    return labels, {at: text for at, text in why.items() if at not in given}


def short(where: str) -> str:
    """A place within a sentence that has said what it is a place in."""
    return where.removeprefix(f"{answers.WHAT} ")


def majority(votes: list[tuple[Answer, int]], image: str, class_names: list[str], named_in_column: bool) -> int:
    """The class that most annotators gave an image, UNKNOWN where two are level. All that is not named is one annotator's.

    UserError where one annotator gave two classes, and where one that is not named answered twice, which may be two annotators.
    """
    by_annotator: dict[str, tuple[Answer, int]] = {}
    for answer, number in votes:
        first, other = by_annotator.setdefault(answer.annotator, (answer, number))
        if first is not answer and not answer.annotator:
            raise UserError(f"{first.where} and {short(answer.where)} both answer image {image}; keep one"
                            + (", or name the annotators in a column annotator" if named_in_column else ""))
        if other != number:
            raise UserError(f"{answer.where}: annotator {answer.annotator} calls image {image} {class_names[number]!r} here and "
                            f"{class_names[other]!r} before ({first.where}); keep one answer")
    (best, most), *others = Counter(number for _, number in by_annotator.values()).most_common()
    return UNKNOWN if others and others[0][1] == most else best


def known_labels(dataset: Dataset, rounds: list[str], propagated: bool = True) -> np.ndarray:
    """Labels int64 [N] of the pool from the answers of earlier rounds, UNKNOWN elsewhere.

    Where a manifest lies beside answers, the members of their regions take the label too, unless not `propagated`, and where none
    does, a line says so.
    UserError as in `answered`, and where two rounds give an image different labels.
    """
    pool = dataset.split["pool"]
    annotated, taken = np.full((2, len(pool)), UNKNOWN, dtype=np.int64)
    for path in rounds:
        manifest = beside(Path(path), None)
        if manifest is None and propagated:
            print(f"there is no manifest beside {path}: labels of regions are not known; put its {NAME} beside it", flush=True)
        labels = labels_of(dataset, Path(path), manifest)
        differ = np.flatnonzero((labels != UNKNOWN) & (annotated != UNKNOWN) & (labels != annotated))
        if len(differ):
            raise UserError(f"{answers.WHAT} {path} gives image {id_of(dataset, pool[differ[0]])} another label than an earlier round; "
                            "keep one answer")
        annotated = np.where(labels == UNKNOWN, annotated, labels)
        if manifest and propagated:
            selection = selection_of(manifest, dataset)
            passed_on = selection.labels(labels[selection.annotated])
            taken = np.where(passed_on == UNKNOWN, taken, passed_on)
    return np.where(annotated == UNKNOWN, taken, annotated)


def budget_of(p_budget: float, n: int) -> int:
    """How many of n images `p_budget` percent are, cut. UserError if that is none, or more than all."""
    if not 0 < p_budget <= 100:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) is not within the pool; give more than 0 and at most 100")
    budget = int(Fraction(str(p_budget)) * n / 100)  # of floats, 0.57 % of 10,000 would be 56
    if budget == 0:
        raise UserError(f"a budget of {p_budget:g} percent (--p_budget) of {n} pool images is 0 images; give at least "
                        f"{np.ceil(100 / n * 1000) / 1000:g}")
    return budget
