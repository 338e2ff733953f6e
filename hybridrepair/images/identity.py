"""Identity of images: a name that stays with an image when others are added, and a digest of its content."""
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybridrepair.base import digests
from hybridrepair.base.text import text_of
from hybridrepair.images.arrays import image_of
from hybridrepair.images.data import Dataset

ABSENT, CHANGED = -1, -2  # what stands for the place of an image that is not there, or has another content


class Identity(NamedTuple):
    """What tells an image from all others, wherever it stands. Either may be "" where a file of answers does not say it."""
    id: str
    digest: str


def id_of(dataset: Dataset, index: int) -> str:
    """The path of image `index` within the folder of its dataset, or #<index> for a dataset of arrays."""
    return text_of(dataset.files[index]) if dataset.files else f"#{index}"


def digest_of(dataset: Dataset, index: int) -> str:
    """16 hex digits that change with the content: of the file's bytes, or of the pixels where there is no file."""
    path = dataset.folder / dataset.files[index] if dataset.files else None
    if path and path.is_file():
        state = path.stat()
        return digest_of_file(path, state.st_mtime_ns, state.st_size)
    return digests.of(image_of(dataset.images, index))


@cache
def digest_of_file(path: Path, changed: int, size: int) -> str:
    """The digest of a file, read once for each time that it has `changed` (ns) and each `size`."""
    return digests.of(path.read_bytes())


def identity_of(dataset: Dataset, index: int) -> Identity:
    return Identity(id_of(dataset, index), digest_of(dataset, index))


def places(dataset: Dataset, part: np.ndarray, wanted: Iterable[Identity]) -> dict[Identity, int]:
    """Where each wanted image stands in `part` int64 [N] of a dataset: its place 0..N-1, or ABSENT, or CHANGED.

    An image is found by both, else by its content alone under another name, else, where no digest is wanted, by its name. Copies that
    have other names now are found in their order. The part is read as a whole only where a content is not found under its name.
    """
    by_id = {id_of(dataset, index): place for place, index in enumerate(part.tolist())}
    wanted = dict.fromkeys(wanted)
    found = {each: by_id[each.id] for each in wanted if each.id in by_id
             and each.digest in ("", digest_of(dataset, part[by_id[each.id]]))}
    others = [each for each in wanted if each not in found]
    copies: dict[str, list[int]] = {}
    if any(each.digest for each in others):
        for place, index in enumerate(part.tolist()):
            copies.setdefault(digest_of(dataset, index), []).append(place)
    taken = set(found.values())
    for each in sorted(others, key=lambda each: not each.id):
        same = copies.get(each.digest, []) if each.digest else []
        free = [place for place in same if place not in taken]
        if not each.id:  # any copy is meant, and rather one that has been found
            free = [place for place in same if place in taken] + free
        found[each] = free[0] if free else CHANGED if each.id in by_id else ABSENT
        taken.add(found[each])
    return found
