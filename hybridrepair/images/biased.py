"""The biased sets: what Model A, B and C of a dataset are trained and validated on."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybridrepair.base import processes
from hybridrepair.base.errors import UserError
from hybridrepair.images.arrays import read, save
from hybridrepair.images.data import Dataset
from hybridrepair.images.registry import CLASS_WEIGHTS, DATASETS, KEEP


def _weights(labels: np.ndarray, num_classes: int, model_number: int, folder: Path) -> np.ndarray:
    """How likely each image is drawn, by its class: float64, from the table, or drawn once and saved."""
    if model_number == 0:
        return np.ones(len(labels))
    if num_classes in CLASS_WEIGHTS:
        return np.array(CLASS_WEIGHTS[num_classes]["ABC"[model_number]])[labels]
    path = folder / "class_weights.npy"
    if not path.exists():
        # a seed whose first few weights are far apart, so that two or three classes are biased too
        save(path, np.random.default_rng([0, model_number]).random(num_classes))
    weights = read(path)
    if (weights.shape != (num_classes,) or weights.dtype.kind != "f"
            or not 0 <= weights.min() <= weights.max() < np.inf or weights[labels].max() == 0):
        raise UserError(f"{path} does not hold a weight for each of {num_classes} classes; delete it to draw them anew")
    return weights[labels].astype(np.float64)


def biased_subset(dataset: Dataset, model_number: int, folder: Path | str, parts: Sequence[str] = ("train", "val")
                  ) -> dict[str, np.ndarray]:
    """The images of Model A, B or C (0, 1, 2) in these parts: {"train": ..., "val": ...}, sorted int64.

    They index the train and val part, not images, and there are none of a part that is absent. Drawn once without replacement, in
    proportion to the weights, with a seed of their own, and saved as `folder`/<model_number>/train.npy and val.npy; read when there.
    UserError: no such model number; a saved set that does not fit the part.
    """
    if model_number not in (0, 1, 2):
        raise UserError(f"model number {model_number} does not exist; give 0, 1 or 2 for Model A, B or C")
    return processes.led(lambda: _subset(dataset, model_number, folder, parts))


def _subset(dataset: Dataset, model_number: int, folder: Path | str, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """The same, where the model number exists."""
    folder, subset = Path(folder) / str(model_number), {}
    keep = {"train": DATASETS[dataset.name].keep if dataset.name in DATASETS else KEEP, "val": KEEP}
    for number, part in enumerate(keep):
        if part not in parts:
            continue
        path, count = folder / f"{part}.npy", len(dataset.split[part])
        if not count:
            subset[part] = np.empty(0, np.int64)
            continue
        if not path.exists():
            weights = _weights(dataset.labels[dataset.split[part]], dataset.num_classes, model_number, folder)
            size = min(max(int(keep[part] * count), 1), int(np.count_nonzero(weights)))
            rng = np.random.default_rng([model_number, number])
            save(path, np.sort(rng.choice(count, size, replace=False, p=weights / weights.sum())))
        indices = read(path)
        if (indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices) or indices.min() < 0
                or indices.max() >= count or len(np.unique(indices)) < len(indices)):
            raise UserError(f"{path} does not hold different indices from 0 to {count - 1} into the {part} part of "
                            f"{dataset.name}; delete it to draw anew, and train the model again")
        subset[part] = indices.astype(np.int64)
    return subset
