"""The manifest of a choice: which images are asked, who takes their labels, and what it was made with.

It lies beside the questions as manifest.json, so that a repair uses that choice and no other.
"""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.files import write_json
from hybridrepair.base.text import line_of
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.data import Dataset
from hybridrepair.images.identity import ABSENT, CHANGED, Identity, identity_of, places
from hybridrepair.selection.clustering import NOISE, Regions
from hybridrepair.selection.solutions import Selection

TOLD = ("seed", "mean", "std", "code", "noise")  # settings of a choice that may change before it is answered
NAME = "manifest.json"
FORMAT = "hybridrepair questions 1"
UNFINISHED = {"format": FORMAT, "unfinished": True}


class Origin(NamedTuple):
    """What a choice is made with."""
    checkpoint: dict[str, str]  # file and digest of the model under repair
    classes: list[str]
    pool: dict[str, str | int]  # number of images, and a digest of all
    settings: dict[str, str]  # that make the choice


@dataclass
class Manifest:
    """A choice. Regions are numbered from 0 in the order of choice, NOISE is that of an image that stands for itself."""
    images: list[Identity]  # to be annotated, in the order of choice
    regions: list[int]  # of each of them
    members: list[list[Identity]]  # of each region, its representative among them
    origin: Origin
    path: Path = Path()

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.images]

    @property
    def all(self) -> list[Identity]:
        """All images that get a label by this choice."""
        return list(dict.fromkeys([*self.images, *(each for members in self.members for each in members)]))

    def write(self, path: Path) -> None:
        content = {"format": FORMAT, "origin": self.origin._asdict(), "images": self.images, "regions": self.regions,
                   "members": self.members}
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """The manifest in a file; None where the file is another program's. UserError if it is damaged or of another version."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            form = content.pop("format", "") if isinstance(content, dict) else ""
            if not str(form).startswith(FORMAT.rstrip("0123456789")):
                return None
            if form != FORMAT:
                raise UserError(f"{path} is of the format {form}, and this version reads {FORMAT}; use the version that wrote it")
            if "unfinished" in content:
                raise UserError(f"the images to be labelled beside {path} are not all there, since their writing was interrupted; call "
                                "selection.py again")
            return whole(content, path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is no whole manifest ({reason_of(error)}); take the one that selection.py wrote") from error


def begin(path: Path) -> None:
    """Put in the place of a manifest that the questions in its folder are being replaced."""
    write_json(path, UNFINISHED)


def is_unfinished(path: Path) -> bool:
    """Whether the questions in the folder of `path` were to be replaced, and are not all there."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) == UNFINISHED
    except (OSError, ValueError, RecursionError):
        return False


def whole(content: dict, path: Path) -> Manifest:
    """The manifest that the JSON `content` of a file holds. ValueError, TypeError, KeyError or AttributeError where it is damaged.

    An image that stands in a region of others would give them a wrong label.
    """
    def identities(given: list) -> list[Identity]:
        if not all(type(each) is list and len(each) == 2 and all(type(text) is str for text in each) for each in given):
            raise ValueError("an image is no pair of id and digest")
        return [Identity(*each) for each in given]

    images, regions, origin = identities(content["images"]), content["regions"], Origin(**content["origin"])
    members = [identities(each) for each in content["members"]]
    if len(set(images)) < len(images) or len(regions) != len(images):
        raise ValueError(f"it asks {len(set(images))} different images by {len(images)} entries, with {len(regions)} regions")
    if any(type(each) is not int for each in regions) or [each for each in regions if each != NOISE] != [*range(len(members))]:
        raise ValueError(f"its regions are not numbered from 0 to {len(members) - 1} in the order of images")
    for image, region in zip(images, regions):
        if region != NOISE and image not in members[region]:
            raise ValueError(f"image {image.id} is not among the members of its region {region}")
    inside = [each for region in members for each in region]
    if len(set(inside)) < len(inside):
        raise ValueError("an image is in two regions")
    texts = [*origin.checkpoint.values(), *origin.classes, *origin.settings.values()]
    if not origin.checkpoint.keys() >= {"file", "digest"} or "n" not in origin.pool or not all(type(each) is str for each in texts):
        raise ValueError("its origin does not tell checkpoint, classes, pool and settings")
    return Manifest(images, regions, members, origin, path)


def manifest_of(dataset: Dataset, selection: Selection, origin: Origin) -> Manifest:
    """The manifest of a selection in the pool of a dataset."""
    index = dataset.split["pool"]
    asked = [identity_of(dataset, index[place]) for place in selection.annotated]
    of_region = np.flatnonzero(selection.region != NOISE)
    by_source = selection.source.argsort(kind="stable")  # so that each region is a slice, which is found without looking at the pool
    begin, end = (np.searchsorted(selection.source[by_source], selection.annotated[of_region], side) for side in ("left", "right"))
    members = [[identity_of(dataset, index[place]) for place in by_source[slice(*ends)]] for ends in zip(begin, end)]
    regions = np.full(len(asked), NOISE)
    regions[of_region] = np.arange(len(of_region))
    return Manifest(asked, regions.tolist(), members, origin)


def path_of(labels: Path, named: str | None) -> Path | None:
    """Where the manifest of the answers in `labels` lies: where it is said to lie, or in their folder, or beside them, or nowhere."""
    if named:
        return Path(named) / NAME if Path(named).is_dir() else Path(named)
    return next((folder / NAME for folder in (labels, labels.parent) if (folder / NAME).is_file()), None)


def beside(labels: Path, named: str | None) -> Manifest | None:
    """The manifest of the answers in `labels`, or None. UserError if the named one does not exist or is none."""
    path = path_of(labels, named)
    found = Manifest.read(path) if path else None
    if named and found is None:
        raise UserError(f"{path} is no manifest of selection.py; give the {NAME} that lay beside the images to be labelled")
    return found


def selection_of(manifest: Manifest, dataset: Dataset) -> Selection:
    """The selection that a manifest holds, in the pool as it is now.

    Members that are not there any more, or have changed, are left out, and a line says so. UserError where an image to be
    annotated is one of them.
    """
    index = dataset.split["pool"]
    place = places(dataset, index, manifest.all)
    for image in manifest.images:
        if place[image] < 0:
            state = "was changed" if place[image] == CHANGED else "is not in the pool"
            raise UserError(f"image {image.id} of {manifest.path} {state}; put it back, or select anew")
    annotated = np.array([place[image] for image in manifest.images], dtype=np.int64)
    source, label = np.full(len(index), UNKNOWN), np.full(len(index), NOISE)
    lost = []
    for image, region in zip(annotated, manifest.regions):
        for member in manifest.members[region] if region != NOISE else []:
            if place[member] in (ABSENT, CHANGED):
                lost.append(member.id)
            else:
                source[place[member]], label[place[member]] = image, region
    source[annotated] = annotated
    if lost:
        print(line_of(f"{len(lost)} images of labelled regions are not in the pool any more, or have changed, and get no label: "
                      f"{listed(lost)}"), flush=True)
    representative = np.array([image for image, region in zip(annotated, manifest.regions) if region != NOISE], dtype=np.int64)
    regions = Regions(torch.from_numpy(label), torch.from_numpy(representative)) if manifest.members else None
    return Selection(annotated, np.array(manifest.regions, dtype=np.int64), source, regions)


def listed(names: list[str], most: int = 10) -> str:
    """Names in a sentence: all of a few, the first of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check(manifest: Manifest, now: Origin) -> None:
    """UserError that names what differs between the making of a manifest and now.

    Another pool or seed is told in a line, and another mean or std, which may follow the pool: the answers are found by image, and the
    choice is that of the manifest.
    """
    then = manifest.origin
    files = [f"{each.checkpoint['file']} ({each.checkpoint['digest']})" for each in (then, now)]
    same = then.checkpoint["digest"] == now.checkpoint["digest"]
    differ = [] if same else [f"the checkpoint {' instead of '.join(files)}"]
    differ += [] if then.classes == now.classes else [f"the classes {listed(then.classes)} instead of {listed(now.classes)}"]
    differ += [f"{name} {then.settings.get(name, 'not given')} instead of {now.settings.get(name, 'not given')}"
               for name in then.settings | now.settings if name not in TOLD and then.settings.get(name) != now.settings.get(name)]
    if differ:
        raise UserError(f"{manifest.path} was made with {'; with '.join(differ)}: give what it was made with, or select anew")
    for name in TOLD:
        if then.settings.get(name) != now.settings.get(name):
            print(line_of(f"the images were chosen with {name} {then.settings.get(name, 'not given')}, now it is "
                          f"{now.settings.get(name, 'not given')}; the choice stays"), flush=True)
    if then.pool != now.pool:
        print(f"the pool has changed since the images were chosen ({then.pool['n']} images, now {now.pool['n']}): labels stay with "
              "their images", flush=True)
