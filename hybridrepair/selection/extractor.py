"""Feature extractors that `--fe` names: a MoCo v3 encoder, or a pretrained network that is used as it is.

A function of the user's, `--fe FILE.py:FUNCTION`, returns the network: a module whose output is the features [N, D], or a map
[N, D, H, W] of which the mean over space is taken, or a pair (logits, features). How it wants to see images is told by its
attributes `size` (pixels a side), `mean` and `std` (three numbers each, pixels in [0, 1]); where it has none, by those that
ImageNet networks are commonly trained with.
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base import checkpoint, digests
from hybridrepair.base.builders import builder, code_of, is_builder
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.images.arrays import MIN_SIZE
from hybridrepair.images.augment import Normalise

MODEL = "model2test"
MOCO = "mocov3"
TIMM = "timm:"
SIZE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet networks
PIXELS = 2 ** 22  # in a batch: a network that enlarges its images takes fewer at a time


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that gives features of images, and how it sees them."""
    name: str  # what stands in the settings of a run
    made_of: str  # digest of weights, and of all else beside the images that the features depend on
    folder: Path  # where features are kept for the next time
    network: Callable[[], nn.Module]
    prepare: Callable[[Tensor, Normalise], Tensor]  # images uint8 [N, H, W, C], and the dataset's normalisation, to the network's input
    read: Callable[[object], Tensor]  # the network's output to features float32 [N, D], L2-normalised
    batch: int = 2 ** 31  # images in a forward pass at most


def extractor_of(fe: str, dataset: str) -> Extractor | None:
    """The extractor that `--fe` names for a dataset, None for the features of the model under repair. UserError if there is none."""
    if fe == MODEL:
        return None
    kept = checkpoint.place(dataset) / "features"
    if fe.startswith(TIMM):
        return pretrained(fe, timm_network(fe.removeprefix(TIMM)), kept)
    if is_builder(fe):
        build = builder(fe)
        try:
            network = build()
        except Exception as error:  # the user's code may raise anything
            remedy = "install what it imports" if isinstance(error, ModuleNotFoundError) else "it is called without arguments"
            raise UserError(f"{fe} cannot build its network ({reason_of(error)}); {remedy}") from error
        return pretrained(f"builder:{Path(fe).name}", network, kept, code_of(fe))
    return encoder(checkpoint.place(dataset, "ckpt_pretrained_mocov3", "checkpoint.pth.tar") if fe == MOCO else Path(fe), dataset)


def encoder(path: Path, dataset: str) -> Extractor:
    """The MoCo v3 encoder in the checkpoint `path`, which sees images normalised as the dataset's are. UserError if there is none."""
    if path.suffix == ".py":
        raise UserError(f"--fe {path} names no function; give FILE.py:FUNCTION, where the function returns the network")
    if not path.is_file():
        raise UserError(f"there is no feature extractor {path}; train one with DATASET={dataset} PRETRAIN_FE=1 sh train.sh, use the "
                        f"features of the model under repair by --fe {MODEL} (FE={MODEL} in repair.sh), or those of a pretrained "
                        f"network by --fe {TIMM}NAME or FILE.py:FUNCTION")
    made_of = digests.of(path.read_bytes())

    def network() -> nn.Module:
        from mymodels import moco  # here, because torchvision is slow to import and other features do without
        return moco.load(path)

    return Extractor(f"{MOCO}:{made_of}", made_of, path.parent, network, lambda images, normalise: normalise(images),
                     lambda output: cast(Tensor, output))


def pretrained(name: str, network: object, folder: Path, code: bytes = b"") -> Extractor:
    """A pretrained network as it is, with its own size of images and normalisation; `code` is what a user's file says of it.

    UserError if it is not one, or tells nonsense.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} gave a {type(network).__name__}, not a torch module; let it return the network")
    wants: dict[str, Any] = {each: getattr(network, each, usual) for each, usual in (("size", SIZE), ("mean", MEAN), ("std", STD))}
    try:
        size = int(wants["size"])
        mean, std = (torch.tensor(wants[each], dtype=torch.float32).view(1, 3, 1, 1) for each in ("mean", "std"))
        if size < MIN_SIZE or not (mean.isfinite().all() and std.isfinite().all() and std.min() > 0):
            raise ValueError
    except (TypeError, ValueError, RuntimeError) as error:
        told = ", ".join(f"{each} {value}" for each, value in wants.items())
        raise UserError(f"the network of {name} tells {told}; give pixels a side, and three numbers each with std above 0") from error

    def prepare(images: Tensor, normalise: Normalise) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if pixels.shape[1] == 2:
            raise UserError(f"the network of {name} takes images of three channels, and these have two; use --fe {MODEL}")
        pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
        return (pixels - mean.to(pixels.device)) / std.to(pixels.device)

    seen = f"{size} {mean.flatten().tolist()} {std.flatten().tolist()} {network}"
    tensors = [value for value in network.state_dict().values() if isinstance(value, Tensor)]
    made_of = digests.of(seen.encode(), code, digests.of_tensors(*tensors).encode())
    return Extractor(f"{name}:{made_of}", made_of, folder, lambda: network, prepare, features_of, max(1, PIXELS // size ** 2))


def timm_network(name: str) -> nn.Module:
    """A pretrained network of timm without its classifier, and what it wants of images. UserError if it cannot be had."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"--fe {TIMM}{name} needs the package timm; pip install timm, or choose other features") from error
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # unknown names, and whatever a download may end in
        raise UserError(f"timm cannot give the pretrained network {name} ({reason_of(error)}); check its name with timm.list_models() "
                        "and the connection, which its first use needs") from error
    wants = timm.data.resolve_model_data_config(network)
    network.size, network.mean, network.std = wants["input_size"][-1], wants["mean"], wants["std"]
    return network


def features_of(output: object) -> Tensor:
    """Features float32 [N, D], L2-normalised, from what a pretrained network gave. UserError if there are none in it."""
    found = output[1] if isinstance(output, tuple) and len(output) == 2 else output
    if isinstance(found, Tensor) and found.ndim == 4:
        found = found.mean((2, 3))
    if not (isinstance(found, Tensor) and found.ndim == 2 and found.is_floating_point()):
        told = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"the network of --fe gave {told}; features are a float tensor [N, D] (or [N, D, H, W], or (logits, features))")
    return F.normalize(found.float(), dim=1)
