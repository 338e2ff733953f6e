"""Questions to annotators: a folder with the images that were chosen, in the forms that people and labelling tools take.

    to_label.csv  regions.csv  contact_sheet.png  manifest.json      always
    tasks.json  label_config.xml  images/                            label-studio
    folders/<class>/                                                 folders
"""
import io
import json
import shutil
from pathlib import Path

from hybridrepair.annotation import contact_sheet, label_studio, manifest, sorted_images
from hybridrepair.annotation.answers import QUESTIONS
from hybridrepair.annotation.manifest import Manifest
from hybridrepair.annotation.spreadsheet import protected
from hybridrepair.base.errors import UserError
from hybridrepair.base.files import is_temporary, remove_leftovers, sync, temporary_of
from hybridrepair.base.rows import write_rows
from hybridrepair.base.text import text_of
from hybridrepair.images.pictures import upright
from hybridrepair.selection.clustering import NOISE
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.solutions import Selection

FORMATS = ("csv", "label-studio", "folders")
REGIONS = "regions.csv"
COLUMNS = ("rank", "id", "digest", "file", "region", "region size", "unsmoothness", "predicted class", "label")
# what --force replaces, beside the pages of the contact sheet: no file that others put beside it
OURS = {QUESTIONS, REGIONS, manifest.NAME, label_studio.TASKS, label_studio.CONFIG, label_studio.IMAGES, sorted_images.FOLDER}
SHOWN_BY_BROWSERS = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


def refuse_to_replace(folder: Path, force: bool) -> None:
    """UserError where the folder holds anything, unless `force` and it holds questions of ours."""
    empty = not folder.exists() or folder.is_dir() and all(is_temporary(path.name) for path in folder.iterdir())
    if empty or manifest.is_unfinished(folder / manifest.NAME):
        return
    if not (folder.is_dir() and (folder / manifest.NAME).is_file() and Manifest.read(folder / manifest.NAME)):
        raise UserError(f"{folder} is there already and holds other things; give another folder")
    if not force:
        raise UserError(f"{folder} holds images to be labelled already, and perhaps answers; pass what was answered ({QUESTIONS}, "
                        f"{sorted_images.FOLDER} or an export) to repair.py as --labels, give another folder, or replace it by --force")


def write(folder: Path, pool: Pool, selection: Selection, made: Manifest, formats: list[str], model: str) -> None:
    """Write the folder as a whole or not at all; `model` names what predicted. UserError for images that no file can hold."""
    folder = folder.absolute()
    temporary = temporary_of(folder / "questions" if folder.exists() else folder)  # a folder that is there may lie on a disk of its own
    temporary.mkdir(parents=True)
    remove_leftovers(temporary.parent)
    try:
        write_into(temporary, pool, selection, made, formats, model)
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        if folder.exists():
            replace(folder, temporary)
        else:
            temporary.rename(folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(folder: Path, made: Path) -> None:
    """Move the files of the folder `made` into `folder`, in place of older ones of ours; others stay.

    The manifest comes last, and none that tells of whole questions is there meanwhile.
    """
    manifest.begin(folder / manifest.NAME)
    for old in [path for path in folder.iterdir() if path.name in OURS - {manifest.NAME} or contact_sheet.NAME.fullmatch(path.name)]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for file in sorted(made.iterdir(), key=lambda file: file.name == manifest.NAME):
        file.rename(folder / file.name)
    sync(folder)


def write_into(folder: Path, pool: Pool, selection: Selection, made: Manifest, formats: list[str], model: str) -> None:
    """Write the files of all formats into an empty folder."""
    dataset = pool.dataset
    names, index = dataset.class_names, pool.pool_index[selection.annotated].tolist()
    score, predicted = (each[selection.annotated].tolist() for each in (x.cpu().numpy() for x in pool.probs.max(1)))
    rows = rows_of(pool, selection, made, [names[number] for number in predicted])
    write_rows(folder / QUESTIONS, COLUMNS, rows)
    write_rows(folder / REGIONS, ("id", "digest", "region", "representative", "is representative"), members_of(made))
    contact_sheet.write(folder, dataset, index, [f"{rank} {names[number]}" for rank, number in enumerate(predicted, 1)])
    files = [sorted_images.file_name(dataset, each, rank, identity.digest)
             for rank, (each, identity) in enumerate(zip(index, made.images), 1)]
    if "folders" in formats:
        sorted_images.write(folder / sorted_images.FOLDER, names, (
            (file, number, sorted_images.content_of(dataset, each)) for file, number, each in zip(files, predicted, index)))
    if "label-studio" in formats:
        (folder / label_studio.IMAGES).mkdir()
        tasks = []
        for row, identity, each, file, number, sure in zip(rows, made.images, index, files, predicted, score):
            name, content = shown(file, sorted_images.content_of(dataset, each))
            (folder / label_studio.IMAGES / name).write_bytes(content)
            told = {key: row[key] for key in ("rank", "file", "region", "region size", "unsmoothness")}
            tasks.append(label_studio.task(identity, f"{label_studio.IMAGES}/{name}", told, names[number], sure, model))
        (folder / label_studio.TASKS).write_text(json.dumps(tasks, indent=1) + "\n", encoding="utf-8")
        (folder / label_studio.CONFIG).write_text(label_studio.config(names), encoding="utf-8")
    made.write(folder / manifest.NAME)


def rows_of(pool: Pool, selection: Selection, made: Manifest, predicted: list[str]) -> list[dict]:
    """The rows of to_label.csv, in the order of choice; texts are protected from what a spreadsheet does to them."""
    unsmoothness = pool.unsmoothness.cpu().numpy() if pool.looked_at_views else None
    rows = []
    for rank, (place, region, identity, name) in enumerate(zip(selection.annotated, made.regions, made.images, predicted), 1):
        alone = region == NOISE
        rows.append({"rank": rank, "id": protected(identity.id), "digest": protected(identity.digest),
                     "file": protected(text_of(pool.dataset.file(int(pool.pool_index[place])))), "region": "" if alone else region,
                     "region size": 1 if alone else len(made.members[region]),
                     "unsmoothness": "" if unsmoothness is None else f"{unsmoothness[place]:.6f}",
                     "predicted class": protected(name), "label": ""})
    return rows


def members_of(made: Manifest) -> list[dict]:
    """The rows of regions.csv: the members of all labelled regions, the representative first."""
    rows = []
    for image, region in zip(made.images, made.regions):
        for member in sorted(made.members[region] if region != NOISE else [], key=lambda each: each != image):
            rows.append({"id": protected(member.id), "digest": protected(member.digest), "region": region,
                         "representative": protected(image.id), "is representative": int(member == image)})
    return rows


def shown(file: str, content: bytes) -> tuple[str, bytes]:
    """Name and content of an image that a browser shows: as it is, or as PNG."""
    if Path(file).suffix in SHOWN_BY_BROWSERS:
        return file, content
    made = io.BytesIO()
    upright(io.BytesIO(content)).save(made, "png")  # it has been read for the contact sheet
    return str(Path(file).with_suffix(".png")), made.getvalue()
