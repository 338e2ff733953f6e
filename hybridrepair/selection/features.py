"""Features of images by an extractor, kept on the disk for the next time."""
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hybridrepair.base import digests, processes, seals
from hybridrepair.base.device import images_at_once
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.files import atomic
from hybridrepair.base.progress import progress
from hybridrepair.base.version import code_version
from hybridrepair.images.augment import Normalise
from hybridrepair.selection.extractor import Extractor


def kept(cache: Path, n: int) -> np.ndarray | None:
    """The features float32 [n, D] in `cache`; None where it is missing or damaged."""
    try:
        if not seals.is_sealed(cache):
            return None
        features = np.load(cache)
        return features if features.dtype == np.float32 and features.ndim == 2 and len(features) == n else None
    except Exception:  # numpy raises many types here; all mean that there are no features in it
        return None


def keep(cache: Path, features: np.ndarray) -> None:
    """Write features to `cache`, or say why that is not possible: they are then computed again the next time."""
    try:
        with atomic(cache) as temporary:
            with open(temporary, "wb") as file:
                np.save(file, features)
            seals.seal(temporary)
    except OSError as error:
        print(f"features are not kept for the next time: {cache} cannot be written ({error.strerror or error})", flush=True)


def placed(extractor: Extractor, device: torch.device) -> nn.Module:
    """The network of an extractor, ready to look at images on a device."""
    return extractor.network().eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a stub's gap


@torch.inference_mode()
def features_by(extractor: Extractor, network: nn.Module, normalise: Normalise, images: Tensor) -> Tensor:
    """Features [N, D] of images uint8 [N, H, W, C] by the network of an extractor. UserError where it cannot take them."""
    prepared = extractor.prepare(images, normalise)
    try:
        output = network(prepared)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a network raises anything where it cannot take its input
        raise UserError(f"the network of {extractor.name} cannot take images of {' x '.join(map(str, prepared.shape[1:]))} in float32 "
                        f"(channels, height, width; {reason_of(error)}); let its attribute size tell the pixels a side that it is made "
                        "for, if it is that") from error
    return extractor.read(output)


@torch.inference_mode()
def extract(extractor: Extractor, normalise: Normalise, images: Tensor, batch_size: int) -> Tensor:
    """Features float32 [N, D], L2-normalised, of images uint8 [N, H, W, C].

    `batch_size` counts images of up to 32x32 pixels. Kept in a file that is named for the extractor, the images, their shape and the
    normalisation, and for the version of the code. UserError where they are not finite.
    """
    made_of = [extractor.made_of, digests.of_tensors(images), *images.shape, *normalise.mean.tolist(), *normalise.std.tolist(),
               *code_version().values()]
    cache = extractor.folder / f"features_{digests.of(repr(made_of).encode())}.npy"
    features = processes.led(lambda: kept(cache, len(images)))
    if features is None:
        network = placed(extractor, images.device)
        size = min(images_at_once(batch_size, *images.shape[1:3]), extractor.batch)
        found: list[Tensor] = []  # filled in place: parts that are joined in the end would be held twice
        for begin in progress(processes.begins_of(len(images), size), "features"):
            part = features_by(extractor, network, normalise, images[begin:begin + size]).cpu()
            found = found or [part.new_empty(len(images), part.shape[1])]
            found[0][begin:begin + size] = part
        network.cpu()  # a pretrained network is held until the repair has ended
        features = processes.gathered(found, len(images), size, torch.device("cpu"))[0].numpy()
        if not np.isfinite(features).all():
            raise UserError(f"the features of {extractor.name} are not finite; check its weights and its normalisation")
        if processes.first():
            keep(cache, features)
    return torch.from_numpy(features).to(images.device)
