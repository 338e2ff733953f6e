"""Checkpoints: flat dicts that describe themselves, written whole or not at all, read without executing anything."""
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from hybridrepair.base import processes
from hybridrepair.base.errors import UserError
from hybridrepair.base.files import atomic

FOLDERS = "check_point", "checkpoint"  # of all checkpoints: ours, and that of the published code
OTHER_SETTINGS = "give its settings or another folder, or replace it by --force"
SHIPPED = "shipped"  # the entry of a checkpoint that comes with the project: in what form
EXPANDED = 2 ** 20  # bytes that a tensor may have beyond those of the file, by repeating some


def place(*parts: str) -> Path:
    """Where a checkpoint of a dataset lies: in check_point/, or in checkpoint/ where only that has it."""
    ours, published = (Path(folder, *parts) for folder in FOLDERS)
    return published if published.exists() and not ours.exists() else ours


def beside(path: Path, other: Path) -> Path:
    """`path`, or its name in the folder `other` where it neither is nor can be made."""
    return path if path.exists() or os.access(next(each for each in path.parents if each.exists()), os.W_OK) else other / path.name


def save(path: Path | str, content: dict) -> None:
    """Write a dict of tensors and plain values to `path`; equal contents make equal files. Of several processes the first does."""
    if processes.first():
        with atomic(path) as temporary:
            write(temporary, content)


def write(path: Path, content: dict) -> None:
    """What torch.save makes of a dict. OSError where there is no room."""
    with open(path, "wb") as file:  # given a path, torch would write its name into the file
        try:
            torch.save(content, file)
        except RuntimeError as error:  # its own, on top of the one that tells why
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def check_sums(path: Path) -> None:
    """ValueError where the ZIP archive in `path`, as torch.save writes it, is not what was written; torch itself reads no checksum.

    Files of torch.save before version 1.6 are no archives, and those written by set_crc32_options(False) have sums of 0: both pass.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED for each in members):  # may hold thousands of times its size
            raise ValueError("it is compressed, which torch.save never does")
        damaged = archive.testzip() if any(each.CRC for each in members) else None
    if damaged:
        raise ValueError(f"{damaged} does not have its checksum")


def load(path: Path | str) -> dict:
    """Read a dict of tensors and plain values onto the CPU. UserError if it is missing, damaged or something else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give the path of a file, or train one with train.sh")
    try:
        check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch warns of, an error follows here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here; all mean that the file is not what it should be
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign or "TorchScript" in str(error):
            held = foreign[1] if foreign else "TorchScript"
            raise UserError(f"checkpoint {path} cannot be read without running code: it holds {held}, not tensors and plain values "
                            "alone; load it where it was made, and save its weights by torch.save(model.state_dict(), PATH)") from error
        # torch's own first line advises to run the code in the file
        unpickling = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        reason = unpickling[1] if unpickling else str(error).strip()
        reason = reason.split("\n")[0].strip().rstrip(".")
        raise UserError(f"checkpoint {path} cannot be read: it is damaged, or no file of torch.save ({type(error).__name__}: "
                        f"{reason}); make it anew or give another file") from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, not a dict; save the weights by "
                        "torch.save(model.state_dict(), PATH)")
    return content


def equal(one: object, other: object) -> bool:
    """Whether plain values are equal; tensors among them, which have no single truth, are not."""
    try:
        return bool(one == other)
    except (RuntimeError, ValueError):
        return False


def shipped(path: Path) -> bool:
    """Whether `path` is a checkpoint that comes with the project, and can be read."""
    try:
        return SHIPPED in load(path)
    except UserError:
        return False


def made_with(path: Path, settings: dict, unsaid: Collection[str] = ()) -> dict | None:
    """The content of the checkpoint `path`, if its entry `settings` equals `settings`; None where there is no such file.

    Settings called `unsaid`, which earlier versions did not write, are taken to be the same where it does not tell them.
    UserError if it was made with other settings or cannot be read.
    """
    return processes.led(lambda: _made_with(path, settings, unsaid))


def _made_with(path: Path, settings: dict, unsaid: Collection[str]) -> dict | None:
    """The same, as this process finds it."""
    if not path.exists():
        return None
    try:
        content = load(path)
    except UserError as error:
        raise UserError(f"{error}, or replace it by --force") from error
    found = content.get("settings")
    if isinstance(found, dict):
        found = {name: settings[name] for name in unsaid} | found
    differ = difference(found, settings)
    if not differ:
        return content
    raise UserError(f"{path} exists and was made with {differ}; {OTHER_SETTINGS}")


def difference(found: object, settings: dict) -> str:
    """How the settings that were found differ from those given, in words; "" where they are equal."""
    if not isinstance(found, dict):
        return "unknown settings"
    return ", ".join(f"{name} {found.get(name, 'not given')} instead of {settings.get(name, 'not given')}"
                     for name in settings | found if not equal(found.get(name), settings.get(name)))


def fit(model: nn.Module, content: dict, path: Path | str) -> dict:
    """Load the state_dict in the entry `net` of `content`, which was read from `path`, into `model`; returns the other entries.

    UserError if the weights are not those of this model.
    """
    content = dict(content)
    weights = content.pop("net", None)
    if not is_state_dict(weights):
        raise UserError(f"checkpoint {path} has no state_dict in its entry 'net'; save it as {{'net': model.state_dict()}}")
    fit_weights(model, weights, path)
    return content


def is_state_dict(value: object) -> bool:
    """Whether `value` is a dict of tensors, by names."""
    return isinstance(value, dict) and all(isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in value.items())


def names_in(weights: dict, expected: dict) -> dict[str, str]:
    """The name of each of the weights in a model whose state_dict is `expected`: what wrappers have put before it is dropped."""
    if weights.keys() <= expected.keys():
        return {name: name for name in weights}
    return {name: re.sub(r"^(module\.|_orig_mod\.)+", "", name) for name in weights}


def missing_in(names: Collection[str], expected: dict) -> list[str]:
    """The names in a state_dict `expected` that are not among `names`, but for batch norm's counts: old weights have none."""
    return [name for name in expected if name not in names and not name.endswith("num_batches_tracked")]


def unusable(value: torch.Tensor, dtype: torch.dtype | None = None) -> str:
    """Why a tensor of a file cannot be a weight (of this type), "" where it can."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        return "is sparse, quantized, complex or without numbers"
    if value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), EXPANDED):
        return f"is {tuple(value.shape)}, more than the file holds"
    if value.is_floating_point() and not value.to(dtype or value.dtype).float().isfinite().all():
        return "has values that are not finite"
    return ""


def fit_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path | str, name: str | None = None) -> None:
    """Load a state_dict, which was read from `path`, into `model`, called `name`. A prefix of DataParallel or torch.compile is dropped.

    Counts of batch norm that it lacks stay as they are in the model. UserError if the weights are not those of this model, or cannot be
    used.
    """
    expected = model.state_dict()
    names = names_in(weights, expected)
    twice = [name for name, n in Counter(names.values()).items() if n > 1]
    weights = {names[name]: value for name, value in weights.items()}
    wrong = ([f"{name} is there twice" for name in twice]
             + [f"{name} is missing" for name in missing_in(weights, expected)]
             + [f"{name} is foreign" for name in weights if name not in expected]
             + [f"{name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}" for name in expected
                if name in weights and weights[name].shape != expected[name].shape])
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"checkpoint {path} does not fit {name or type(model).__name__} for this dataset: {wrong[0]}{more}; "
                        f"check the model, the number of classes and the channels")
    usable = {name: unusable(value, expected[name].dtype) for name, value in weights.items()
              if not (value.is_floating_point() and expected[name].isinf().any())}  # a mask of the network's own may be infinite
    useless = [f"{name} {why}" for name, why in usable.items() if why]
    if useless:
        more = f", and so have {len(useless) - 1} more" if len(useless) > 1 else ""
        raise UserError(f"checkpoint {path} cannot be used: {useless[0]}{more}; give a checkpoint of a training that went well")
    model.load_state_dict(expected | weights)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state_dict on the CPU, in the default memory format: what the entry `net` of a checkpoint holds."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
