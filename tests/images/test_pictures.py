"""pictures.py: every kind of image file becomes upright RGB of 8 bits, by values computed by hand, or says why not."""
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from conftest import field_of, refusal
from hybridrepair.annotation.contact_sheet import picture
from hybridrepair.images.pictures import extensions, pixels

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
CORNERS = np.array([[RED, GREEN], [BLUE, GREY]], np.uint8).repeat(8, 0).repeat(8, 1)  # 16x16


def seen(path: Path, image: Image.Image, size: int = 16, **more) -> np.ndarray:
    """The pixels of an image that was saved as `path`."""
    image.save(path, **more)
    return pixels(path, size)


def tiff(path: Path, values: bytes, bits: int, size: int = 8, zero_is_black: int = 1) -> Path:
    """A square grey TIFF of so many bits, which Pillow itself cannot write."""
    tags = [(256, size), (257, size), (258, bits), (259, 1), (262, zero_is_black), (273, 8), (277, 1), (278, size), (279, len(values))]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(values)) + values + struct.pack("<H", len(tags)) + body + bytes(4))
    return path


def png_of_16_bits(path: Path, values: np.ndarray) -> Path:
    """A colour PNG from uint16 [H, W, 3], which Pillow itself cannot write."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


# formats

@pytest.mark.parametrize("ending", ["bmp", "dib", "gif", "ico", "pcx", "png", "ppm", "sgi", "tga", "tif", "tiff", "webp", "jpg",
                                    "jpeg", "jp2", "msp"])
def test_every_usual_format_is_read(ending, tmp_path):
    assert f".{ending}" in extensions()
    image, more = Image.fromarray(CORNERS), {"lossless": True} if ending == "webp" else {}
    if ending == "msp":  # black and white
        assert seen(tmp_path / "a.msp", image.convert("1"))[0, 0].tolist() in ([0, 0, 0], [255, 255, 255])
    else:
        found = seen(tmp_path / f"a.{ending}", image, **more).astype(int)
        assert abs(found - CORNERS)[2:6, 2:6].max() <= (60 if ending.startswith("j") else 0) and found[13, 2].argmax() == 2


@pytest.mark.parametrize("ending", [".pdf", ".txt", ".mpg", ".h5", ".grib", ".npy", ".json", ""])
def test_what_pillow_only_writes_or_only_recognises_is_no_image(ending):
    assert ending not in extensions()


def test_the_first_picture_of_several_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    for name in ("a.gif", "a.tif"):
        assert seen(tmp_path / name, frames[0], 8, save_all=True, append_images=frames[1:])[0, 0].tolist() == [255, 0, 0], name


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (1000, 700)])
def test_any_size_is_resized(shape, tmp_path):
    assert (seen(tmp_path / "a.png", Image.new("RGB", shape, (7, 8, 9)), 12) == [7, 8, 9]).all()


def test_an_image_of_the_size_itself_is_left_as_it_is_and_others_are_averaged(tmp_path):
    image = Image.fromarray(CORNERS)
    assert (seen(tmp_path / "a.png", image) == CORNERS).all()
    assert pixels(tmp_path / "a.png", 1)[0, 0].tolist() == [96, 96, 96]  # (255 + 128) / 4 in each channel


# orientation

STORED = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1), 6: np.rot90,
          7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1)}  # of an upright image, what a camera stores


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_exif_orientation_is_applied(orientation, ending, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](CORNERS)))
    found = seen(tmp_path / f"a.{ending}", image, exif=exif)
    assert [found[y, x].argmax() for y, x in ((3, 3), (3, 12), (12, 3))] == [0, 1, 2]


def test_the_orientation_of_a_16_bit_image_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    values = np.zeros((8, 8), np.uint16)
    values[0] = 65535  # the top row as stored is the right column upright
    found = seen(tmp_path / "a.png", Image.fromarray(values), 8, exif=exif)
    assert (found[:, 7] == 255).all() and not found[:, :7].any()


# more than 8 bits

RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
EIGHT = np.floor(RAMP / 257 + 0.5)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_scaled_by_their_range(name, tmp_path):
    assert (seen(tmp_path / name, Image.fromarray(RAMP), 8)[..., 1] == EIGHT).all()


def test_16_bits_of_the_other_byte_order_are_scaled_by_their_range(tmp_path):
    image = Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes())
    assert (seen(tmp_path / "a.tif", image, 8)[..., 1] == EIGHT).all()


def test_a_pgm_s_range_is_its_own(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([0, 1023], ">u2").tobytes())
    assert pixels(tmp_path / "a.pgm", 8)[0, [0, 7], 0].tolist() == [0, 255]
    (tmp_path / "a.pgm").write_bytes(b"P2 1 1 1023\n512\n")
    assert pixels(tmp_path / "a.pgm", 8)[0, 0].tolist() == [128, 128, 128]  # 512 / 1023 of 255 is 127.6


def test_16_bits_in_colour_are_scaled_by_their_range(tmp_path):
    values = np.zeros((8, 8, 3), np.uint16)
    values[..., 0], values[..., 1] = 65535, 32768
    assert (pixels(png_of_16_bits(tmp_path / "a.png", values), 8) == [255, 128, 0]).all()


def test_12_bits_are_scaled_by_their_range(tmp_path):
    white, middle = (0xFFF, 0xFFF), (0x800, 0x000)  # two pixels of 12 bits in three bytes
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in [white] * 16 + [middle] * 16)
    found = pixels(tiff(tmp_path / "a.tif", packed, 12), 8)
    assert (found[:4] == 255).all() and (found[4:, ::2] == 128).all() and not found[4:, 1::2].any()


def test_16_bits_of_which_zero_is_white_are_not_seen_as_a_negative(tmp_path):
    values = np.array([0, 60000, 65535, 32768] * 16, "<u2")
    found = pixels(tiff(tmp_path / "a.tif", values.tobytes(), 16, zero_is_black=0), 8)
    assert found[0, :4, 0].tolist() == [255, 22, 0, 127]  # (65535 - 60000) / 257 = 21.5


def test_floats_from_0_to_1_are_scaled(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert (seen(tmp_path / "a.tif", Image.fromarray(values), 8)[..., 2] == np.rint(values * 255)).all()


@pytest.mark.parametrize("values, told", [
    (np.full((8, 8), 200, np.float32), "from 200 to 200"), (np.full((8, 8), -0.5, np.float32), "from -0.5"),
    (np.full((8, 8), np.nan, np.float32), "from nan"), (np.full((8, 8), np.inf, np.float32), "inf"),
    (np.full((8, 8), 70000, np.int32), "32 bits")], ids=["bright", "negative", "nan", "inf", "int32"])
def test_values_whose_white_is_not_known_are_refused_and_never_clipped(values, told, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=told):
        pixels(tmp_path / "a.tif", 8)


# colours

def palette(transparent: bool) -> tuple[Image.Image, dict]:
    """Half red, half blue as entries of a palette; the blue one is transparent if asked for."""
    image = Image.new("P", (8, 8))
    image.putpalette([*RED, *BLUE])
    image.paste(1, (4, 0, 8, 8))
    return image, {"transparency": 1} if transparent else {}


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
@pytest.mark.parametrize("transparent, right", [(False, [0, 0, 255]), (True, [255, 255, 255])])
def test_palettes_become_their_colours_and_what_is_transparent_white(name, transparent, right, tmp_path):
    image, more = palette(transparent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = seen(tmp_path / name, image, 8, **more)
    assert found[0, 0].tolist() == [255, 0, 0] and found[0, 7].tolist() == right


@pytest.mark.parametrize("mode, color, expected", [
    ("1", 1, [255, 255, 255]), ("L", 77, [77, 77, 77]), ("LA", (100, 255), [100, 100, 100]), ("LA", (100, 0), [255, 255, 255]),
    ("RGBA", (10, 20, 30, 255), [10, 20, 30]), ("RGBA", (0, 0, 0, 0), [255, 255, 255]), ("RGBA", (0, 100, 255, 51), [204, 224, 255]),
])
def test_grey_and_transparent_images_become_rgb_on_white(mode, color, expected, tmp_path):
    found = seen(tmp_path / "a.png", Image.new(mode, (8, 8), color), 8)
    assert (found == expected).all()  # 51 of 255 is a fifth: 255 - 0.2 * (255 - c)


@pytest.mark.parametrize("mode, color, more", [("L", 0, {"transparency": 0}), ("RGB", (9, 9, 9), {"transparency": (9, 9, 9)})])
def test_a_colour_that_stands_for_transparent_becomes_white(mode, color, more, tmp_path):
    assert (seen(tmp_path / "a.png", Image.new(mode, (8, 8), color), 8, **more) == 255).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_inks_become_colours(name, tmp_path):
    found = seen(tmp_path / name, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), 8)  # magenta and yellow are red
    assert abs(found.astype(int) - RED).max() <= 3


# damage

@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp", "ppm", "gif"])
@pytest.mark.parametrize("keep", [0, 0.02, 0.5])
def test_what_is_truncated_is_not_read(ending, keep, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:int(keep * len(content))])
    with pytest.raises((OSError, ValueError, SyntaxError, EOFError)):
        pixels(path, 8)


@pytest.mark.parametrize("limit", [40, 99])
def test_what_is_too_large_is_not_read(limit, tmp_path, monkeypatch):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png", 8).shape == (8, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow itself warns up to twice its limit and refuses beyond
    with pytest.raises((Image.DecompressionBombWarning, Image.DecompressionBombError)):
        pixels(tmp_path / "a.png", 8)


def bomb(path: Path, side: int = 60_000) -> Path:
    """A PNG of some 100 bytes that claims side x side pixels."""
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return path


def test_a_small_file_that_claims_billions_of_pixels_is_not_read(tmp_path):
    for side in (10_000, 60_000, 2 ** 31 - 1):
        path = bomb(tmp_path / "a.png", side)
        assert path.stat().st_size < 200
        with pytest.raises((Image.DecompressionBombWarning, Image.DecompressionBombError, ValueError, OverflowError)):
            pixels(path, 8)


def test_an_image_that_was_damaged_since_it_was_converted_is_named_where_it_is_shown(tmp_path):
    dataset = field_of(tmp_path, 2)
    assert picture(dataset, 1).size == (128, 128)
    bomb(Path(dataset.file(1)))
    assert "field/1.png cannot be read any more (Decompression" in refusal(picture, dataset, 1)


def test_a_program_in_postscript_is_not_run_whatever_its_file_is_called(tmp_path, monkeypatch):
    ran: list[tuple] = []
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(%pipe%touch x) (r) file\n%%EOF\n"
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **more: ran.append(args))
    for name in ("a.eps", "a.png"):
        (tmp_path / name).write_bytes(program)
        with pytest.raises(OSError, match="cannot identify"):
            pixels(tmp_path / name, 8)
    assert ran == [] and not {".eps", ".ps"} & extensions() and ".png" in extensions()
