"""Distorted views of images, which MoCo v3 teaches an encoder to recognise; batched on the device that holds the images.

A view is, in this order: a random resized crop (bilinear) and a horizontal flip; with probability 0.8 brightness, contrast,
saturation and hue, always in this order, where the published code shuffles the four; greyscale with probability 0.2;
Gaussian blur, of view 0 always, of view 1 with probability 0.1; solarisation of view 1 with probability 0.2. Between the
steps grey levels stay float32, where PIL rounds them. The published blur, of 0.1 to 2 pixels, is for images of 224: here it
is in proportion to the side, and so next to nothing at 32. Images without three channels have no hue.
Source: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, and its code.
"""
import math

import torch
from torch import Tensor

from hybridrepair.images.augment import Normalise
from hybridrepair.images.randomness import uniform

SCALE = 0.2  # least area of a crop, as a fraction of the image's
RATIO = 4 / 3  # largest aspect ratio of a crop; the least is its inverse
TRIES = 10  # candidates for a crop, of which the first that fits is taken
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
JITTERED, GREY = 0.8, 0.2  # probabilities
BLURRED, SOLARISED = (1.0, 0.1), (0.0, 0.2)  # probabilities in view 0 and 1
SIGMA = (0.1 / 224, 2.0 / 224)  # of the blur, as a fraction of the shorter side
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's


def boxes(draw: Tensor, height: int, width: int) -> Tensor:
    """Crops of torchvision's RandomResizedCrop: uniform draws [N, 2 * TRIES + 2] -> top, left, height, width, int64 [N, 4]."""
    area = height * width * (SCALE + (1 - SCALE) * draw[:, :TRIES])
    ratio = torch.exp((2 * draw[:, TRIES:2 * TRIES] - 1) * math.log(RATIO))
    heights, widths = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    first = ((heights <= height) & (widths <= width)).to(torch.int8).argmax(1, keepdim=True)
    size = torch.cat([heights.gather(1, first).clamp(1, height), widths.gather(1, first).clamp(1, width)], dim=1)
    corner = draw[:, -2:] * (torch.tensor([height, width], device=draw.device) - size + 1)
    return torch.cat([corner, size], dim=1).long()


def resampling(begin: Tensor, length: Tensor, mirror: Tensor, size: int) -> Tensor:
    """Matrices [N, size, size] that stretch pixels begin..begin + length of a line over all of it, bilinearly, or mirrored."""
    pixel = torch.arange(size, device=begin.device)
    target = torch.where(mirror[:, None], size - 1 - pixel, pixel)
    begin, length = begin[:, None], length[:, None]
    source = (begin + (target + 0.5) * length / size - 0.5).clamp(begin, begin + length - 1)
    return (1 - (source[:, :, None] - pixel).abs()).clamp(min=0).float()


def smoothing(sigma: Tensor, size: int) -> Tensor:
    """Matrices [N, size, size] that blur a line with a Gaussian of sigma [N] pixels, cut at its ends; 0 leaves it alone."""
    pixel = torch.arange(size, device=sigma.device)
    weight = torch.exp(-0.5 * ((pixel[:, None] - pixel) / sigma.float().clamp(min=1e-3)[:, None, None]) ** 2)
    return weight / weight.sum(2, keepdim=True)


def along(rows: Tensor, levels: Tensor, columns: Tensor) -> Tensor:
    """Levels [N, C, H, W] with matrices applied down the columns [N, H, H] and along the rows [N, W, W]."""
    return rows[:, None] @ levels @ columns[:, None].transpose(2, 3)


def luma(levels: Tensor) -> Tensor:
    """Brightness of levels [N, C, H, W] -> [N, 1, H, W]; without three channels, their mean."""
    if levels.shape[1] != 3:
        return levels.mean(1, keepdim=True)
    return (levels * torch.tensor(LUMA, device=levels.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def turn_hue(levels: Tensor, turn: Tensor) -> Tensor:
    """Colours [N, 3, H, W] with their hue turned by [N] of the circle, value and saturation kept (HSV hexcone)."""
    red, green, blue = levels.unbind(1)
    value = levels.amax(1)
    chroma = value - levels.amin(1)
    scale = 1 / chroma.clamp(min=1e-6)
    sixth = torch.where(value == red, (green - blue) * scale,
                        torch.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale))
    sixth = sixth + 6 * turn[:, None, None]
    place = (sixth[:, None] + torch.tensor([5., 3., 1.], device=levels.device).view(1, 3, 1, 1)) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(place, 4 - place).clamp(0, 1)


def jitter(levels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """Levels [N, C, H, W] with factors and a turn of hue, each [N], applied in this order as by torchvision's ColorJitter."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation))
    levels = (levels * brightness).clamp(0, 255)
    levels = torch.lerp(luma(levels).mean((2, 3), keepdim=True), levels, contrast).clamp(0, 255)
    if levels.shape[1] != 3:
        return levels
    levels = torch.lerp(luma(levels), levels, saturation).clamp(0, 255)
    return turn_hue(levels, turn)


def distort(images: Tensor, key: int, index: Tensor, view: int) -> Tensor:
    """View 0 or 1 of uint8 images [N, H, W, C]: grey levels float32 [N, C, H, W] in 0..255.

    index int64 [N] numbers the images for the draw, which depends on (key, index, view) alone.
    """
    height, width = images.shape[1:3]
    draw = uniform(key, index[:, None], torch.tensor(view, device=images.device),
                   torch.arange(2 * TRIES + 13, device=images.device))
    draw, crop = draw[:, :11], draw[:, 11:]

    def spread(column: int, amount: float, where: Tensor) -> Tensor:
        """Uniform from -amount to amount, 0 off the mask: float32 [N]."""
        return ((2 * draw[:, column] - 1) * amount * where).float()

    top, left, tall, wide = boxes(crop, height, width).unbind(1)
    flip = draw[:, 0] < 0.5
    levels = along(resampling(top, tall, torch.zeros_like(flip), height), images.permute(0, 3, 1, 2).float(),
                   resampling(left, wide, flip, width))

    jittered = draw[:, 1] < JITTERED
    levels = jitter(levels, 1 + spread(2, BRIGHTNESS, jittered), 1 + spread(3, CONTRAST, jittered),
                    1 + spread(4, SATURATION, jittered), spread(5, HUE, jittered))
    levels = torch.where((draw[:, 6] < GREY).view(-1, 1, 1, 1), luma(levels), levels)

    sigma = (SIGMA[0] + draw[:, 8] * (SIGMA[1] - SIGMA[0])) * min(height, width) * (draw[:, 7] < BLURRED[view])
    levels = along(smoothing(sigma, height), levels, smoothing(sigma, width))
    solarised = (draw[:, 9] < SOLARISED[view]).view(-1, 1, 1, 1)
    return torch.where(solarised & (levels >= 128), 255 - levels, levels)


def pair(images: Tensor, normalise: Normalise, key: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """Both views of uint8 images [N, H, W, C] as model input, each float32 [N, C, H, W]; arguments as in `distort`."""
    first, second = (normalise.levels(distort(images, key, index, view)) for view in (0, 1))
    return first, second
