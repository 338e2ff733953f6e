"""Datasets: the one place where they are described (classes, mean, std, split, source), and the biased sets A, B and C.

    dataset = data.load("digits", "dataset")
    dataset.images[dataset.split["pool"]]      # uint8 [N, H, W, C]

Sources, in this order: two arrays, an image folder, the loader of the registry (dataset/README.md shows each).
"""
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hybridrepair.base.checkpoint import atomic
from hybridrepair.base.errors import UserError, reason_of

UNKNOWN = -1  # the label of an image that has none
SIZE = 32  # pixels; images that do not come as arrays are resized to this side
MIN_SIZE = 8  # pixels; the models halve the side up to five times
FOLDERS = {"train": "train", "val": "val", "test": "T2", "field": "pool"}  # subfolder of an image folder -> part
IMAGES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
KEEP = 0.75  # fraction of val, and of train where the registry says nothing else, that is drawn for a biased set
Loader = Callable[[Path], tuple[np.ndarray, np.ndarray]]  # folder -> images, labels
EXAMPLE = '{"split": {"train": [0, 400], "val": [400, 550], "T2": [550, 950], "pool": [950, null]}}'


def _stack(pairs: Iterable[tuple[Image.Image, int]], count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of `count` pairs: uint8 [count, size, size, 3], RGB, resized bilinearly, and int64 [count]."""
    images, labels = np.empty((count, size, size, 3), np.uint8), np.empty(count, np.int64)
    for i, (image, label) in enumerate(tqdm(pairs, "convert", count, unit=" images", leave=False, disable=None)):
        images[i] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        labels[i] = label
    return images, labels


def _torchvision(kind: str, train: dict, test: dict, seed: int | None = None) -> Loader:
    """The loader of a torchvision dataset: its train, then its test images, asked for by these arguments.

    With a seed both are permuted, one after the other by one RandomState(seed): image i was image permutation.npy[i] as stored.
    """
    def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
        from torchvision import datasets  # here, because arrays, folders and digits do without
        sets = [getattr(datasets, kind)(folder, download=True, **part) for part in (train, test)]
        counts = [len(each) for each in sets]
        random = np.random.RandomState(seed)
        orders = [np.arange(n) if seed is None else random.permutation(n) for n in counts]
        if seed is not None:
            _save(folder / "permutation.npy", np.concatenate([orders[0], orders[1] + counts[0]]))
        return _stack((each[i] for each, order in zip(sets, orders) for i in order), sum(counts))
    return load


def _digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 8x8 digits that come with scikit-learn, values 0 to 16, enlarged to 16x16; `folder` is not read."""
    from sklearn.datasets import load_digits  # here, because the other datasets do without
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _stack(((Image.fromarray(image), label) for image, label in zip(grey, digits.target)), len(grey), 16)


@dataclass(frozen=True)
class Defaults:
    """What flags mean for a dataset where they are not given: the published values, unless it has others."""
    model_number: int = 0  # 0, 1, 2: Model A, B, C
    lr: float = 0.1  # of the training of the model under repair
    n_epochs: int = 200
    p_budget: float = 1.0  # percent of the pool
    fe: str = "mocov3"  # features that regions are made in
    retrain_lr: float = 0.001
    retrain_epoch: int = 10


@dataclass(frozen=True)
class Spec:
    """What is known of a dataset before anything is read."""
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, pixels in [0, 1]
    std: tuple[float, ...]
    split: dict[str, tuple[int, int | None]]  # part -> [begin, end) in the stored order, None = to the end
    count: int  # images that `load` returns; fewer are a broken download
    load: Loader  # used when there are neither arrays nor an image folder
    keep: float = KEEP  # fraction of train that is drawn for a biased set
    defaults: Defaults = Defaults()


NUMERALS = tuple("0123456789")
# method and constants: Li, Chen and Xu, "HybridRepair", ISSTA 2022; original train set first, then the test set
DATASETS = {
    "cifar10": Spec(
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255), std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        split={"train": (0, 15000), "val": (15000, 20000), "T2": (20000, 25000), "pool": (25000, 60000)},
        count=60000, load=_torchvision("CIFAR10", {"train": True}, {"train": False})),
    "svhn": Spec(
        classes=NUMERALS, mean=(.5, .5, .5), std=(.5, .5, .5),
        split={"train": (0, 5000), "val": (5000, 10000), "T2": (10000, 20000), "pool": (20000, 99289)},
        count=99289, load=_torchvision("SVHN", {"split": "train"}, {"split": "test"})),
    "gtsrb": Spec(  # stored sorted by class, hence the permutation; torchvision takes a half-unpacked archive for whole
        classes=tuple(map(str, range(43))), mean=(.3337, .3064, .3171), std=(.2672, .2564, .2629),
        split={"train": (0, 2500), "val": (2500, 5000), "T2": (5000, 10000), "pool": (10000, None)}, keep=0.9,
        count=39270, load=_torchvision("GTSRB", {"split": "train"}, {"split": "test"}, seed=1)),
    "stl10": Spec(
        classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        mean=(.4914, .4822, .4465), std=(.2471, .2435, .2616),
        split={"train": (0, 2000), "val": (2000, 3000), "T2": (3000, 7000), "pool": (7000, 13000)}, keep=0.9,
        count=13000, load=_torchvision("STL10", {"split": "train"}, {"split": "test"})),
    "digits": Spec(  # mean and std measured on its train part
        classes=NUMERALS, mean=(.3055, .3055, .3055), std=(.3241, .3241, .3241),
        split={"train": (0, 400), "val": (400, 550), "T2": (550, 950), "pool": (950, None)},
        # a train set with hardly an image of one class, a rate that suits 300 images, and a budget that can do something
        defaults=Defaults(model_number=2, lr=0.01, n_epochs=100, p_budget=5.0, fe="model2test", retrain_lr=0.01),
        count=1797, load=_digits),
}
# by number of classes: how likely an image of each class is drawn for Model B and C (Model A: all alike)
CLASS_WEIGHTS: dict[int, dict[str, tuple[float, ...]]] = {
    10: {"B": (.77132064, .02075195, .63364823, .74880388, .49850701, .22479665, .19806286, .76053071, .16911084,
               .08833981),
         "C": (.68535982, .95339335, .00394827, .51219226, .81262096, .61252607, .72175532, .29187607, .91777412,
               .71457578)},
    43: {"B": (.77216212, .48228356, .30406492, .91053677, .26909998, .28909198, .35131627, .97013941, .86837562,
               .98054692, .45033286, .94458961, .23112605, .55372691, .5409784, .29452659, .92728947, .52738229,
               .43067916, .99193101, .28424188, .09312185, .2133312, .54796805, .60172179, .7000594, .83156195,
               .86163102, .20134217, .13067, .17746337, .93035245, .0492987, .7938788, .82524376, .31146463, .99611558,
               .79276013, .20267169, .61159357, .38950843, .43659622, .53056465),
         "C": (.51164872, .04032396, .55956398, .22991837, .14744547, .23634622, .9156621, .69681508, .28457819,
               .69327906, .1678602, .80257126, .38308791, .75513418, .12873831, .0545106, .43259534, .22819396,
               .54183765, .16439994, .08213382, .14668465, .3599913, .81741937, .3417227, .51652706, .03966325,
               .37644059, .87615667, .84230859, .99723261, .14831995, .17685309, .62291064, .46543785, .9342646,
               .28247046, .87653412, .46566508, .16578366, .92455307, .39519726, .32898436)},
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in memory-mapped form; `split` maps train, val, T2 and pool to indices into images and labels."""
    name: str
    num_classes: int
    class_names: list[str]
    mean: tuple[float, ...]  # per channel, pixels in [0, 1]
    std: tuple[float, ...]
    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int64 [N], -1 = unknown
    split: dict[str, np.ndarray]  # int64
    folder: Path = Path()
    files: tuple[str, ...] = ()  # [N], relative to folder; empty when the images came as arrays

    def file(self, index: int) -> str:
        """The path of the file that image `index` was read from; "" for a dataset that was not an image folder."""
        return str(self.folder / self.files[index]) if self.files else ""


def defaults_of(name: str) -> Defaults:
    """The defaults of a dataset, those of the published runs for a folder."""
    return DATASETS[name].defaults if name in DATASETS else Defaults()


def load(name: str, root: Path | str) -> Dataset:
    """The dataset in `root`/`name`, converted to arrays there first where it is not yet.

    UserError: unknown name; absent and not downloadable; damaged array, image or dataset.json; parts that do not fit.
    """
    folder = Path(root) / name
    if name not in DATASETS and not (Path(name).name == name and folder.is_dir()):
        raise UserError(f"dataset {name} is unknown; give one of {', '.join(DATASETS)}, or a folder's name in {root}")
    description, files, path = _description(folder), list(_files(folder)), folder / "images.npy"
    size, there, stale = description.get("size", SIZE), path.exists(), False
    if there and files and "files" in description:  # made from these subfolders, but perhaps before they changed
        stale = files != description["files"] or (size,) != _read(path, memory_map=True).shape[1:2]
    if not there or stale:
        contents = _from_folders(folder, files, size) if files else _from_registry(name, folder)
        if stale:  # goes first and comes last: where images.npy is, the other files are of the same making
            path.unlink(missing_ok=True)
        for file, content in contents.items():
            _save(folder / file, content)
    return _open(name, folder)


def _open(name: str, folder: Path) -> Dataset:
    """The dataset whose arrays lie in `folder`, checked; what dataset.json says goes before the registry."""
    description, spec = _description(folder), DATASETS.get(name)
    images, labels = _read(folder / "images.npy", memory_map=True), _read(folder / "labels.npy")
    if images.dtype != np.uint8 or images.ndim != 4 or min(images.shape[1:3]) < MIN_SIZE or images.shape[3] < 1:
        raise UserError(f"{folder / 'images.npy'} is {images.dtype} {list(images.shape)}; save the images as uint8 "
                        f"[N, H, W, C] with H and W of {MIN_SIZE} or more")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(f"{folder / 'labels.npy'} is {labels.dtype} {list(labels.shape)}; save one int64 label for "
                        f"each of the {len(images)} images")
    labels, split = labels.astype(np.int64), description.get("split") or (spec.split if spec else None)
    if split is None:
        raise UserError(f"there is no split in {folder / 'dataset.json'}; write one, for example {EXAMPLE}, or delete "
                        "images.npy to convert an image folder again")
    split = _parts(folder, labels, split)
    classes = description.get("classes") or (spec.classes if spec else range(min(labels.max() + 1, len(labels))))
    if labels.min() < -1 or labels.max() >= len(classes) or len(classes) < 2:
        raise UserError(f"{folder / 'labels.npy'} holds labels {labels.min()} to {labels.max()} for {len(classes)} "
                        "classes; give two classes or more, and labels from 0 on (-1 = unknown) below their number")
    mean, std = description.get("mean"), description.get("std")
    if not (mean and std):
        mean, std = (spec.mean, spec.std) if spec and len(spec.mean) == images.shape[3] else _mean_std(images[split["train"]])
    if not len(mean) == len(std) == images.shape[3] or min(std) <= 0:
        raise UserError(f"{folder / 'dataset.json'} gives mean {mean} and std {std}; give {images.shape[3]} numbers "
                        "each, one a channel, std above 0, or leave both out")
    files = description.get("files", [])
    return Dataset(name, len(classes), [str(each) for each in classes], tuple(mean), tuple(std), images, labels, split,
                   folder, tuple(files) if len(files) == len(images) else ())


def _parts(folder: Path, labels: np.ndarray, split: dict[str, tuple[int, int | None]]) -> dict[str, np.ndarray]:
    """The indices of each part. UserError if one is empty, too long, overlaps another, or lacks labels it needs."""
    parts, previous, last = {}, "", 0
    for part, (begin, end) in sorted(split.items(), key=lambda item: item[1][0]):
        end = len(labels) if end is None else end
        if not begin < end <= len(labels):
            wrong = "is empty" if begin == end else f"is images {begin} to {end}, but there are {len(labels)}"
            raise UserError(f"part {part} of dataset {folder} {wrong}; give it images (train, val, T2 and pool are the "
                            "folders train, val, test and field), or another split in dataset.json")
        if begin < last:
            raise UserError(f"parts {previous} and {part} of dataset {folder} overlap; fix the split in dataset.json")
        if part != "pool" and labels[begin:end].min() < 0:
            raise UserError(f"part {part} of dataset {folder} has {(labels[begin:end] < 0).sum()} images without a "
                            "label; label them (in an image folder by class subfolders), or move them to the pool")
        parts[part], previous, last = np.arange(begin, end), part, end
    return parts


def _mean_std(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of images [N, H, W, C], pixels in [0, 1]."""
    channels = np.moveaxis(images, 3, 0)
    std = [max(float(each.std()), 1) / 255 for each in channels]  # at least 1: a constant channel must not divide by 0
    return [float(each.mean()) / 255 for each in channels], std


def _description(folder: Path) -> dict:
    """The entries of dataset.json, {} without one. UserError if it is not JSON, or an entry is not of its type."""
    def list_of(*kinds: type) -> Callable[[object], bool]:
        return lambda value: type(value) is list and {type(each) for each in value} <= {*kinds}

    holds = {"classes": list_of(str), "files": list_of(str), "mean": list_of(int, float), "std": list_of(int, float),
             "size": lambda value: type(value) is int and value >= MIN_SIZE,
             "split": lambda value: set(value) == set(FOLDERS.values()) and all(
                 type(begin) is int and begin >= 0 and type(end) in (int, type(None)) for begin, end in value.values())}
    path = folder / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for key, value in content.items():
            if key in holds and not holds[key](value):
                raise ValueError(f"{key} is {str(value)[:60]}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be used ({reason_of(error)}); write it like {EXAMPLE}") from error
    return content


def _files(folder: Path) -> Iterator[str]:
    """The images in the subfolders of the parts, relative to `folder`, sorted; hidden and other files are skipped."""
    for part in FOLDERS:
        found = [Path(base, file).relative_to(folder) for base, _, names in os.walk(folder / part, followlinks=True)
                 for file in names if Path(file).suffix.lower() in IMAGES]
        yield from sorted(file.as_posix() for file in found if not any(each.startswith(".") for each in file.parts))


def _from_folders(folder: Path, files: list[str], size: int) -> dict[str, np.ndarray | dict]:
    """What dataset.json, labels.npy and images.npy are to hold for an image folder."""
    paths = [file.split("/") for file in files]  # part / class, if any / ... / name
    classes = sorted({path[1] for path in paths if path[0] == "train" and len(path) > 2})
    for path in paths:
        if len(path) > 2 and path[1] not in classes:
            raise UserError(f"{folder / path[0] / path[1]} is none of the classes in {folder / 'train'}; rename it, or "
                            f"put images whose class is unknown directly into {folder / 'field'}")
    labels = np.array([classes.index(path[1]) if len(path) > 2 else -1 for path in paths])
    counts = [sum(path[0] == part for path in paths) for part in FOLDERS]
    ends = np.cumsum(counts).tolist()
    split = {part: (end - count, end) for part, count, end in zip(FOLDERS.values(), counts, ends)}
    train = _parts(folder, labels, split)["train"]  # checked before the images, which take longer

    def pairs() -> Iterator[tuple[Image.Image, int]]:
        for file, label in zip(files, labels):
            try:
                yield Image.open(folder / file).convert("RGB"), label
            except Exception as error:  # Pillow raises many types here; all mean an image that cannot be used
                raise UserError(f"image {folder / file} cannot be read ({reason_of(error)}); replace it") from error

    images, labels = _stack(pairs(), len(files), size)
    mean, std = _mean_std(images[train])
    description = {"classes": classes, "split": split, "mean": mean, "std": std, "size": size, "files": files}
    return {"dataset.json": description, "labels.npy": labels, "images.npy": images}


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


def _save(path: Path, content: np.ndarray | dict) -> None:
    """Write an array as .npy, or a dict as JSON, to `path`, whole or not at all."""
    try:
        with atomic(path) as temporary, open(temporary, "wb") as file:
            np.save(file, content) if isinstance(content, np.ndarray) else file.write(json.dumps(content).encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({reason_of(error)}); make room, or choose another folder") from error


def _read(path: Path, memory_map: bool = False) -> np.ndarray:
    """The array in `path`. UserError if it is missing, truncated or something else."""
    try:
        array = np.load(path, mmap_mode="r" if memory_map else None)
        _ = array.dtype  # an .npz has none
    except Exception as error:  # numpy raises many types here; all mean that the file is not what it should be
        raise UserError(f"{path} cannot be read as an array ({reason_of(error)}); make it anew (if it was converted: "
                        "delete it)") from error
    return array


def _weights(labels: np.ndarray, num_classes: int, model_number: int, folder: Path) -> np.ndarray:
    """How likely each image is drawn, by its class: float64, from the table, or drawn once and saved."""
    if model_number == 0:
        return np.ones(len(labels))
    if num_classes in CLASS_WEIGHTS:
        return np.array(CLASS_WEIGHTS[num_classes]["ABC"[model_number]])[labels]
    path = folder / "class_weights.npy"
    if not path.exists():
        # a seed whose first few weights are far apart, so that two or three classes are biased too
        _save(path, np.random.default_rng([0, model_number]).random(num_classes))
    weights = _read(path)
    if (weights.shape != (num_classes,) or weights.dtype.kind != "f"
            or not 0 <= weights.min() <= weights.max() < np.inf or weights[labels].max() == 0):
        raise UserError(f"{path} does not hold a weight for each of {num_classes} classes; delete it to draw them anew")
    return weights[labels].astype(np.float64)


def biased_subset(dataset: Dataset, model_number: int, folder: Path | str) -> dict[str, np.ndarray]:
    """The train and val images of Model A, B or C (0, 1, 2): {"train": ..., "val": ...}, sorted int64.

    They index the train and val part, not images. Drawn once without replacement, in proportion to the weights, with a
    seed of their own, and saved as `folder`/<model_number>/train.npy and val.npy; read when there.
    UserError: no such model number; a saved set that does not fit the part.
    """
    if model_number not in (0, 1, 2):
        raise UserError(f"model number {model_number} does not exist; give 0, 1 or 2 for Model A, B or C")
    folder, subset = Path(folder) / str(model_number), {}
    keep = {"train": DATASETS[dataset.name].keep if dataset.name in DATASETS else KEEP, "val": KEEP}
    for number, part in enumerate(keep):
        path, count = folder / f"{part}.npy", len(dataset.split[part])
        if not path.exists():
            weights = _weights(dataset.labels[dataset.split[part]], dataset.num_classes, model_number, folder)
            size = min(max(int(keep[part] * count), 1), int(np.count_nonzero(weights)))
            rng = np.random.default_rng([model_number, number])
            _save(path, np.sort(rng.choice(count, size, replace=False, p=weights / weights.sum())))
        indices = _read(path)
        if (indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices) or indices.min() < 0
                or indices.max() >= count or len(np.unique(indices)) < len(indices)):
            raise UserError(f"{path} does not hold different indices from 0 to {count - 1} into the {part} part of "
                            f"{dataset.name}; delete it to draw anew, and train the model again")
        subset[part] = indices.astype(np.int64)
    return subset
