"""Features of images that regions are made in: those of the model under repair, or of a MoCo v3 encoder."""
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import checkpoint
from augment import Normalise
from errors import UserError
from uncertainty import progress

MODEL = "model2test"
MOCO = "mocov3"


def extractor_path(fe: str, dataset: str) -> Path:
    """The MoCo v3 checkpoint that `--fe` names. UserError if it does not exist."""
    path = Path(f"check_point/{dataset}/ckpt_pretrained_mocov3/checkpoint.pth.tar" if fe == MOCO else fe)
    if not path.is_file():
        raise UserError(f"there is no feature extractor {path}; train one with DATASET={dataset} PRETRAIN_FE=1 sh train.sh, or "
                        f"use the features of the model under repair by --fe {MODEL} (FE={MODEL} in repair.sh)")
    return path


@torch.inference_mode()
def extract(path: Path, normalise: Normalise, images: Tensor, batch_size: int) -> Tensor:
    """Features float32 [N, D], L2-normalised, of images uint8 [N, H, W, C] by the MoCo v3 checkpoint `path`.

    Kept beside the checkpoint in a file that is named for the images, the weights and the normalisation.
    """
    made_of = b"".join([checkpoint.digest(images.cpu().numpy().tobytes()).encode(), path.read_bytes(),
                        normalise.mean.cpu().numpy().tobytes(), normalise.std.cpu().numpy().tobytes()])
    cache = path.with_name(f"features_{checkpoint.digest(made_of)}.npy")
    if cache.exists():
        return torch.from_numpy(np.load(cache)).to(images.device)
    from mymodels import moco
    model = moco.load(path).to(images.device, memory_format=torch.channels_last).eval()
    features = torch.cat([model(normalise(batch)).float() for batch in progress(images.split(batch_size), "features")])
    with checkpoint.atomic(cache) as temporary, open(temporary, "wb") as file:
        np.save(file, features.cpu().numpy())
    return features
