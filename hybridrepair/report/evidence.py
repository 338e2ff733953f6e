"""What a report shows of single images: predictions on the judged part and the pool, annotations, and thumbnails, in predictions.npz.

With run.json it is all that report.html and the plots are made of, so that neither data nor model is needed to make them again.
"""
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.files import atomic
from hybridrepair.images.arrays import UNKNOWN, image_of
from hybridrepair.images.data import Dataset
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.solutions import Selection

REGIONS, MEMBERS = 12, 7  # shown at most, and of each region beside its representative
ALONE = 36  # annotated images shown where none stands for a region
CHANGED = 24  # fixed images shown at most, and broken ones
TILE = 96  # pixels of a thumbnail at most
# how many of each array of Evidence there are, those of one letter as many; and which are class numbers
LENGTHS = {"classes": "C", "judged_index": "M", "truth": "M", "before": "M", "after": "M", "pool_index": "N", "pool_truth": "N",
           "predicted": "N", "source": "N", "annotated": "B", "region": "B", "answers": "B", "tile_index": "K", "tile_file": "K"}
CLASS_NUMBERS = "truth", "before", "after", "pool_truth", "predicted", "answers"


@dataclass(eq=False)
class Evidence:
    """Classes int64 of M judged images (T2, or val, or none) and N of the pool, UNKNOWN where not known.

    B are annotated, K have thumbnails.
    """
    classes: np.ndarray  # their names, str [C]
    judged_index: np.ndarray  # positions in the dataset, int64 [M]
    truth: np.ndarray  # int64 [M]
    before: np.ndarray  # predicted by the model before repair, int64 [M]
    after: np.ndarray  # int64 [M]
    pool_index: np.ndarray  # int64 [N]
    pool_truth: np.ndarray  # int64 [N]
    predicted: np.ndarray  # by the model under repair, int64 [N]
    unsmoothness: np.ndarray  # float64 [N], or [0] where the solution does not compute it
    source: np.ndarray  # the annotated pool image whose label each takes, int64 [N]
    annotated: np.ndarray  # pool images in the order of choice, int64 [B]
    region: np.ndarray  # that each stands for, int64 [B]
    answers: np.ndarray  # the annotator's labels, int64 [B]
    tile_index: np.ndarray  # positions in the dataset, int64 [K]
    tile_file: np.ndarray  # paths of their files, or "", str [K]
    tiles: np.ndarray  # uint8 [K, h, w, 3], h and w of TILE or less
    sizes: np.ndarray | None = None  # images in each region, without noise, int64 [R]; None without regions, or of earlier versions

    @property
    def selection(self) -> Selection:
        """What was annotated, and who takes the labels."""
        return Selection(self.annotated, self.region, self.source)

    def members(self, order: int) -> np.ndarray:
        """The pool images that took the label of the annotated image number `order`, the most unsmooth first, int64."""
        image = self.annotated[order]
        taken = np.flatnonzero((self.source == image) & self.selection.propagated)
        return taken[np.argsort(-self.unsmoothness[taken], kind="stable")] if len(self.unsmoothness) else taken

    def regions(self) -> list[int]:
        """Those of the annotated images that others took the label of, in the order of choice, as many as are shown."""
        sources = np.unique(self.source[self.selection.propagated])
        return np.flatnonzero(np.isin(self.annotated, sources))[:REGIONS].tolist()

    def changed(self, right_after: bool) -> np.ndarray:
        """The judged images that the repair fixed, or else broke, class by class, int64."""
        known = self.truth != UNKNOWN
        before, after = self.before == self.truth, self.after == self.truth
        found = np.flatnonzero(known & (~before & after if right_after else before & ~after))
        return found[np.argsort(self.truth[found], kind="stable")]

    def shown(self) -> Iterable[int]:
        """Positions in the dataset of all images that a report shows."""
        for order in self.regions():
            yield from self.pool_index[[self.annotated[order], *spread(self.members(order), MEMBERS)]]
        if not self.regions():
            yield from self.pool_index[self.annotated[:ALONE]]
        for right_after in (True, False):
            yield from self.judged_index[spread(self.changed(right_after), CHANGED)]


def spread(items: np.ndarray, n: int) -> np.ndarray:
    """n of the items [M] at equal distances from the first to the last, or all of them."""
    return items if len(items) <= n else items[np.linspace(0, len(items) - 1, n).round().astype(int)]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, C] as uint8 [h, w, 3] of TILE pixels or less; one of less than three channels by its first, in grey."""
    rgb = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    tile = Image.fromarray(np.ascontiguousarray(rgb))
    tile.thumbnail((TILE, TILE))
    return np.asarray(tile)


def of(dataset: Dataset, pool: Pool, selection: Selection, answers: np.ndarray, before: Tensor, after: Tensor,
       part: str) -> Evidence:
    """The evidence of a run: answers int64 [B]; before and after int64 [M] are predicted classes of the judged part, "" for none."""
    nothing = np.empty(0, np.int64)
    judged = dataset.split[part] if part else nothing
    made = Evidence(
        np.array(dataset.class_names, str), judged, dataset.labels[judged], before.cpu().numpy(), after.cpu().numpy(),
        pool.pool_index, dataset.labels[pool.pool_index], pool.probs.argmax(1).cpu().numpy(),
        pool.unsmoothness.cpu().numpy() if pool.looked_at_views else np.empty(0), selection.source, selection.annotated,
        selection.region, answers, nothing, np.empty(0, str), np.empty((0, 1, 1, 3), np.uint8))
    if selection.regions is not None:
        made.sizes = np.bincount(selection.regions.label.cpu().numpy() + 1)[1:]
    index = np.unique(np.fromiter(made.shown(), np.int64))
    if len(index):
        made.tile_index, made.tile_file = index, np.array([dataset.file(each) for each in index], str)
        made.tiles = np.stack([thumbnail(image_of(dataset.images, each)) for each in index])
    return made


def save(path: Path, evidence: Evidence) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{name: array for name, array in vars(evidence).items() if array is not None})


def check(made: Evidence) -> None:
    """ValueError where the arrays do not fit each other, or are not of their types."""
    counts: dict[str, int] = {}
    for name, letter in LENGTHS.items():
        array = getattr(made, name)
        if array.ndim != 1 or array.dtype.kind != ("U" if name in ("classes", "tile_file") else "i"):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
        if counts.setdefault(letter, len(array)) != len(array):
            raise ValueError(f"there are {len(array)} of {name}, not {counts[letter]}")
    n = counts["N"]
    limits = dict.fromkeys(CLASS_NUMBERS, (UNKNOWN, counts["C"])) | {"source": (UNKNOWN, n), "annotated": (0, n)}
    for name, (least, end) in limits.items():
        array = getattr(made, name)
        if len(array) and not least <= array.min() <= array.max() < end:
            raise ValueError(f"{name} goes from {array.min()} to {array.max()}")
    values, tiles = made.unsmoothness, made.tiles
    if values.dtype.kind != "f" or values.shape not in ((0,), (n,)) or not np.isfinite(values).all():
        raise ValueError(f"unsmoothness is {values.dtype} {list(values.shape)}, or not finite")
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[::3] != (counts["K"], 3) or not 1 <= min(tiles.shape[1:3]) <= TILE:
        raise ValueError(f"tiles is {tiles.dtype} {list(tiles.shape)}")


def load(path: Path) -> Evidence:
    """UserError if `path` is missing, damaged or something else."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:  # numpy leaves open what it opens itself and cannot read
            made = Evidence(**arrays)
        check(made)
        return made
    except Exception as error:  # numpy and zipfile raise many types here
        raise UserError(f"{path} cannot be read ({reason_of(error)}), and a report is made of it; give the folder of a finished run, "
                        "or do the run again by --force") from error
