"""One image file as pixels: any format that Pillow reads, upright, RGB of 8 bits, of one size."""
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps

# formats that are not read: of the first Pillow reads no pixels, and the second are programs, which it has Ghostscript run
REFUSED = {"MPEG", "EPS"}


@cache
def formats() -> tuple[str, ...]:
    """The formats that are read: those of Pillow, but REFUSED and those that need a handler of another package."""
    Image.init()
    return tuple(name for name, (opener, _) in Image.OPEN.items() if name not in REFUSED
                 and not (isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)))


@cache
def extensions() -> frozenset[str]:
    """The endings of file names, in small letters with their dot, whose format is read."""
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats())


@contextmanager
def opened(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """The image in a file, whatever its name says it is. Raises what Pillow raises where it cannot be read whole, or is so large that
    it may be meant to exhaust the memory.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of it reads, or else refuses by an error
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=formats()) as image:
            yield image


def upright(file: Path | BinaryIO) -> Image.Image:
    """The first picture in a file as a person is to see it: turned as its EXIF orientation says, RGB of 8 bits. Raises as `opened`."""
    with opened(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return rgb(image)


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of more than 8 bits (modes I and F) in 8, black to white of their type becoming 0 to 255, rounded.

    ValueError where the type does not say what is white: 32-bit numbers, and floats beyond [0, 1].
    """
    values = np.asarray(image)
    if image.mode == "F":
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"float pixels from {low:g} to {high:g}, of which only 0 to 1 are known to be black to white: save it "
                             "with 8 or 16 bits, or divided by what is white")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # these two hold 16 bits in it
        raise ValueError("whole numbers of 32 bits or with a sign, whose white is not known: save it with 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))[0]  # TIFF's BitsPerSample: cameras write 12 too
    white = 2 ** bits - 1
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white, as scanners of films write
        values = white - values
    return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8))


def rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB of 8 bits; what is transparent shows white behind it."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = eight_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def pixels(path: Path, size: int) -> np.ndarray:
    """The first picture in a file, uint8 [size, size, 3]: upright, resized bilinearly. Raises as `opened`."""
    return np.asarray(upright(path).resize((size, size), Image.Resampling.BILINEAR))
