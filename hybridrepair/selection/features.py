"""Features of images that regions, coreset and typiclust read: those of the model under repair, or of a MoCo v3 encoder."""
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError
from hybridrepair.base.progress import progress
from hybridrepair.images.augment import Normalise

MODEL = "model2test"
MOCO = "mocov3"


def extractor_path(fe: str, dataset: str) -> Path:
    """The MoCo v3 checkpoint that `--fe` names. UserError if it does not exist."""
    path = checkpoint.place(dataset, "ckpt_pretrained_mocov3", "checkpoint.pth.tar") if fe == MOCO else Path(fe)
    if not path.is_file():
        raise UserError(f"there is no feature extractor {path}; train one with DATASET={dataset} PRETRAIN_FE=1 sh train.sh, or "
                        f"use the features of the model under repair by --fe {MODEL} (FE={MODEL} in repair.sh)")
    return path


def kept(cache: Path, n: int) -> np.ndarray | None:
    """The features float32 [n, D] in `cache`; None where it is missing or damaged."""
    try:
        features = np.load(cache)
        whole = features.dtype == np.float32 and len(features) == n
        return features if whole and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3) else None
    except Exception:  # numpy raises many types here; all mean that there are no features in it
        return None


def keep(cache: Path, features: np.ndarray) -> None:
    """Write features to `cache`, or say why that is not possible: they are then computed again the next time."""
    try:
        with checkpoint.atomic(cache) as temporary, open(temporary, "wb") as file:
            np.save(file, features)
    except OSError as error:
        print(f"features are not kept for the next time: {cache} cannot be written ({error.strerror or error})", flush=True)


@torch.inference_mode()
def extract(path: Path, normalise: Normalise, images: Tensor, batch_size: int) -> Tensor:
    """Features float32 [N, D], L2-normalised, of images uint8 [N, H, W, C] by the MoCo v3 checkpoint `path`.

    Kept beside the checkpoint in a file that is named for the weights, the images, their shape and the normalisation.
    """
    made_of = [checkpoint.digest(path.read_bytes()), checkpoint.digest_of(images), *images.shape,
               *normalise.mean.tolist(), *normalise.std.tolist()]
    cache = path.with_name(f"features_{checkpoint.digest(repr(made_of).encode())}.npy")
    features = kept(cache, len(images))
    if features is None:
        from mymodels import moco  # here, because torchvision is slow to import and other features do without
        model = moco.load(path).to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a stub's gap
        batches = progress(images.split(batch_size), "features")
        features = torch.cat([model(normalise(batch)) for batch in batches]).cpu().numpy()
        keep(cache, features)
    return torch.from_numpy(features).to(images.device)
