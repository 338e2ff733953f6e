"""The arrays that a dataset is kept in, images.npy and labels.npy: written whole, read and checked, and their mean and std."""
import json
import math
from collections.abc import Iterator
from mmap import MADV_DONTNEED, mmap
from pathlib import Path

import numpy as np

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.files import atomic

UNKNOWN = -1  # the label of an image that has none
SIZE = 32  # pixels; images that do not come as arrays are resized to this side
MIN_SIZE = 8  # pixels; the models halve the side up to five times
MAX_SIZE = 512  # pixels that images can be resized to
CHUNK = 2 ** 22  # bytes of images that are looked at together


def unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({reason_of(error)}); make room, or choose another folder")


def save(path: Path, content: np.ndarray | dict) -> None:
    """Write an array as .npy, or a dict as JSON, to `path`, whole or not at all."""
    try:
        with atomic(path) as temporary, open(temporary, "wb") as file:
            np.save(file, content) if isinstance(content, np.ndarray) else file.write(json.dumps(content).encode())
    except OSError as error:
        raise unwritable(path, error) from error


def read(path: Path, memory_map: bool = False) -> np.ndarray:
    """The array in `path`. UserError if it is missing, truncated or something else; pickled objects are not read."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # which compares what the header claims with the size of the file
        return array if memory_map else np.array(array)
    except Exception as error:  # numpy raises many types here; all mean that the file is not what it should be
        raise UserError(f"{path} cannot be read as an array ({reason_of(error)}); make it anew (if it was converted: "
                        "delete it)") from error


def taken(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """A copy of the images [N, H, W, C] at int64 index [M], read some 4 MB at a time.

    `images[index]` of a memory map would leave every page that it read in memory, beside the copy.
    """
    copy, step = np.empty((len(index), *images.shape[1:]), images.dtype), step_of(images)
    for begin in range(0, len(index), step):
        copy[begin:begin + step] = images[index[begin:begin + step]]
        forget(images)
    return copy


def image_of(images: np.ndarray, index: int) -> np.ndarray:
    """A copy of the image [H, W, C] at `index`; what lies around it in a memory map does not stay in memory."""
    return taken(images, np.array([index]))[0]


def chunks_of(images: np.ndarray, index: np.ndarray) -> Iterator[np.ndarray]:
    """Copies of the images [N, H, W, C] at int64 index [M], some 4 MB at a time."""
    step = step_of(images)
    return (taken(images, index[begin:begin + step]) for begin in range(0, len(index), step))


def step_of(images: np.ndarray) -> int:
    """How many images [N, H, W, C] make a chunk."""
    return max(1, CHUNK // math.prod(images.shape[1:]))


def forget(images: np.ndarray) -> None:
    """Drop what was read of a memory map from the memory of the process; it is read again where it is needed."""
    base: object = images
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap):
        base.madvise(MADV_DONTNEED)


def mean_std(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 images [N, H, W, C], pixels in [0, 1].

    From whole sums of 4 MB at a time, which takes some 40 MB for any number of images.
    """
    channels = images.shape[3]
    total, squares = np.zeros(channels, np.uint64), np.zeros(channels, np.uint64)
    step = step_of(images)
    for begin in range(0, len(images), step):
        for channel, values in enumerate(np.moveaxis(images[begin:begin + step], 3, 0)):
            counts = np.bincount(values.ravel(), minlength=256).astype(np.uint64)
            level = np.arange(256, dtype=np.uint64)
            total[channel] += counts @ level
            squares[channel] += counts @ (level * level)
        forget(images)
    n = images.size // channels
    mean = [int(each) / n for each in total]
    # n squares - total^2 in whole numbers of any length: nothing is lost where they are nearly equal
    std = [(n * int(square) - int(each) ** 2) ** 0.5 / n for each, square in zip(total, squares)]
    return [each / 255 for each in mean], [max(each, 1) / 255 for each in std]  # a constant channel must not divide by 0
