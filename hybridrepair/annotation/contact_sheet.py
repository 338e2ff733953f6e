"""Contact sheets: the images to be annotated on a few pages, each with its rank and the predicted class under it."""
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.images.arrays import image_of
from hybridrepair.images.data import Dataset
from hybridrepair.images.pictures import upright

TILE, TEXT, COLUMNS, ROWS = 128, 20, 8, 10  # pixels of a tile's side and of the line under it; tiles in a row, rows on a page
FONT_SIZE, MARGIN = 13, 6
NAME = re.compile(r"contact_sheet(_\d+)?\.png")  # of the files that `names` names


def names(pages: int) -> list[str]:
    """File names of the pages."""
    return ["contact_sheet.png"] if pages == 1 else [f"contact_sheet_{page}.png" for page in range(1, pages + 1)]


def picture(dataset: Dataset, index: int) -> Image.Image:
    """An image as a person is to see it: from its file, or from its pixels where it has none, within a tile.

    UserError for a file that was damaged since it was converted.
    """
    file = Path(dataset.file(index))
    if dataset.files and file.is_file():
        try:
            return ImageOps.contain(upright(file), (TILE, TILE))
        except Exception as error:  # Pillow raises many types here; all mean an image that cannot be used
            raise UserError(f"image {file} cannot be read any more ({reason_of(error)}); put back the original, or convert the folder "
                            "again without it") from error
    pixels = image_of(dataset.images, index)
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    return ImageOps.contain(Image.fromarray(pixels).convert("RGB"), (TILE, TILE), Image.Resampling.NEAREST)


def write(folder: Path, dataset: Dataset, index: list[int], texts: list[str]) -> None:
    """Write the pages of the images at `index` of a dataset into a folder, one after the other."""
    for name, page in zip(names(-(-len(index) // (COLUMNS * ROWS))), sheets(dataset, index, texts)):
        page.save(folder / name)


def sheets(dataset: Dataset, index: list[int], texts: list[str]) -> Iterator[Image.Image]:
    """The pages that show the images at `index` of a dataset in this order, each with its text; one is held at a time."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), FONT_SIZE)
    each = COLUMNS * ROWS
    for first in range(0, len(index), each):
        here = list(zip(index[first:first + each], texts[first:first + each]))
        columns, rows = min(len(here), COLUMNS), -(-len(here) // COLUMNS)
        page = Image.new("RGB", (columns * (TILE + MARGIN) + MARGIN, rows * (TILE + TEXT + MARGIN) + MARGIN), "white")
        draw = ImageDraw.Draw(page)
        for place, (image, text) in enumerate(here):
            left = MARGIN + place % COLUMNS * (TILE + MARGIN)
            top = MARGIN + place // COLUMNS * (TILE + TEXT + MARGIN)
            shown = picture(dataset, image)
            page.paste(shown, (left + (TILE - shown.width) // 2, top + (TILE - shown.height) // 2))
            draw.text((left, top + TILE + 2), fitting(text, font), "black", font)
        yield page


def fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text on one line, cut with ... where it is wider than a tile."""
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(f"{text}…") > TILE:
        text = text[:-1]
    return f"{text}…"
