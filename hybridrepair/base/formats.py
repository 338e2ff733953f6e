"""Formats of checkpoints that were made elsewhere: read without running their code, and written again as they were found.

A bare state_dict, a dict with one in its entry `net`, `state_dict` or `model`, or a .safetensors file.
"""
import copy
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.files import atomic

ENTRIES = "net", "state_dict", "model"  # of a state_dict; the first is ours
SAFETENSORS = ".safetensors"
NAMES = "classes", "class_names", "class_to_idx"  # entries that say what the classes are


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, as it was read."""
    path: Path
    content: dict  # all of the file
    entry: str | None  # where the state_dict is in it; None: it is the state_dict
    metadata: dict[str, str]  # of safetensors

    @property
    def weights(self) -> dict[str, Tensor]:
        """The state_dict, under the names of the file."""
        return self.content if self.entry is None else self.content[self.entry]

    @property
    def others(self) -> dict[str, Any]:
        """What stands beside the state_dict."""
        return self.metadata if self.entry is None else {name: value for name, value in self.content.items() if name != self.entry}

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes in the order of the outputs, None where the file has none."""
        for entry in NAMES:
            found = self.others.get(entry)
            if isinstance(found, str):
                try:
                    found = json.loads(found)
                except (ValueError, RecursionError):
                    found = [each.strip() for each in found.split(",")]
            if isinstance(found, dict):
                try:
                    found = _in_order(found)
                except TypeError as error:  # what does not compare
                    raise UserError(f"checkpoint {self.path} does not number the classes in its entry {entry!r} ({reason_of(error)}); "
                                    "save it without that entry, or with one that does") from error
            if isinstance(found, (list, tuple)) and found:
                return [str(each) for each in found]
        return None


def _in_order(classes: dict) -> list:
    """The names in a dict from index to name, where JSON makes the index a text, or from name to index."""
    if all(isinstance(index, int) or isinstance(index, str) and index.isdecimal() and isinstance(name, str)
           for index, name in classes.items()):
        return [classes[index] for index in sorted(classes, key=int)]
    return sorted(classes, key=classes.__getitem__)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a file, on the CPU. UserError if it is missing, damaged or holds no state_dict."""
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    content = checkpoint.load(path)
    entry = next((name for name in ENTRIES if checkpoint.is_state_dict(content.get(name))), None)
    if entry is None and not checkpoint.is_state_dict(content):
        raise UserError(f"checkpoint {path} is no state_dict, and has none in its entry {', '.join(map(repr, ENTRIES))}; save it by "
                        "torch.save(model.state_dict(), PATH)")
    return Checkpoint(path, content, entry, {})


def _read_safetensors(path: Path) -> Checkpoint:
    """The checkpoint in a .safetensors file. UserError as for `read`, or if the package is missing."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give the path of a file")
    safetensors = _safetensors(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            return Checkpoint(path, {name: file.get_tensor(name) for name in file.keys()}, None, file.metadata() or {})
    except Exception as error:  # the package raises its own types
        raise UserError(f"checkpoint {path} cannot be read ({reason_of(error)}); make it anew or give another file") from error


def _safetensors(path: Path):
    """The package that reads and writes `path`. UserError if it is missing."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(f"{path} needs the package safetensors ({reason_of(error)}); pip install safetensors, or save the weights "
                        "by torch.save(model.state_dict(), PATH)") from error
    return safetensors


def fit(model: nn.Module, found: Checkpoint, name: str) -> None:
    """Load the state_dict of a checkpoint into the model called `name`. UserError if it is that of another."""
    checkpoint.fit_weights(model, found.weights, found.path, name)


def check_classes(found: Checkpoint, class_names: list[str]) -> None:
    """UserError if the file names its classes, and not as the dataset does, in that order.

    A dataset that has numbers in place of names says nothing of the order.
    """
    theirs = found.class_names
    numbers = class_names == [str(n) for n in range(len(class_names))]
    if theirs is None or numbers and len(theirs) == len(class_names) and not all(name.isdecimal() for name in theirs):
        return
    if len(theirs) != len(class_names):
        raise UserError(f"checkpoint {found.path} is of {len(theirs)} classes, {', '.join(theirs[:5])} ..., but the dataset has "
                        f"{len(class_names)}; give the dataset the classes of the model")
    for n, (one, other) in enumerate(zip(theirs, class_names)):
        if one != other:
            raise UserError(f"class {n} is {one!r} in checkpoint {found.path}, but {other!r} in the dataset; give the dataset's "
                            "classes in the order of the model's")


def write(path: Path, found: Checkpoint, model: nn.Module, **others: Any) -> None:
    """Write the weights of `model` to `path` as the file `found` has its own: under its names, with its types and what stands beside.

    Of `others` those entries are replaced that the file has already, if it is of our format. Further state_dicts of the same model,
    such as a moving average of its weights, become the repaired weights too: who reads those would be given the old model otherwise.
    Weights that were halved to come with the project are written as they are, so that the file has the accuracy that was measured.
    """
    ours, shipped = checkpoint.weights_of(model), checkpoint.SHIPPED in found.content

    def filled(old: dict[str, Tensor]) -> dict[str, Tensor]:
        names, new = checkpoint.names_in(old, ours), copy.copy(old)  # of its own type, in its own order
        new.update({name: ours[names[name]] if shipped else ours[names[name]].to(value.dtype) for name, value in old.items()})
        return new

    def is_whole(names: Collection[str]) -> bool:
        return set(names) <= set(ours) and not checkpoint.missing_in(names, ours)

    weights = filled(found.weights)
    if path.suffix == SAFETENSORS:
        with atomic(path) as temporary:
            # not its save_file, whose error on a full disk is none of Python's
            temporary.write_bytes(_safetensors(path).torch.save(weights, found.metadata or None))
    elif found.entry is None:
        checkpoint.save(path, weights)
    else:
        replaced = {name: value for name, value in others.items() if name in found.content and found.entry == ENTRIES[0]}
        averages = {name: filled(value) for name, value in found.content.items()
                    if checkpoint.is_state_dict(value) and is_whole(checkpoint.names_in(value, ours).values())}
        kept = {name: value for name, value in found.content.items() if name != checkpoint.SHIPPED}
        checkpoint.save(path, kept | replaced | averages | {found.entry: weights})
