"""Images in one folder for each class, to be sorted by hand: the shape of Hugging Face's imagefolder and of CVAT."""
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from hybridrepair.annotation.answer import Answer
from hybridrepair.base import digests
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.images.arrays import image_of
from hybridrepair.images.data import Dataset
from hybridrepair.images.identity import Identity
from hybridrepair.images.pictures import extensions, opened

FOLDER = "folders"  # of the class folders, in the folder of questions
NAME = re.compile(r"(\d+)_([0-9a-f]{16})\b")


def file_name(dataset: Dataset, index: int, rank: int, digest: str) -> str:
    """The name of the copy of an image: its rank in the choice from 1 on, and the digest of its content."""
    file = file_of(dataset, index)
    return f"{rank:04d}_{digest}{file.suffix.lower() if file else '.png'}"


def file_of(dataset: Dataset, index: int) -> Path | None:
    """The file of an image, None where it has none, or that is gone."""
    file = Path(dataset.file(index))
    return file if dataset.files and file.is_file() else None


def content_of(dataset: Dataset, index: int) -> bytes:
    """The file of an image as it is, or a PNG of its pixels where it has none."""
    if file := file_of(dataset, index):
        return file.read_bytes()
    pixels, made = image_of(dataset.images, index), io.BytesIO()
    if pixels.shape[2] > 4:
        raise UserError(f"images of {pixels.shape[2]} channels cannot be written as files; leave out --format")
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(made, "png")
    return made.getvalue()


def folder_name(class_name: str) -> str:
    """The folder of a class: its name, with % codes for what no folder's name may hold."""
    name = "".join(quote(sign, safe="") if sign in "/\\\0%" else sign for sign in class_name)
    return f"%2E{name[1:]}" if name.startswith(".") else name


def write(folder: Path, class_names: list[str], images: Iterable[tuple[str, int, bytes]]) -> None:
    """Write images (name, predicted class, content) into the folders of their classes; those of other classes stay empty."""
    for name in class_names:
        (folder / folder_name(name)).mkdir(parents=True, exist_ok=True)
    for file, predicted, content in images:
        (folder / folder_name(class_names[predicted]) / file).write_bytes(content)


def images_in(folder: Path) -> Iterator[Path]:
    """The images in a folder and below, by name. Hidden files and other files are skipped."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in extensions() and path.is_file():
            yield path


def read(folder: Path, what: str, class_names: list[str], of_pixels: bool, ids: list[str]) -> list[Answer]:
    """The answers that the folders of the images give; empty folders are skipped.

    `ids` are those of the images by rank from 1 on, where they are known; `of_pixels` says that digests are of pixels, not of files,
    as they also are of an image whose file was gone when it was written. UserError for an image that cannot be read, or lies deeper,
    for example after a folder was dragged into another.
    """
    answers = []
    names = {folder_name(name): name for name in class_names}
    for path in images_in(folder):
        parts = path.relative_to(folder).parts
        if len(parts) > 2:
            raise UserError(f"{what} {path}: it lies in a folder within a folder; give each class one folder in {folder}")
        content, named = content_digest(path, what, of_pixels), NAME.match(path.name)
        if named and named[2] != content and not of_pixels:
            content = content_digest(path, what, True)
        rank = int(named[1]) if named and named[2] == content else 0
        if named and named[2] != content:
            raise UserError(f"{what} {path}: the image was changed after it was written; put back the original")
        label = names.get(parts[0], parts[0]) if len(parts) == 2 else ""
        answers.append(Answer(f"{what} {path}", Identity(ids[rank - 1] if 0 < rank <= len(ids) else "", content), label))
    return answers


def content_digest(path: Path, what: str, of_pixels: bool) -> str:
    """The digest of an image's file, or of its pixels, as images.identity.digest_of makes it."""
    if not of_pixels:
        return digests.of(path.read_bytes())
    try:
        with opened(path) as image:
            pixels = np.asarray(image)
    except Exception as error:  # Pillow raises many types here; all mean an image that cannot be used
        raise UserError(f"{what} {path}: it cannot be read ({reason_of(error)}); put back the original") from error
    return digests.of(np.ascontiguousarray(pixels).tobytes())
