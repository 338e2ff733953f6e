"""Datasets: arrays, an image folder or a known name in; images, labels and parts out.

    dataset = data.load("digits", "dataset")
    dataset.images[dataset.split["pool"]]      # uint8 [N, H, W, C]

Sources, in this order: two arrays, an image folder, the loader of the registry (dataset/README.md shows each).
"""
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hybridrepair.base import digests, locks, processes
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.text import line_of, text_of
from hybridrepair.images import description, folders
from hybridrepair.images.arrays import MIN_SIZE, SIZE, UNKNOWN, chunks_of, mean_std, read, save
from hybridrepair.images.parts import FOLDERS, MEASURED, parts
from hybridrepair.images.registry import DATASETS


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in memory-mapped form; `split` maps train, val, T2 and pool to indices, none for an absent part."""
    name: str
    num_classes: int
    class_names: list[str]
    mean: tuple[float, ...]  # per channel, pixels in [0, 1]
    std: tuple[float, ...]
    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int64 [N], UNKNOWN = -1
    split: dict[str, np.ndarray]  # int64
    folder: Path = Path()
    files: tuple[str, ...] = ()  # [N], relative to folder; empty when the images came as arrays

    @property
    def _cut_as_usual(self) -> bool:
        """Whether the parts are those that the registry has for a dataset of this name."""
        if self.name not in DATASETS:
            return False
        every = np.arange(len(self.labels))
        return all(np.array_equal(self.split[part], every[slice(*ends)]) for part, ends in DATASETS[self.name].split.items())

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with whatever makes a result: parts, their images and labels, classes, mean and std.

        Images in no part are not read, of which there may be more than can be. The usual parts of a registered dataset are told by
        their images alone, others by their sizes too: with parts end to end, an image more in one and less in the next is all that
        differs.
        """
        sizes = {} if self._cut_as_usual else {part: len(index) for part, index in sorted(self.split.items())}
        made_of = repr((self.class_names, [float(each) for each in (*self.mean, *self.std)], *sizes.items()))
        index = np.unique(np.concatenate([*self.split.values()]))
        parts = (self.split[part] for part in sorted(self.split))
        return digests.of(made_of.encode(), *parts, self.labels[index], chunks_of(self.images, index))

    def file(self, index: int) -> str:
        """The path of the file that image `index` was read from; "" for a dataset that was not an image folder.

        It opens the file; `text_of` makes it fit to be written down, where it is not UTF-8.
        """
        return str(self.folder / self.files[index]) if self.files else ""


def load(name: str, root: Path | str, size: int | None = None, skip_bad: bool = False) -> Dataset:
    """The dataset in `root`/`name`, converted to arrays there first where it is not yet, or where its files or its size changed.

    `size` is the side in pixels that images of a folder are resized to (default: that of dataset.json, or 32); with `skip_bad`, those
    that cannot be read are left out. UserError: unknown name; absent and not downloadable; damaged array, image or dataset.json; parts
    that do not fit; arrays of another size.
    """
    folder = Path(root) / name
    if name not in DATASETS and not (Path(name).name == name and name not in ("", "..") and folder.is_dir()):
        raise UserError(f"dataset {name} is unknown; give one of {', '.join(DATASETS)}, or a folder's name in {root}")
    processes.led(lambda: _convert(name, folder, size, skip_bad))
    dataset = _open(name, folder)
    height, width = dataset.images.shape[1:3]
    if size and (height, width) != (size, size):
        raise UserError(f"{folder / 'images.npy'} holds images of {height}x{width} pixels, and --img_size asks for {size}; leave it "
                        "out, or save arrays of that size")
    return dataset


def _convert(name: str, folder: Path, size: int | None, skip_bad: bool) -> None:
    """Make the arrays of a dataset in its folder, where they are missing or outdated."""
    path = folder / "images.npy"
    found, others = folders.scan(folder)
    if _outdated(folder, found, size):
        with locks.locked(path, making=str(path)):
            if _outdated(folder, found, size):  # else made while this one waited
                if others:
                    told = ", ".join(f"{n} of {text_of(ending)}" for ending, n in others.most_common())
                    print(line_of(f"not read in {folder}, since they are no images that Pillow knows: {told}"), flush=True)
                if found:
                    content = description.read(folder)
                    folders.convert(folder, found, content, size or content.get("size", SIZE), skip_bad)
                else:
                    for file, array in _from_registry(name, folder).items():
                        save(folder / file, array)


def _outdated(folder: Path, found: dict[str, folders.Stamp], size: int | None) -> bool:
    """Whether the arrays in `folder` are missing, or made of other images than those found there or in another size.

    UserError where dataset.json gives these other parts than the folders are.
    """
    content, missing = description.read(folder), not (folder / "images.npy").exists()
    if found and ("files" in content or missing):  # else they lie beside arrays of the user's
        folders.refuse_split(folder, content)
    return missing or bool(found) and folders.changed(folder, content, found, size or content.get("size", SIZE))


def require(dataset: Dataset, *parts: str) -> None:
    """UserError if one of these parts of the dataset has no images."""
    for part in parts:
        if not len(dataset.split[part]):
            folder = next(name for name, each in FOLDERS.items() if each == part)
            arrays = "" if dataset.files else f", or give that part in the split of {dataset.folder / description.NAME}"
            raise UserError(f"dataset {dataset.name} has no {part} images, which this needs; put some into {dataset.folder / folder}"
                            f"{arrays}")


def _open(name: str, folder: Path) -> Dataset:
    """The dataset whose arrays lie in `folder`, checked; what dataset.json says goes before the registry."""
    content, spec = description.read(folder), DATASETS.get(name)
    images, labels = read(folder / "images.npy", memory_map=True), read(folder / "labels.npy")
    if images.dtype != np.uint8 or images.ndim != 4 or min(images.shape[1:3]) < MIN_SIZE or images.shape[3] < 1:
        raise UserError(f"{folder / 'images.npy'} is {images.dtype} {list(images.shape)}; save the images as uint8 "
                        f"[N, H, W, C] with H and W of {MIN_SIZE} or more")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(f"{folder / 'labels.npy'} is {labels.dtype} {list(labels.shape)}; save one int64 label for "
                        f"each of the {len(images)} images")
    labels = labels.astype(np.int64)
    given = content.get("split") or (folders.split_of(content["files"]) if "files" in content else spec.split if spec else None)
    if given is None:
        raise UserError(f"there is no split in {folder / description.NAME}; write one, for example {description.EXAMPLE}, or delete "
                        "images.npy to convert an image folder again")
    split = parts(folder, labels, given)
    classes = content.get("classes") or (spec.classes if spec else range(min(labels.max() + 1, len(labels))))
    if labels.min() < UNKNOWN or labels.max() >= len(classes) or len(classes) < 2:
        raise UserError(f"{folder / 'labels.npy'} holds labels {labels.min()} to {labels.max()} for {len(classes)} "
                        f"classes; give two classes or more (classes in {description.NAME}), and labels from 0 on (-1 = unknown) below "
                        "their number")
    names = description.class_names(folder, [str(each) for each in classes])
    mean, std = content.get("mean"), content.get("std")
    if not (mean and std):
        measured = (spec.mean, spec.std) if spec and len(spec.mean) == images.shape[3] else mean_std(
            images[next(slice(split[part][0], split[part][-1] + 1) for part in MEASURED if len(split[part]))])
        mean, std = mean or measured[0], std or measured[1]
    if not len(mean) == len(std) == images.shape[3] or min(std) <= 0:
        raise UserError(f"{folder / description.NAME} gives mean {mean} and std {std}; give {images.shape[3]} numbers "
                        "each, one a channel, std above 0, or leave both out")
    files = content.get("files", [])
    return Dataset(name, len(classes), names, tuple(mean), tuple(std), images, labels, split,
                   folder, tuple(files) if len(files) == len(images) else ())


def _from_registry(name: str, folder: Path) -> dict[str, np.ndarray]:
    """What labels.npy and images.npy are to hold for a registered dataset, from its loader."""
    if name not in DATASETS:
        raise UserError(f"dataset folder {folder} has neither images.npy nor images in train, val, test and field; "
                        "put either there, as dataset/README.md shows")
    try:
        images, labels = DATASETS[name].load(folder)
        if len(images) < DATASETS[name].count:
            raise ValueError(f"{len(images)} of {DATASETS[name].count} images are there, the rest was not unpacked")
    except Exception as error:  # urllib, tarfile, pickle, scipy and the disk raise types of their own
        raise UserError(f"dataset {name} is absent from {folder} and could not be downloaded ({reason_of(error)}); empty "
                        "that folder to try again, put images.npy and labels.npy there (dataset/README.md shows how), "
                        "or use DATASET=digits, which works without network") from error
    return {"labels.npy": labels, "images.npy": images}
