"""One image file as pixels: any format that Pillow reads, upright, RGB of 8 bits, of one size."""
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

SIZE_ALONE = {"MPEG"}  # formats of which Pillow reads no pixels, beside those that need a handler of another package


@cache
def extensions() -> frozenset[str]:
    """The endings of file names, in small letters with their dot, whose format Pillow reads."""
    known = Image.registered_extensions()  # loads all of Pillow's formats
    unread = {name for name, (opener, _) in Image.OPEN.items()
              if isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)} | SIZE_ALONE
    return frozenset(ending for ending, name in known.items() if name in Image.OPEN and name not in unread)


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
    """The first picture in a file, uint8 [size, size, 3]: turned as its EXIF orientation says, resized bilinearly.

    Raises what Pillow raises where it cannot be read whole, or is so large that it may be meant to exhaust the memory.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(rgb(image).resize((size, size), Image.Resampling.BILINEAR))
