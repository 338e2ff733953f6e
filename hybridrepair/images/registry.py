"""The datasets that have a name here: classes, mean, std, split, source, and what flags mean for each."""
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hybridrepair.images.arrays import SIZE, save

KEEP = 0.75  # fraction of val, and of train where the registry says nothing else, that is drawn for a biased set
Loader = Callable[[Path], tuple[np.ndarray, np.ndarray]]  # folder -> images, labels


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
            save(folder / "permutation.npy", np.concatenate([orders[0], orders[1] + counts[0]]))
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


def defaults_of(name: str) -> Defaults:
    """The defaults of a dataset, those of the published runs for a folder."""
    return DATASETS[name].defaults if name in DATASETS else Defaults()
