"""Batches that go through a network in parts, so that memory stays bounded: gradients add up, batch norm sees a part at a time."""
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from hybridrepair.images.augment import Normalise, views_of


def parts_of(rows: int, micro_batch: int) -> int:
    """How many parts to cut a batch into, so that none has more than `micro_batch` rows, nor one alone, as batch statistics need."""
    return max(1, min(-(-rows // micro_batch), rows // 2))


def spaced_parts_of(rows: int, micro_batch: int) -> int:
    """How many parts of rows at equal distances: `parts_of`, made odd.

    Views of one image are a power of two apart, so that an odd number of parts brings as many images into each as it has room for.
    """
    parts = parts_of(rows, micro_batch)
    return parts if parts % 2 else parts + 1 if parts < rows // 2 else parts - 1


@contextmanager
def counted_once(model: nn.Module, parts: int) -> Iterator[None]:
    """Let batch norm's running statistics take in the parts of one batch with the weight of that batch."""
    momenta: dict[nn.modules.batchnorm._BatchNorm, float] = {}
    if parts > 1:
        momenta = {module: module.momentum for module in model.modules()
                   if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None}
    for norm, momentum in momenta.items():
        norm.momentum = 1 - (1 - momentum) ** (1 / parts)
    try:
        yield
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def write_views(out: Tensor, images: Tensor, normalise: Normalise, key: int, index: Tensor, micro_batch: int) -> None:
    """Write views_of(images, normalise, key, index) into `out` [(1 + views) * N, C, H, W], about `micro_batch` at a time."""
    n, views = len(images), len(out) // len(images) - 1
    parts = max(1, min(-(-len(out) // micro_batch), n))
    places = out.unflatten(0, (1 + views, n)).tensor_split(parts, 1)
    for some, number, place in zip(images.tensor_split(parts), index.tensor_split(parts), places):
        place.copy_(views_of(some, normalise, key, number, views).unflatten(0, (1 + views, -1)))
