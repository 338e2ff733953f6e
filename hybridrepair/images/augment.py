"""Batched augmentation on the device that holds the images: flip and crop for training, AugMix views for uncertainty and SSL.

Stored images are uint8 [N, H, W, C]; models read normalised float32 [N, C, H, W] in channels_last layout. In between,
the operations of AugMix work on grey levels held in float32 [N, C, H, W]. They agree with PIL, after which the published
pipeline is defined: table operations exactly, geometric ones within one grey level where float32 rounds otherwise.
Source: Hendrycks et al., "AugMix", ICLR 2020; here width 1, severity 3, and operations and levels drawn per image.
"""
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridrepair.images.randomness import uniform

OPERATIONS = ("autocontrast", "equalize", "posterize", "solarize",  # by table: one output for each grey level
              "rotate", "shear_x", "shear_y", "translate_x", "translate_y")  # by geometry: one source for each pixel
N_TABLE = 4
SEVERITY = 3.0
DEPTH = 3


class Normalise:
    """uint8 images [N, H, W, C] -> model input: ((x / 255) - mean) / std, float32 [N, C, H, W], channels_last."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"):
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device) * 255
        self.std = torch.tensor(std, dtype=torch.float32, device=device) * 255

    def __call__(self, images: Tensor) -> Tensor:
        return self.levels(images.permute(0, 3, 1, 2))

    def levels(self, levels: Tensor) -> Tensor:
        """The same for grey levels [N, C, H, W] in 0..255, of any dtype and layout."""
        shape = (1, -1, 1, 1)
        return ((levels - self.mean.view(shape)) / self.std.view(shape)).contiguous(memory_format=torch.channels_last)


def flip_and_crop(images: Tensor, key: int, index: Tensor, where: Tensor | None = None) -> Tensor:
    """Horizontal flip with probability 1/2, then a random crop of the image padded with black: 4 pixels at 32, in proportion.

    images uint8 [N, H, W, C]; index int64 [N] numbers the images for the draw; where bool [N] leaves the others as they
    are. Returns uint8 [N, H, W, C].
    """
    n, height, width, _ = images.shape
    device = images.device
    draw = uniform(key, index[:, None], torch.arange(3, device=device))
    flip = draw[:, 0] < 0.5
    padding = torch.tensor([height // 8, width // 8], device=device)
    shift = (draw[:, 1:] * (2 * padding + 1)).long() - padding
    if where is not None:
        flip, shift = flip & where, shift * where[:, None]
    y = torch.arange(height, device=device) + shift[:, :1]
    x = torch.arange(width, device=device) + shift[:, 1:]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    x = torch.where(flip[:, None], width - 1 - x, x)
    source = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    source += torch.arange(n, device=device)[:, None, None] * (height * width)
    return images.flatten(0, 2)[source] * inside[..., None]


# --- table operations: levels [N, C, H, W] -> table [N, C, 256]

def histogram(levels: Tensor) -> Tensor:
    """Pixels per grey level and channel: [N, C, H, W] -> int64 [N, C, 256]."""
    n, channels = levels.shape[:2]
    row = torch.arange(n * channels, device=levels.device).view(n, channels, 1) * 256
    place = (levels.flatten(2).long() + row).flatten()
    counts = torch.zeros(n * channels * 256, dtype=torch.int64, device=levels.device)
    return counts.scatter_add_(0, place, torch.ones_like(place)).view(n, channels, 256)


def autocontrast_table(counts: Tensor) -> Tensor:
    """Stretch the levels that occur to 0..255 (PIL.ImageOps.autocontrast without cutoff). counts [N, C, 256]."""
    level = torch.arange(256, dtype=torch.float64, device=counts.device)
    low = (counts > 0).to(torch.int8).argmax(-1, keepdim=True).double()
    high = 255 - (counts.flip(-1) > 0).to(torch.int8).argmax(-1, keepdim=True).double()
    span = (high - low).clamp(min=1)
    scale = torch.full_like(span, 255) / span  # torch computes 255 / span as 255 * (1 / span), one bit off
    table = (level * scale - low * scale).trunc().clamp(0, 255)
    return torch.where(high > low, table, level).float()


def equalize_table(counts: Tensor) -> Tensor:
    """Make the levels equally frequent (PIL.ImageOps.equalize). counts [N, C, 256]."""
    level = torch.arange(256, device=counts.device)
    last = (level * (counts > 0)).amax(-1, keepdim=True)
    step = (counts.sum(-1, keepdim=True) - counts.gather(-1, last)) // 255
    below = counts.cumsum(-1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table, level).float()


def posterize_table(bits: Tensor) -> Tensor:
    """Keep the leading `bits` of each level. bits int64 [N] -> [N, 1, 256]."""
    drop = (8 - bits)[:, None, None]
    return ((torch.arange(256, device=bits.device) >> drop) << drop).float()


def solarize_table(threshold: Tensor) -> Tensor:
    """Invert the levels from the threshold up. threshold int64 [N] -> [N, 1, 256]."""
    level = torch.arange(256, device=threshold.device)
    return torch.where(level < threshold[:, None, None], level, 255 - level).float()


def look_up(levels: Tensor, table: Tensor) -> Tensor:
    """Replace each level by its entry of the table: levels [N, C, H, W], table [N, C or 1, 256]."""
    table = table.expand(-1, levels.shape[1], -1)
    return table.gather(2, levels.flatten(2).long()).view_as(levels)


# --- geometric operations: an affine map [N, 2, 3] from output to source pixels, origin at the top left corner

def affine_matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    return torch.stack([a, b, c, d, e, f], dim=-1).unflatten(-1, (2, 3))


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """Counter-clockwise rotation about the centre (PIL.Image.rotate). degrees float64 [N] -> [N, 2, 3]."""
    angle = -degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return affine_matrix(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def warp(levels: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear resampling, black outside (PIL.Image.transform with AFFINE and BILINEAR).

    levels [N, C, H, W] whole numbers in 0..255; matrix float64 [N, 2, 3]: source = matrix @ (x + .5, y + .5, 1) for the
    output pixel (x, y). Neighbours beyond the border repeat it; the result is cut to a whole level, as PIL cuts it.
    """
    _, _, height, width = levels.shape
    x = torch.arange(width, dtype=torch.float64, device=levels.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=levels.device) + 0.5
    # grid_sample's coordinates: -1 and 1 are the centres of the first and the last pixel, so `reach` is the border
    size = torch.tensor([width, height], dtype=torch.float64, device=levels.device)
    reach = (size / (size - 1)).tolist()
    matrix = matrix * (2 / (size - 1)).view(2, 1)
    along_x = matrix[:, :, 0, None] * x + matrix[:, :, 2, None] - torch.tensor(reach, device=levels.device).view(2, 1)
    along_y = matrix[:, :, 1, None] * y
    grid = along_x.float().movedim(1, -1)[:, None] + along_y.float().movedim(1, -1)[:, :, None]  # [N, H, W, 2]
    warped = F.grid_sample(levels, grid, mode="bilinear", padding_mode="border", align_corners=True)
    outside = (grid[..., 0].abs() > reach[0]) | (grid[..., 1].abs() > reach[1])
    # float32 may fall just short of the whole level it stands for
    return (warped + 2e-3).floor_().masked_fill_(outside[:, None], 0)


# --- AugMix

def affine(operation: Tensor, level: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
    """Matrices [N, 2, 3] of geometric operations at levels L in [0.1, 3] and signs +-1; identity for table operations."""
    def of(name: str, amount: Tensor) -> Tensor:
        return torch.where(operation == OPERATIONS.index(name), amount * sign, 0.0)
    matrix = rotation(of("rotate", (level * 30 / 10).trunc()), height, width)
    matrix[:, 0, 1] += of("shear_x", level * 0.03)
    matrix[:, 1, 0] += of("shear_y", level * 0.03)
    matrix[:, 0, 2] += of("translate_x", (level * (width / 3) / 10).trunc())
    matrix[:, 1, 2] += of("translate_y", (level * (height / 3) / 10).trunc())
    return matrix


def tables(levels: Tensor, operation: Tensor, level: Tensor) -> Tensor:
    """Tables [N, C, 256] of table operations at levels L in [0.1, 3]; identity for geometric operations."""
    counts = histogram(levels)
    table = torch.arange(256, dtype=torch.float32, device=levels.device).expand(counts.shape)
    for name, candidate in (("autocontrast", autocontrast_table(counts)), ("equalize", equalize_table(counts)),
                            ("posterize", posterize_table(4 - (level * 4 / 10).long())),
                            ("solarize", solarize_table(256 - (level * 256 / 10).long()))):
        table = torch.where((operation == OPERATIONS.index(name))[:, None, None], candidate, table)
    return table


def _where(mask: Tensor, levels: Tensor, transform: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Replace levels[mask] by transform(levels[mask], arguments[mask] each); of all at once on a GPU, where asking would wait."""
    if levels.is_cuda:
        return torch.where(mask[:, None, None, None], transform(levels, *arguments), levels)
    index = mask.nonzero()[:, 0]
    levels[index] = transform(levels[index], *(argument[index] for argument in arguments))
    return levels


def augmix(images: Tensor, key: int, index: Tensor, views: int = 8) -> tuple[Tensor, Tensor]:
    """The augmented images of AugMix and their mixing weights, before mixing.

    images uint8 [N, H, W, C]; index int64 [N] numbers the images for the draw, which depends on (key, index, view) alone.
    Per view: depth d uniform in {1, 2, 3}, d operations with levels and signs, weight m uniform in [0, 1).
    Returns grey levels float32 [views, N, C, H, W] and weights float32 [views, N].
    """
    n, height, width, channels = images.shape
    device = images.device
    draw = uniform(key, index[:, None], torch.arange(views, device=device)[:, None, None],
                   torch.arange(2 + 3 * DEPTH, device=device)).flatten(0, 1)  # [views * N, 11]
    depth = 1 + (draw[:, 0] * DEPTH).long()
    levels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    levels = levels.repeat(views, 1, 1, 1)
    for step in range(DEPTH):
        operation, level, sign = draw[:, 2 + 3 * step:5 + 3 * step].unbind(1)
        operation = torch.where(step < depth, (operation * len(OPERATIONS)).long(), -1)
        level = 0.1 + level * (SEVERITY - 0.1)
        sign = torch.where(sign < 0.5, -1.0, 1.0).double()
        levels = _where((operation >= 0) & (operation < N_TABLE), levels,
                        lambda part, which, level: look_up(part, tables(part, which, level)), operation, level)
        levels = _where(operation >= N_TABLE, levels,
                        lambda part, which, level, sign: warp(part, affine(which, level, sign, height, width)), operation, level, sign)
    return levels.unflatten(0, (views, n)), draw[:, 1].float().view(views, n)


def views_of(images: Tensor, normalise: Normalise, key: int, index: Tensor, views: int = 8) -> Tensor:
    """The clean images and their AugMix views as model input: uint8 [N, H, W, C] -> float32 [(1 + views) * N, C, H, W].

    Clean images come first, then view 0 of all, view 1 of all, ... Mixing grey levels before normalising equals mixing
    normalised images, since normalising is affine.
    """
    augmented, weight = augmix(images, key, index, views)
    clean = images.permute(0, 3, 1, 2).float()
    mixed = torch.lerp(clean, augmented, weight[:, :, None, None, None])
    return normalise.levels(torch.cat([clean[None], mixed]).flatten(0, 1))
