"""dataset.json: what a user says of the dataset beside it, and what its conversion to arrays noted.

An image folder's conversion adds `split`, `files` with their `stamps`, `skipped`, and of `classes`, `mean`, `std` and `size` those that
were not there; `computed` keeps a copy of these, so that what a user writes, before or after, is told from them.
"""
import json
import os
from collections.abc import Callable
from pathlib import Path

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.text import text_of
from hybridrepair.images.arrays import MAX_SIZE, MIN_SIZE
from hybridrepair.images.parts import FOLDERS

NAME = "dataset.json"
EXAMPLE = '{"split": {"train": [0, 400], "val": [400, 550], "T2": [550, 950], "pool": [950, null]}}'
OURS = {"split", "files", "stamps", "skipped", "computed"}  # written by a conversion whatever was there


def is_stamp(value) -> bool:
    return value is None or type(value) is list and len(value) == 2 and all(type(each) is int for each in value)


def list_of(fits: Callable) -> Callable:
    return lambda value: type(value) is list and all(map(fits, value))


def is_text(value) -> bool:
    return type(value) is str


def is_inside(value) -> bool:
    """Whether it is the path of a file below the folder: another one would be shown to annotators."""
    return is_text(value) and not os.path.isabs(value) and ".." not in value.split("/")


def is_share(value) -> bool:
    """Whether it can be a mean or a deviation of pixels in [0, 1]: 123.6, of pixels up to 255, cannot."""
    return type(value) in (int, float) and 0 <= value <= 1


def is_split(value) -> bool:
    return type(value) is dict and bool(value) and set(value) <= set(FOLDERS.values()) and all(
        type(ends) is list and len(ends) == 2 and type(ends[0]) is int and ends[0] >= 0 and type(ends[1]) in (int, type(None))
        for ends in value.values())


HOLDS: dict[str, Callable] = {
    "classes": list_of(is_text), "files": list_of(is_inside), "mean": list_of(is_share), "std": list_of(is_share),
    "size": lambda value: type(value) is int and MIN_SIZE <= value <= MAX_SIZE, "split": is_split,
    "stamps": list_of(is_stamp), "skipped": list_of(lambda value: list_of(is_text)(value) and len(value) == 2),
    "computed": lambda value: type(value) is dict}
NUMBERS = "give a list of numbers for pixels in 0 to 1, so what is told of 0 to 255 divided by 255"
WANTED = {"classes": 'give a list of names, such as ["stop", "yield"]', "mean": NUMBERS, "std": NUMBERS,
          "size": f"give a whole number from {MIN_SIZE} to {MAX_SIZE}", "split": f"write it like {EXAMPLE}"}
REMADE = "delete this entry, which the conversion of the images writes"


def read(folder: Path) -> dict:
    """The entries of dataset.json, {} without one. UserError if it is not JSON, or an entry is not of its type."""
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig")) if path.exists() else {}
        if not isinstance(content, dict):
            raise ValueError("it holds no entries in braces")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be used ({reason_of(error)}); write it like {EXAMPLE}") from error
    for key, value in content.items():
        if key in HOLDS and not HOLDS[key](value):
            raise UserError(f"{path}: {key} is {json.dumps(value)[:60]}; {WANTED.get(key, REMADE)}")
    return content


def class_name(name: str) -> str:
    """The name of a class as it is written down everywhere: nobody sees spaces at its ends, and so nobody would repeat them."""
    return text_of(name).strip()


def class_names(folder: Path, classes: list[str]) -> list[str]:
    """The names of the classes in dataset.json. UserError if two are alike, or one is nothing."""
    names = [class_name(each) for each in classes]
    for place, name in enumerate(names):
        if not name or name in names[:place]:
            raise UserError(f"class {place} in {folder / NAME} is named {name!r}, {'as another is' if name else 'which is nothing'}; "
                            "give each class a name of its own")
    return names


def own(content: dict) -> dict:
    """The entries that a user wrote, of those that dataset.json holds."""
    computed = content.get("computed")
    if computed is None and "files" in content:  # of a conversion that put its own in the place of all but the size
        computed = {key: content.get(key) for key in ("classes", "mean", "std")}
    return {key: value for key, value in content.items()
            if key not in OURS and not (computed and key in computed and computed[key] == value)}
