"""HybridRepair on what is in memory: arrays, tensors or torch datasets, and a module.

    from hybridrepair import repair, select

    chosen = select(model, field, budget=50, train=(images, labels))
    answers = [ask(field[i]) for i in chosen.annotated]                  # a class number each
    result = repair(model, field, chosen, answers, train=(images, labels), test=(test_images, test_labels))
    result.before, result.after                                          # accuracy on the test images in percent
    torch.save(result.model.state_dict(), "repaired.pt")

Images are uint8 [N, H, W, C] or [N, C, H, W], or float of the same shapes in [0, 1]; or a torch Dataset that gives such images, or
PIL images, alone or as (image, label). `model` takes what mean and std make of them, [N, C, H, W], and returns logits, or a tuple of
which they are the first; its features are the input of the last layer that gives the classes, or of `feature_layer`. Further settings
are the flags of repair.py by the same names (`solution="mcp"`, `retrain_lr=0.01`, `manualSeed=20`); features are the model's own
unless `fe` names others, and tau and weights are those of repair.sh.
Features of a pretrained network are kept in check_point/field/features; nothing else is written. What belongs to the process is set as
the entries set it, and stays: cuDNN computes repeatably, and under glibc freed memory is kept for the next call.
Whatever cannot be used raises hybridrepair.base.errors.UserError.
"""
import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hybridrepair.annotation.oracle import Oracle
from hybridrepair.base import digests
from hybridrepair.base.device import on_machine
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.finiteness import blamed, require_weights
from hybridrepair.images.arrays import UNKNOWN, mean_std
from hybridrepair.images.data import Dataset
from hybridrepair.images.randomness import SEED
from hybridrepair.run.flags import repair_parser
from hybridrepair.run.models import Models, recipe_of
from hybridrepair.run.repair import perform
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.settings import annotates
from hybridrepair.selection.solutions import SOLUTIONS, Selection
from hybridrepair.training import baseline
from hybridrepair.training.passes import Labelled
from mymodels.sources import featured, logits_of

PARTS = ("train", "T2", "pool")
GREY = {"1", "L"}  # of PIL images: those that have one channel
# flags that are about files and processes: here all is in memory
OF_FILES = {"dataset", "data_path", "img_size", "skip_bad", "model2test_arch", "model2test_path", "model_number", "p_budget", "labels",
            "labelled", "manifest", "allow_missing", "save_path", "save_every", "force", "check", "report_to", "no_replay",
            "step", "latent_space_plot", "tcp", "num_workers"}
Images = Any  # an array, a tensor, or a torch Dataset
Pairs = Any  # (images, class numbers), or a torch Dataset of such pairs


@dataclass(frozen=True)
class Repaired:
    """What a repair came to."""
    model: nn.Module  # a repaired copy of the one that was given
    before: float | None  # accuracy in percent on the test images, before repair; None without test images
    after: float | None  # and after the last epoch
    fixed: int | None  # test images that are right only after it
    broken: int | None  # and only before it
    labels: np.ndarray  # int64 [N], annotated and propagated class numbers of the field images, -1 for none
    epochs: list[dict]  # a record for each
    row: dict  # all else that results.csv would have


def select(model: nn.Module, field: Images, budget: int, *, train: Pairs | None = None, test: Pairs | None = None,
           classes: Sequence[str] | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
           verbose: bool = False, **settings) -> Selection:
    """Which `budget` field images are to be annotated, in order of choice (`annotated` int64 [B], indices into `field`), and whose
    labels others take (`source` int64 [N], the annotated image, -1 for none).

    Train and test images, of which labels are not read, serve the estimate of tau. mean and std (per channel, pixels in [0, 1]) are
    those that the model was trained with; without them those of the train images are taken, or of the field.
    """
    with quiet(verbose):
        return InMemory(model, field, budget, train, test, classes, mean, std, settings).selection


def repair(model: nn.Module, field: Images, selection: Selection, answers: Sequence[int], *, train: Pairs | None = None,
           test: Pairs | None = None, classes: Sequence[str] | None = None, mean: Sequence[float] | None = None,
           std: Sequence[float] | None = None, verbose: bool = False, **settings) -> Repaired:
    """Repair a copy of `model` by the answers (class numbers [B]) to what `select` chose, given the same other arguments.

    Without train images nothing is replayed (--no_replay); test images are only used to report accuracy and, unlabelled, for tau.
    """
    with quiet(verbose):
        task = InMemory(model, field, len(selection.annotated), train, test, classes, mean, std, settings)
        task.answer(selection, array_of(answers))
        outcome = perform(task, lambda data: None)
    repaired = copy.deepcopy(model)
    repaired.load_state_dict(outcome.model.state_dict())
    return Repaired(repaired, outcome.row["acc_before"], outcome.row.get("acc_after"), outcome.row.get("fixed"),
                    outcome.row.get("broken"), selection.labels(outcome.answers), outcome.epochs, outcome.row)


def quiet(verbose: bool) -> contextlib.AbstractContextManager:
    """A block whose lines are printed only if `verbose`."""
    return contextlib.nullcontext() if verbose else contextlib.redirect_stdout(io.StringIO())


def flags_of(settings: dict[str, Any], train: bool):
    """The flags of repair.py that the settings mean, as it parses them. UserError for one that does not exist or has a wrong value."""
    def complain(message: str) -> NoReturn:
        raise UserError(message)
    parser = repair_parser("")
    parser.error = complain  # type: ignore[method-assign]
    known = {action.dest for action in parser._actions} - OF_FILES - {"help"}
    for name in settings:
        if name not in known:
            raise UserError(f"{name} is no setting here; give some of {', '.join(sorted(known))}")
    usual = {"fe": "model2test", "u_weight": True, "auto_tao": "tao" not in settings}
    words = ["--dataset", "field", "--p_budget", "100"] + ["--no_replay"] * (not train)
    for name, value in (usual | settings).items():
        words += [f"--{name}"] if value is True else [] if value is False or value is None else [f"--{name}", str(value)]
    return parser.parse_args(words)


# --- arrays

def array_of(values: Any) -> np.ndarray:
    """An array of what may be a tensor, on whatever device."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    return np.asarray([array_of(each) for each in values] if isinstance(values, (list, tuple)) else values)


def pixels(images: Images, what: str) -> np.ndarray:
    """Images as uint8 [N, H, W, C]. UserError if they are nothing of the kind."""
    if not isinstance(images, (np.ndarray, Tensor)):
        images = stacked([image for image, _ in items(images)], what)
    array = array_of(images)
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or not len(array):
        raise UserError(f"the {what} images are {list(array.shape)}; give [N, H, W, C] or [N, C, H, W] with 1 or 3 channels")
    if array.dtype.kind == "f":
        if not 0 <= array.min() <= array.max() <= 1:
            raise UserError(f"the {what} images are floats from {array.min():g} to {array.max():g}; give them in [0, 1], as they are "
                            "before normalisation")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"the {what} images are {array.dtype}; give uint8, or floats in [0, 1]")
    return np.ascontiguousarray(array)


def items(images: Any) -> list[tuple[Any, Any]]:
    """The images of a torch Dataset with their labels, None for one that has none."""
    each = (images[i] for i in range(len(images)))
    return [(item[0], item[1]) if isinstance(item, (tuple, list)) else (item, None) for item in each]


def stacked(images: list, what: str) -> np.ndarray:
    """Images of one shape as an array. UserError if they differ."""
    arrays = [array_of(image if not isinstance(image, Image.Image) else image.convert("L" if image.mode in GREY else "RGB"))
              for image in images]
    arrays = [array[..., None] if array.ndim == 2 else array for array in arrays]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise UserError(f"the {what} images have {len(shapes)} shapes; give images of one size")
    return np.stack(arrays)


def labelled(given: Pairs | None, what: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and labels int64 [N], None for none. UserError if they do not match."""
    if given is None:
        return None
    if isinstance(given, tuple) and len(given) == 2:
        images, labels = given
    else:
        found = items(given)
        images, labels = stacked([image for image, _ in found], what), [label for _, label in found]
    array, numbers = pixels(images, what), array_of(labels)
    if numbers.shape != array.shape[:1] or numbers.dtype.kind not in "iu":
        raise UserError(f"the {what} labels are {numbers.dtype} {list(numbers.shape)}; give a class number for each of the "
                        f"{len(array)} images")
    return array, numbers.astype(np.int64)


class InMemory(Scenario):
    """A scenario of arrays and a module, of which nothing is read from files or written to them; the features of `fe` are kept."""

    def __init__(self, model: nn.Module, field: Images, budget: int, train: Pairs | None, test: Pairs | None,
                 classes: Sequence[str] | None, mean: Sequence[float] | None, std: Sequence[float] | None, settings: dict[str, Any]):
        pool, parts = pixels(field, "field"), {"train": labelled(train, "train"), "T2": labelled(test, "test")}
        if not 0 < budget <= len(pool):
            raise UserError(f"a budget of {budget} is not within the {len(pool)} field images")
        self.given, n_classes = under_contract(model, pool.shape[1:], settings.get("feature_layer"))
        self.kind = type(model).__name__
        names = [str(name) for name in classes] if classes is not None else [str(number) for number in range(n_classes)]
        if len(names) != n_classes:
            raise UserError(f"there are {len(names)} class names, and the model gives {n_classes} classes")
        args = flags_of(settings, train is not None)
        super().__init__(args, dataset_of(pool, parts, names, mean, std))
        if not annotates(args):
            raise UserError("sel_u_data without sel_l_data has nothing annotated, and so nothing to select; leave it out, or give both")
        self.budget = budget
        self.oracle = Oracle(self.dataset.labels[self.dataset.split["pool"]], budget, "the answers")

    def _find_model(self) -> str:
        return digests.of_tensors(*self.given.state_dict().values())

    def answer(self, selection: Selection, answers: np.ndarray) -> None:
        """Take what was chosen, and the answers to it. UserError where they do not fit."""
        if answers.shape != selection.annotated.shape or answers.dtype.kind not in "iu" or len(selection.source) != self.pool.n:
            raise UserError(f"{answers.dtype} {list(answers.shape)} are no answers to {len(selection.annotated)} images chosen from "
                            f"{len(selection.source)}, of {self.pool.n} field images; give a class number for each")
        if (selection.regions is not None) != SOLUTIONS[self.args.solution].by_region:
            raise UserError(f"these images were not chosen by {self.args.solution}; give repair the settings that select was given")
        if SOLUTIONS[self.args.solution].taught and selection.propagated.any():
            raise UserError(f"{self.args.solution} lets no image take the label of another, as these do; give repair the settings that "
                            "select was given")
        if len(answers) and not 0 <= answers.min() <= answers.max() < self.dataset.num_classes:
            raise UserError(f"the answers are {answers.min()} to {answers.max()}; the model gives classes 0 to "
                            f"{self.dataset.num_classes - 1}")
        labels = np.full(self.pool.n, UNKNOWN)
        labels[selection.annotated] = answers
        self.oracle = Oracle(labels, self.budget, "the answers")
        self.asked = selection

    @property
    def source(self) -> str:
        return f"the {self.kind}"

    @property
    def name(self) -> str:
        return f"{self.kind} on {self.pool.n} field images"

    @cached_property
    def train(self) -> Labelled:
        return Labelled.of(self.dataset, self.dataset.split["train"], self.device)

    @cached_property
    def models(self) -> Models:
        return ModelsInMemory(self.given, self.args, self.weights, self.dataset, self.device, self.normalise, self.train,
                              self.accuracy_of)


class ModelsInMemory(Models):
    """A module in its forms, of which none is kept in a file."""

    def __init__(self, given: nn.Module, args, weights: str, *more):
        super().__init__(args, Path(), weights, *more)
        self.given = given

    def _loaded(self) -> nn.Module:
        with blamed("the model: ", "give another"):
            require_weights(self.given)
        return on_machine(copy.deepcopy(self.given), self.args, self.device)

    @cached_property
    def tuned(self) -> nn.Module:
        if self.args.no_replay:
            return self.raw
        model = self._loaded()
        baseline.train_on(model, self.normalise, self.train, recipe_of(self.args, "baseline", SEED))
        return model


def under_contract(model: nn.Module, shape: tuple[int, ...], layer: str | None) -> tuple[nn.Module, int]:
    """A copy of the module that returns (logits, features) for images of `shape` (H, W, C), and its number of classes.

    Features are the input of `layer`, without one of the last layer that gives the classes. UserError if it has none.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"the model is a {type(model).__name__}; give a torch module")
    model = copy.deepcopy(model).cpu().eval()
    height, width, channels = shape
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(2, channels, height, width))
    except Exception as error:  # a module raises anything where it cannot take its input
        raise UserError(f"the model cannot take images of {channels} x {height} x {width} (channels, height, width; "
                        f"{reason_of(error)})") from error
    logits = logits_of(outputs)
    n_classes = logits.shape[-1] if isinstance(logits, Tensor) and logits.ndim else 0
    return featured(model, type(model).__name__, n_classes, (channels, height, width), layer), n_classes


def dataset_of(pool: np.ndarray, parts: dict[str, tuple[np.ndarray, np.ndarray] | None], names: list[str],
               mean: Sequence[float] | None, std: Sequence[float] | None) -> Dataset:
    """The field, train and test images as a dataset. UserError where they do not go together."""
    images, labels, split, end = [], [], {"val": np.arange(0)}, 0
    for part in PARTS:
        array, numbers = (pool, np.full(len(pool), UNKNOWN)) if part == "pool" else parts[part] or (pool[:0], np.arange(0))
        if array.shape[1:] != pool.shape[1:]:
            raise UserError(f"the {part} images are {list(array.shape[1:])}, and those of the field {list(pool.shape[1:])}")
        if part != "pool" and len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
            raise UserError(f"the {part} labels are {numbers.min()} to {numbers.max()}; the model gives classes 0 to {len(names) - 1}")
        images.append(array)
        labels.append(numbers)
        split[part], end = np.arange(end, end + len(array)), end + len(array)
    if mean is None or std is None:
        measured = mean_std(images[0] if parts["train"] else pool)
        mean, std = measured[0] if mean is None else mean, measured[1] if std is None else std
    if not (len(mean) == len(std) == pool.shape[3] and 0 <= min(mean) <= max(mean) <= 1 and 0 < min(std) <= max(std) <= 1):
        raise UserError(f"mean {list(mean)} and std {list(std)} are not {pool.shape[3]} numbers each, one a channel, of pixels in "
                        "[0, 1], with std above 0; divide those of pixels up to 255 by 255")
    return Dataset("field", len(names), names, tuple(mean), tuple(std), np.concatenate(images), np.concatenate(labels), split)
