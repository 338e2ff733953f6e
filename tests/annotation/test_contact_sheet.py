"""contact_sheet.py: each image has its tile and its text, whatever its size and however its class is called."""
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from conftest import field_of
from hybridrepair.annotation.contact_sheet import COLUMNS, MARGIN, ROWS, TEXT, TILE, names, picture, sheets, write


def test_pages_are_numbered_where_there_are_several():
    assert names(1) == ["contact_sheet.png"] and names(2) == ["contact_sheet_1.png", "contact_sheet_2.png"]


def test_images_stand_in_their_order_with_a_text_under_each(tmp_path):
    dataset = field_of(tmp_path, 3)
    (page,) = sheets(dataset, [2, 0], ["1 cat", "2 dog"])
    assert page.size == (2 * (TILE + MARGIN) + MARGIN, TILE + TEXT + 2 * MARGIN)
    pixels = np.asarray(page)
    middle = MARGIN + TILE // 2
    assert pixels[middle, middle].tolist() == [12] * 3 and pixels[middle, middle + TILE + MARGIN].tolist() == [10] * 3
    assert pixels[MARGIN + TILE:, :TILE].min() < 100  # ink


def test_more_images_than_a_page_holds_make_another(tmp_path):
    dataset = field_of(tmp_path, 1)
    several = COLUMNS * ROWS + 1
    write(tmp_path, dataset, [0] * several, ["x"] * several)
    with Image.open(tmp_path / "contact_sheet_2.png") as page:
        assert page.width == TILE + 2 * MARGIN
    assert len([*tmp_path.glob("contact_sheet*.png")]) == 2


@pytest.mark.parametrize("text", ["Ж漢 한 😀", "a\nb\tc", "$x_{1}$", "", "a name that is much too long for one tile of a page", "\x00"])
def test_a_class_may_have_any_name_and_stays_on_its_line(tmp_path, text, monkeypatch):
    drawn = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, fill, font: drawn.append((text, font.getlength(text))))
    write(tmp_path, field_of(tmp_path, 1), [0], [text])
    ((shown, width),) = drawn
    assert width <= TILE and "\n" not in shown and (len(text) > 20 or len(shown) == len(text))


def test_pictures_fit_a_tile_and_are_turned_as_the_camera_says(tmp_path):
    dataset = field_of(tmp_path, 1)
    image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "field" / "0.png", exif=exif)
    assert picture(dataset, 0).size == (TILE // 2, TILE)


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_arrays_are_shown_as_grey_or_by_their_first_three_channels(tmp_path, channels):
    dataset = replace(field_of(tmp_path, 1, files=False), images=np.full((1, 8, 8, channels), 77, np.uint8))
    assert np.asarray(picture(dataset, 0)).tolist() == np.full((TILE, TILE, 3), 77).tolist()
