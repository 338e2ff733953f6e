"""What a model believes: predictions, unsmoothness over test-time augmentation, and the threshold tau below which to trust it."""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybridrepair.base.device import images_at_once
from hybridrepair.base.finiteness import require_images
from hybridrepair.base.processes import add_up, begins_of, gathered
from hybridrepair.base.progress import progress
from hybridrepair.images.augment import Normalise, views_of

VIEWS = 8  # augmented views beside the clean image ("n_iters" of the published code)
NEIGHBOURS = 100  # train images that say how far a T2 image is from the train set
PAIRS = 2 ** 24  # of T2 and train images, compared at a time
TYPICAL = 1000  # T2 images at an average distance, over which tau is taken


@torch.inference_mode()
def predict(model: nn.Module, normalise: Normalise, images: Tensor, batch_size: int, features: bool = False) -> tuple[Tensor, ...]:
    """Logits float32 [N, C] and, where asked for, features float32 [N, D] of uint8 images [N, H, W, C], in eval mode.

    `batch_size` counts images of up to 32x32 pixels; larger ones go fewer at a time. A batch of one image is computed as two:
    libraries take another path for it, with other last bits. NotFinite where a number of them is not.
    """
    model.eval()
    broken = torch.zeros((), dtype=torch.int64, device=images.device)
    found: list[Tensor] = []  # filled in place: parts that are joined in the end would be held twice
    size = images_at_once(batch_size, *images.shape[1:3])
    for begin in progress(begins_of(len(images), size), "predict"):
        batch = images[begin:begin + size]
        parts = model(normalise(batch.expand(max(len(batch), 2), -1, -1, -1)))
        found = found or [part.new_empty(len(images), part.shape[1], dtype=torch.float32) for part in parts[:1 + features]]
        for whole, part in zip(found, parts):
            whole[begin:begin + size] = part[:len(batch)]
        broken += torch.stack([~part[:len(batch)].isfinite().all(1) for part in parts]).any(0).sum()
    add_up(broken)
    require_images(broken, len(images), "logits or features")
    return tuple(gathered(found, len(images), size, images.device))


def entropy(probs: Tensor) -> Tensor:
    """Entropy in bits over the last dimension, with 0 log 0 = 0."""
    return torch.special.entr(probs).sum(-1) / torch.log(torch.tensor(2.0, dtype=probs.dtype))


class Unsmoothness(NamedTuple):
    """What a model makes of the views of each image: three measures of how unsure it is, float64 [N], before normalisation."""
    mean_entropy: Tensor  # entropy of the mean prediction, bits: what "unsmoothness" means unless said otherwise
    variance: Tensor  # sum over classes of the unbiased variance over views
    single_entropy: Tensor  # entropy of the prediction for the clean image, bits
    guess: Tensor  # int64 [N]: the class of the mean prediction


def disagreement(probs: Tensor) -> Unsmoothness:
    """The three measures, and the guess, from softmax vectors float [1 + views, N, C], the clean image first."""
    mean = probs.mean(0)
    return Unsmoothness(entropy(mean), probs.var(0).sum(-1), entropy(probs[0]), mean.argmax(-1))


@torch.inference_mode()
def unsmoothness(model: nn.Module, normalise: Normalise, images: Tensor, key: int, batch_size: int,
                 views: int = VIEWS, title: str = "unsmoothness") -> Unsmoothness:
    """Unsmoothness of uint8 images [N, H, W, C]; `batch_size` counts model inputs of up to 32x32 pixels, 1 + views for an image.

    The same key gives the same views, whatever the batch size: measurements of two epochs compare. NotFinite where one is not.
    """
    model.eval()
    index = torch.arange(len(images), device=images.device)
    found: list[Tensor] = []  # filled in place: small results kept one by one would pin the large blocks freed between
    size = max(1, images_at_once(batch_size, *images.shape[1:3]) // (1 + views))
    for begin in progress(begins_of(len(images), size), title):
        batch = index[begin:begin + size]
        logits = model(views_of(images[batch], normalise, key, batch, views))[0]
        parts = disagreement(logits.double().softmax(-1).unflatten(0, (1 + views, -1)))
        found = found or [part.new_empty(len(images)) for part in parts]
        for whole, part in zip(found, parts):
            whole[batch] = part
    seen = Unsmoothness(*gathered(found, len(images), size, images.device))
    require_images((~seen.mean_entropy.isfinite()).sum(), len(images), "entropies")
    return seen


def normalised(values: Tensor) -> Tensor:
    """Values [N] >= 0 divided by their maximum, so that they lie in [0, 1]; zeros stay zeros."""
    largest = values.max()
    return torch.where(largest > 0, values / largest, torch.zeros_like(values))


def distance_to(train_logits: Tensor, logits: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Mean cosine distance of each row of logits [N, C] to its nearest rows of train_logits [M, C]: float64 [N]."""
    unit, train = (torch.nn.functional.normalize(x.double(), dim=1) for x in (logits, train_logits))
    k, rows = min(neighbours, len(train)), min(1024, max(1, PAIRS // len(train)))
    distance = torch.empty(len(unit), dtype=torch.float64, device=unit.device)  # a list would pin the blocks freed between
    for batch, out in zip(unit.split(rows), distance.split(rows)):
        out.copy_(1 - (batch @ train.T).topk(k, dim=1).values.mean(1))
    return distance


def tau_of(distance: Tensor, unsmoothness: Tensor, typical: int = TYPICAL) -> float:
    """The smoothness threshold: mean unsmoothness of the images whose distance to the train set is closest to average.

    distance, unsmoothness [N]: of T2 images, the latter normalised. Source: HybridRepair, method section on tau.
    """
    gap = (distance - distance.mean()).abs()
    return unsmoothness[gap.argsort(stable=True)[:typical]].mean().item()


class Tau(NamedTuple):
    """The two estimates of the smoothness threshold; None where there are no images for one."""
    auto: float | None  # from typical images of T2
    average: float | None  # mean unsmoothness of T2


def tau_estimates(train_logits: Tensor, logits: Tensor, unsmoothness: Tensor) -> Tau:
    """Both estimates from the logits [M, C] of the train set and [N, C] of T2, and the normalised unsmoothness [N] of T2."""
    return Tau(tau_of(distance_to(train_logits, logits), unsmoothness), unsmoothness.mean().item())
