"""An image folder, {train,val,test,field}/<class>/..., and its conversion to arrays."""
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.files import atomic
from hybridrepair.base.text import line_of, text_of
from hybridrepair.images import description
from hybridrepair.images.arrays import UNKNOWN, mean_std, read, save, unwritable
from hybridrepair.images.parts import FOLDERS, MEASURED, parts
from hybridrepair.images.pictures import extensions, pixels

NAMED = 20  # damaged images that a message names
Stamp = list[int] | None  # size in bytes and time of the last change in nanoseconds; None for a file that cannot be asked


def stamp(path: Path | str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def identity(path: Path | str) -> tuple[int, int]:
    """What a folder has in common with every link to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def files_below(path: Path, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """The paths of files below a folder; `above` are the identities of folders that it lies in, into which no link is followed.

    UserError for a folder that cannot be read.
    """
    try:
        here = above | {identity(path)}
        with os.scandir(path) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"folder {path} cannot be read ({reason_of(error)}); make it readable, or move it elsewhere") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) or os.path.isdir(entry.path):
            if not (entry.is_symlink() and identity(entry.path) in here):
                yield from files_below(Path(entry.path), here)
        elif os.path.isfile(entry.path) or not os.path.exists(entry.path):
            yield entry.path  # a file, or a link to nothing, which is told with what is damaged


def scan(folder: Path) -> tuple[dict[str, Stamp], Counter[str]]:
    """The images in the subfolders of the parts, relative to `folder`, sorted within each part, with their stamps; and other files.

    Of these, the endings are counted; what is hidden is not. UserError for a subfolder that cannot be read.
    """
    found: dict[str, Stamp] = {}
    others: Counter[str] = Counter()
    for part in FOLDERS:
        top = folder / part
        if top.is_dir() or top.is_symlink():
            above = frozenset(map(identity, (folder, *folder.resolve().parents, *top.resolve().parents)))
            for path in sorted(Path(path).relative_to(folder).as_posix() for path in files_below(top, above)):
                ending = Path(path).suffix.lower()
                if ending in extensions():
                    found[path] = stamp(folder / path)
                else:
                    others[ending or "no ending"] += 1
    return found, others


def changed(folder: Path, content: dict, found: dict[str, Stamp], size: int) -> bool:
    """Whether the arrays in `folder`, of which dataset.json says `content`, are not of these files in this size."""
    if "files" not in content:  # arrays of the user's, which lie beside an image folder and go before it
        return False
    files, classes = content["files"], content.get("classes", [])
    known = sorted([*files, *(path for path, _ in content.get("skipped", []))])
    if known != sorted(found) or content.get("stamps") != [found[path] for path in known]:
        return True
    if read(folder / "images.npy", memory_map=True).shape[1:3] != (size, size):
        return True
    named = {class_of(file) for file in files} - {None}
    names = description.class_names(folder, classes)
    return not named <= set(names) or not np.array_equal(read(folder / "labels.npy"), labels_of(files, names))


def class_of(file: str) -> str | None:
    """The class that the path of an image says, after the folder in its part; None where it says none."""
    folders = file.split("/")[1:-1]
    return description.class_name(folders[0]) if folders else None


def labels_of(files: list[str], classes: list[str]) -> np.ndarray:
    """The number of the class of each file, int64 [N]; UNKNOWN where its path says none."""
    number = {name: label for label, name in enumerate(classes)}
    return np.array([UNKNOWN if (name := class_of(file)) is None else number[name] for file in files], np.int64)


def classes_of(folder: Path, files: list[str], given: list[str] | None) -> list[str]:
    """The classes of an image folder, in the order of their numbers: those given, or the subfolders of train, or of val and test.

    UserError where there are none, or an image is in a subfolder of another name.
    """
    path = folder / description.NAME
    classes, source = description.class_names(folder, given or []), str(path)
    named = [(file, name) for file in files if (name := class_of(file)) is not None]
    for sources in (["train"], ["val", "test"]):
        if not classes:
            classes = sorted({name for file, name in named if file.split("/")[0] in sources})
            source = " and ".join(str(folder / each) for each in sources)
            empty = [each for part in sources for each in subfolders(folder / part) if description.class_name(each) not in classes]
            if classes and empty:
                raise UserError(f"{empty[0]} in {source} has no image, so that it would be no class; put some into it, remove it, or "
                                f"write all classes into {path}, in the order of the model's outputs")
    if not classes:
        raise UserError(f"{folder} does not tell its classes, since train, val and test have no subfolders with images; write them "
                        f'into {path}, in the order of the model\'s outputs: {{"classes": ["cat", "dog"]}}')
    known = set(classes)
    for file, name in named:
        if not name:
            raise UserError(f"a folder in {folder / file.split('/')[0]} has no name but spaces; name it for the class of its images")
        if name not in known:
            raise UserError(f"{Path(folder, *file.split('/')[:2])} is none of the classes in {source}; rename it, or "
                            f"put images whose class is unknown directly into {folder / 'field'}")
    if len(classes) < 2:
        raise UserError(f"{source} has one class alone, {classes[0]}; give two or more")
    return classes


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, but hidden ones."""
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")) if folder.is_dir() else []


def split_of(files: list[str]) -> Mapping[str, tuple[int, int]]:
    """The parts of files in order, those that have some."""
    counts = [sum(file.startswith(f"{part}/") for file in files) for part in FOLDERS]
    ends = np.cumsum(counts).tolist()
    return {part: (end - count, end) for part, count, end in zip(FOLDERS.values(), counts, ends) if count}


def refuse_split(folder: Path, content: dict) -> None:
    """UserError where dataset.json with this `content` gives the images in `folder` other parts than their subfolders are."""
    ours = {part: list(ends) for part, ends in split_of(content.get("files", [])).items()}
    if content.get("split", ours) != ours:
        raise UserError(f"{folder / description.NAME}: split is not what the folders are; the parts of an image folder are its "
                        f"subfolders {', '.join(FOLDERS)}: move images between them, and delete this entry")


def write_images(path: Path, folder: Path, files: list[str], size: int) -> list[tuple[str, str]]:
    """Write the pixels of the files that can be read to `path`, uint8 [N, size, size, 3]; returns the others, each with the reason.

    One image at a time is held in memory.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
    bad = []
    with open(path, "wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        begin = out.tell()
        for file in tqdm(files, "convert", unit=" images", leave=False, disable=None):
            try:
                image = pixels(folder / file, size)
            except Exception as error:  # Pillow raises many types here; all mean an image that cannot be used
                bad.append((file, text_of(reason_of(error))))
            else:
                out.write(image.tobytes())
        out.seek(0)
        np.lib.format.write_array_header_1_0(out, header | {"shape": (len(files) - len(bad), size, size, 3)})
        assert out.tell() == begin  # numpy leaves room for numbers of other lengths
    return bad


def damaged(folder: Path, bad: list[tuple[str, str]], n: int) -> UserError:
    named = ", ".join(f"{folder / file} ({reason})" for file, reason in bad[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    remedy = ", or leave them out by --skip_bad" if len(bad) < n else ""
    return UserError(f"{len(bad)} of {n} images cannot be read: {named}{more}; replace or remove them{remedy}")


def convert(folder: Path, found: dict[str, Stamp], content: dict, size: int, skip_bad: bool) -> None:
    """Make images.npy of `size` pixels, labels.npy and dataset.json of the images found in `folder`; dataset.json said `content`.

    UserError for damaged images, unless `skip_bad` leaves them out, for a class that is none, and for an image without the class that
    its part needs.
    """
    given, files = description.own(content), list(found)
    classes = classes_of(folder, files, given.get("classes"))
    if content.get("classes", classes) != classes:
        print(line_of(f"the classes of {folder} are no longer {', '.join(content['classes'])}, but {', '.join(classes)}: a model "
                      f"trained before does not know that; where they should stay, write them into {folder / description.NAME}"),
              flush=True)
    parts(folder, labels_of(files, classes), split_of(files))  # checked before the images, which take longer
    path = folder / "images.npy"
    try:
        with atomic(path) as temporary:
            bad = write_images(temporary, folder, files, size)
            if bad and not (skip_bad and len(bad) < len(files)):
                raise damaged(folder, bad, len(files))
            out = dict(bad)
            kept = [file for file in files if file not in out]
            split = split_of(kept)
            measured = next(split[part] for part in MEASURED if part in split)
            mean, std = mean_std(read(temporary, memory_map=True)[slice(*measured)])
            computed = {key: value for key, value in {"classes": classes, "size": size, "mean": mean, "std": std}.items()
                        if key not in given}
            # images.npy goes first and comes last: where it is, the other files are of the same making
            path.unlink(missing_ok=True)
            save(folder / description.NAME, {**given, **computed, "split": split, "files": kept, "computed": computed, "skipped": bad,
                                             "stamps": [found[file] for file in sorted(found)]})
            save(folder / "labels.npy", labels_of(kept, classes))
    except OSError as error:
        raise unwritable(path, error) from error
    if bad:
        print(f"left out {len(bad)} of {len(files)} images, which cannot be read: skipped in {folder / description.NAME} names them",
              flush=True)
