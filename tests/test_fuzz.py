"""Damaged files through every reader: each ends in one clear sentence, or in what the file says; never in another error, a hang,
memory without bound, or a wrong label. What once failed is kept in tests/fuzz, as <reader>--<fault>, and read again each time.
"""
import csv
import io
import json
import math
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mutations
import tables
from conftest import LONGEST, field_of, picture
from hybridrepair.annotation.manifest import Manifest, Origin, manifest_of
from hybridrepair.annotation.oracle import answered, known_labels
from hybridrepair.annotation.sorted_images import file_name
from hybridrepair.base import checkpoint, formats
from hybridrepair.base.errors import UserError
from hybridrepair.base.states import Kept
from hybridrepair.base.text import LONG, text_of
from hybridrepair.images import data
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.biased import biased_subset
from hybridrepair.images.identity import digest_of, id_of
from hybridrepair.report import evidence, page
from hybridrepair.run import comparison
from hybridrepair.run.table import COLUMNS
from hybridrepair.selection import features
from hybridrepair.selection.clustering import NOISE
from hybridrepair.selection.solutions import Selection
from mymodels import moco

KEPT = Path(__file__).parent / "fuzz"
SECONDS, MEMORY = 5, 2 * 2 ** 30  # of the processor, and bytes, that one file may take
CLASSES = ("cat", "dog", "owl")
SETTINGS = {"dataset": "pets", "lr": 0.1, "n_epochs": 3}


@dataclass
class Reader:
    """A file that is damaged, and what reads it."""
    file: str  # in its folder
    make: Callable[[Path], object]  # writes it there, whole, and all that belongs to it
    read: Callable[[Path], object]
    fits: Callable  # (what was read, what is read of the whole file, the bytes of the file) -> whether that is what the file says
    change: Callable[[random.Random, bytes], bytes] | None = None  # what it holds
    share: int = 10  # of the files of a run


def same(one, other) -> bool:
    """Whether nested values are equal, with the same types and shapes of tensors and arrays."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def as_before(found, whole, content: bytes) -> bool:
    """For files with checksums: nothing else can come out."""
    return same(found, whole)


# --- checkpoints

def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), fc=nn.Linear(4, 3)))


def weights_in(path: Path) -> dict:
    """The weights that a model of ours or of others has after loading a file, and the names of its classes."""
    found, model = formats.read(path), network()
    formats.fit(model, found, "net")
    formats.check_classes(found, [*CLASSES])
    return model.state_dict()


def loaded(content: bytes) -> dict:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["net"]


def fits_weights(found, whole, content: bytes, given: Callable[[bytes], dict]) -> bool:
    """What the file says, under names without prefixes, where it is whole and not only whole in its form."""
    says = {name.removeprefix("module."): value for name, value in given(content).items()}
    return all(torch.equal(value, says[name].to(value.dtype)) for name, value in found.items()
               if not name.endswith("num_batches_tracked"))


def save_legacy(path: Path) -> None:
    torch.save({"net": network().state_dict(), "acc": 81.5}, path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path) -> None:
    from safetensors.torch import save_file
    save_file(network().state_dict(), path, {"class_names": json.dumps(CLASSES)})


def of_safetensors(content: bytes) -> dict:
    from safetensors.torch import load
    return load(content)


def change_content(rng: random.Random, content: bytes) -> bytes:
    """A checkpoint that torch.save wrote, of a content with one change."""
    inside = torch.load(io.BytesIO(content), weights_only=True)
    strange = (*mutations.STRANGE, torch.tensor([float("nan")]), torch.ones(4).to_sparse(), torch.ones(1).expand(10 ** 6, 10 ** 6),
               torch.ones(4, dtype=torch.complex64), torch.empty(4, device="meta"), torch.full((4,), float("inf")),
               torch.zeros(3, 4), torch.full((3, 4), 1e300, dtype=torch.float64), torch.ones(4, dtype=torch.int8), b"bytes", (1, 2))
    out = io.BytesIO()
    torch.save(mutations.of_tree(rng, inside, strange), out)
    return out.getvalue()


def fits_checkpoint(found, whole, content: bytes) -> bool:
    """What it says, which is what it said before unless it was written anew."""
    return same(found, whole) or fits_weights(found, whole, content, loaded) and not damaged_in_place(content)


def damaged_in_place(content: bytes) -> bool:
    """Whether the bytes are no archive as it was written: torch itself does not look."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.testzip() is not None


def make_moco(path: Path) -> None:
    torch.manual_seed(0)
    with torch.device("cpu"):
        made = moco.Extractor(moco.resnet(moco.BasicBlock, (1, 1, 1, 1), moco.mlp((512, 4, 2), True), 3, True),
                              moco.mlp((2, 4, 2), False))
    weights = {moco.PREFIX + name: value.half() if value.is_floating_point() else value for name, value in made.state_dict().items()}
    checkpoint.save(path, {"state_dict": weights, "settings": SETTINGS})


def save_state(path: Path) -> None:
    Kept(path, SETTINGS, 0, force=True).save(lambda: {"epoch": 2, "model": network().state_dict(), "log": ['{"epoch": 1}']})


def read_state(path: Path) -> dict | None:
    return Kept(path, SETTINGS, 0).state


# --- datasets

def make_arrays(folder: Path) -> None:
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.array([0, 1, 2] * 3 + [-1, 0, 1]))
    (folder / "dataset.json").write_text(json.dumps({
        "split": {"train": [0, 3], "val": [3, 6], "T2": [6, 9], "pool": [9, None]}, "classes": CLASSES,
        "mean": [.5, .4, .3], "std": [.2, .2, .2]}))


def read_dataset(folder: Path) -> dict:
    found = data.load(folder.name, folder.parent)
    return {"images": np.array(found.images), "labels": found.labels, "split": found.split, "classes": found.class_names,
            "mean": list(found.mean), "std": list(found.std)}


def fits_array(found: dict, whole: dict, content: bytes, name: str) -> bool:
    says = np.load(io.BytesIO(content))
    return np.array_equal(found[name], says) and all(same(found[other], whole[other]) for other in whole if other != name)


def fits_description(found: dict, whole: dict, content: bytes) -> bool:
    says = json.loads(content.decode("utf-8-sig"))
    split = {part: np.arange(begin, 12 if end is None else end) for part, (begin, end) in says["split"].items()}
    return (all(np.array_equal(found["split"][part], split.get(part, [])) for part in found["split"])
            and found["classes"] == [text_of(name).strip() for name in says.get("classes") or "012"]
            and all(found[name] == says[name] for name in ("mean", "std") if says.get(name))
            and same(found["labels"], whole["labels"]))


FORMS = {"png": "RGB", "jpg": "RGB", "gif": "P", "bmp": "RGB", "webp": "RGB", "tif": "CMYK", "ppm": "RGB", "jp2": "RGB", "ico": "RGBA",
         "tga": "RGB"}


def make_folder(folder: Path, form: str) -> None:
    for part in ("train", "val", "test"):
        for name, colour in (("cat", (200, 0, 0)), ("dog", (0, 200, 0))):
            picture(folder / part / name / "0.png", colour, (8, 8))
    for name, colour in (("a.png", (0, 0, 100)), ("c.png", (0, 0, 200))):
        picture(folder / "field" / name, colour, (16, 16))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(FORMS[form]).save(folder / "field" / f"b.{form}")


def read_folder(folder: Path) -> dict:
    for name in ("images.npy", "labels.npy", "dataset.json"):
        (folder / name).unlink(missing_ok=True)
    return read_dataset(folder)


def fits_picture(found: dict, whole: dict, content: bytes) -> bool:
    """The image itself as far as it can be read; all others, and all labels, as before."""
    others = [place for place in range(9) if place != 7]
    return (found["images"].shape == whole["images"].shape and np.array_equal(found["images"][others], whole["images"][others])
            and same(found["labels"], whole["labels"]) and found["classes"] == whole["classes"])


def make_biased(folder: Path) -> None:
    make_arrays(folder)
    (folder / "sets" / "0").mkdir(parents=True)
    np.save(folder / "sets" / "0" / "train.npy", np.array([0, 2]))


def read_biased(folder: Path):
    return biased_subset(data.load(folder.name, folder.parent), 0, folder / "sets", ["train"])["train"]


def make_features(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    features.keep(path, values / np.linalg.norm(values, axis=1, keepdims=True))


def fits_features(found, whole, content: bytes) -> bool:
    return found is None or np.array_equal(found, whole)


# --- labels

ANSWERS = ("dog", "owl", "cat")  # to the images 4, 1 and 3 of a field of 6
CHOSEN = Selection(np.array([4, 1, 3]), np.array([7, 3, NOISE]), np.array([1, 1, 4, 3, 4, 4]))
ORIGIN = Origin({"file": "a.t7", "digest": "9f"}, [*CLASSES], {"n": 6, "digest": "77"}, {"solution": "hybrid"})


def make_questions(folder: Path) -> None:
    dataset = field_of(folder, 6, CLASSES)
    manifest_of(dataset, CHOSEN, ORIGIN).write(folder / "manifest.json")
    rows, tasks, smallest = [], [], []
    for rank, (place, label) in enumerate(zip(CHOSEN.annotated.tolist(), ANSWERS), 1):
        image, content = id_of(dataset, place), digest_of(dataset, place)
        rows.append({"rank": rank, "id": image, "digest": content, "file": dataset.file(place), "unsmoothness": ".5",
                     "predicted class": "cat", "label": label})
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        tasks.append({"id": rank, "data": {"image_id": image, "digest": content},
                      "annotations": [{"id": 9, "completed_by": 7, "was_cancelled": False, "result": [choice]}]})
        smallest.append({"id": rank, "image_id": image, "digest": content, "label": label, "annotator": 3})
        path = folder / "folders" / label / file_name(dataset, place, rank, content)
        path.parent.mkdir(parents=True)
        path.write_bytes(Path(dataset.file(place)).read_bytes())
    with open(folder / "to_label.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "tasks.json").write_text(json.dumps(tasks).replace('{"id": ', '\n{"id": '))
    (folder / "min.json").write_text(json.dumps(smallest).replace('{"id": ', '\n{"id": '))


def read_answers(folder: Path, name: str, asked: bool = True) -> dict[str, str]:
    """The class of each image that has one, by the answers in a file."""
    dataset = field_of(folder, 6, CLASSES)
    manifest = Manifest.read(folder / "manifest.json") if asked else None
    return named(dataset, answered(dataset, folder / name, manifest)[0])


def read_round(folder: Path) -> dict[str, str]:
    """The class of each image that has one, by an earlier round with its manifest."""
    dataset = field_of(folder, 6, CLASSES)
    return named(dataset, known_labels(dataset, [str(folder / "to_label.csv")]))


def named(dataset, labels: np.ndarray) -> dict[str, str]:
    return {id_of(dataset, place): CLASSES[label] for place, label in enumerate(labels.tolist()) if label != UNKNOWN}


def fits_answers(found: dict, whole: dict, content: bytes) -> bool:
    """Each image has the class that stands on its line, or in its task."""
    lines = content.decode("utf-8", "replace").splitlines()
    digests = dict(zip(("field/4.png", "field/1.png", "field/3.png"), DIGESTS))
    return all(whole.get(image) == label or any(label in line.casefold() and (image in line or digests.get(image, image) in line)
                                                for line in lines) for image, label in found.items())


def fits_as_asked(found: dict, whole: dict, content: bytes) -> bool:
    """No image has another class than before; some may have none."""
    return all(whole.get(image) == label for image, label in found.items())


def fits_manifest(found: dict, whole: dict, content: bytes) -> bool:
    """Each image has the answer to the image whose region, as the file has it, it is a member of."""
    if fits_as_asked(found, whole, content):
        return True
    says = json.loads(content)
    answer = dict(zip(("field/4.png", "field/1.png", "field/3.png"), ANSWERS))
    taken = {member: answer[image[0]] for image, region in zip(says["images"], says["regions"]) if region != NOISE
             for pair in says["members"][region] for member in pair}
    return all(whole.get(image) == label or taken.get(image) == label for image, label in found.items())


# --- runs

def make_results(path: Path) -> None:
    rows = [{"dataset": "digits", "model": "MobileNet", "model_number": 0, "solution": solution, "p_budget": 1, "seed": seed,
             "settings": "retrain_lr=0.001 weights=aa", "n_annotated": 8, "n_propagated": 0, "n_unlabelled": 0, "acc_raw": 79,
             "acc_before": 80, "acc_after": 81.25 + seed, "acc_best": 99, "fixed": 3, "broken": 1, "judged_on": "T2"}
            for solution in ("gini", "hybrid") for seed in (1, 2)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_results(path: Path) -> list[tuple]:
    """The runs, once a table was made of them, which has no line that is none of its own."""
    with redirect_stdout(io.StringIO()) as told:
        tables.main(tables.parse_args([str(path)]))
    table, caption = told.getvalue().rsplit("\n\n", 1)
    assert all(line.startswith("| ") and line.endswith(" |") for line in table.splitlines()) and caption.count("\n") == 1
    runs = comparison.read_runs([path])
    return [(run.solution, run.seed, run.acc_before, run.acc_after) for run in runs.itertuples()]


def fits_results(found: list[tuple], whole: list[tuple], content: bytes) -> bool:
    """Each run is one of before, or its numbers stand in the file."""
    if found == whole:
        return True
    text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    cells = re.split(r'[,;\t\r\n"]', text)
    numbers = {float(cell) for cell in cells if is_number(cell)}
    return all(run in whole or {run[1], run[2], run[3]} <= numbers for run in found)


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def make_run(folder: Path) -> None:
    folder.mkdir()
    none = np.empty(0, np.int64)
    made = evidence.Evidence(
        np.array(CLASSES), none, none, none, none, np.arange(6), np.array([0, 0, 1, UNKNOWN, 1, 1]), np.array([1, 0, 0, 0, 1, 1]),
        np.linspace(.5, 1, 6), np.array([0, 0, 0, 0, UNKNOWN, UNKNOWN]), np.array([0]), np.array([3]), np.array([0]), none,
        np.empty(0, str), np.empty((0, 1, 1, 3), np.uint8))
    index = np.unique(np.fromiter(made.shown(), np.int64))
    made.tile_index, made.tile_file, made.tiles = index, np.array([f"field/{each}.png" for each in index]), np.zeros(
        (len(index), 8, 8, 3), np.uint8)
    evidence.save(folder / page.PREDICTIONS, made)
    record = {"args": {"dataset": "pets", "model2test_arch": "MobileNet", "model_number": 0, "solution": "hybrid", "labels": None},
              "settings": {"retrain_lr": 0.001}, "result": {"acc_raw": None, "judged_on": "", "n_unlabelled": 1, "tau": 0.25},
              "epochs": [{"epoch": 1, "acc": None, "loss": None, "ssl_loss": None, "seconds": 0.5}], "command": ["repair.py"]}
    (folder / page.RECORD).write_text(json.dumps(record))


def read_evidence(folder: Path) -> tuple:
    return astuple(evidence.load(folder / page.PREDICTIONS))


def read_run(folder: Path) -> str:
    return page.write(folder).read_text(encoding="utf-8")


def fits_page(found: str, whole: str, content: bytes) -> bool:
    return found.count("<section") == whole.count("<section") and "<script" not in found


# --- all of them

def at(name: str, make: Callable[[Path], object], read: Callable[[Path], object], fits: Callable, change=None,
       share: int = 10) -> Reader:
    """The reader of a single file."""
    return Reader(name, lambda folder: make(folder / name), lambda folder: read(folder / name), fits, change, share)


def within(name: str, make: Callable[[Path], object], read: Callable[[Path], object], fits: Callable, change=None,
           share: int = 10) -> Reader:
    """The reader of a file in the folder of a dataset, of questions, or of a run."""
    return Reader(f"x/{name}", lambda folder: make(folder / "x"), lambda folder: read(folder / "x"), fits, change, share)


READERS = {
    "checkpoint": at("a.t7", lambda path: checkpoint.save(path, {"net": network().state_dict(), "acc": 81.5, "classes": [*CLASSES]}),
                     weights_in, fits_checkpoint, change_content, 30),
    "legacy": at("a.pth", save_legacy, weights_in, partial(fits_weights, given=loaded), share=30),
    "safetensors": at("a.safetensors", save_safetensors, weights_in, partial(fits_weights, given=of_safetensors), share=20),
    "mocov3": at("a.pth.tar", make_moco, lambda path: moco.load(path).state_dict(), as_before, share=3),
    "state": at("a.partial.t7", save_state, read_state, as_before),
    "images": within("images.npy", make_arrays, read_dataset, partial(fits_array, name="images")),
    "labels": within("labels.npy", make_arrays, read_dataset, partial(fits_array, name="labels")),
    "dataset": within("dataset.json", make_arrays, read_dataset, fits_description, mutations.of_json, 30),
    **{form: within(f"field/b.{form}", partial(make_folder, form=form), read_folder, fits_picture, share=4) for form in FORMS},
    "train": within("sets/0/train.npy", make_biased, read_biased, lambda found, whole, content: np.array_equal(
        found, np.load(io.BytesIO(content)))),
    "features": at("features.npy", make_features, partial(features.kept, n=20), fits_features),
    "csv": within("to_label.csv", make_questions, partial(read_answers, name="to_label.csv"), fits_answers, mutations.of_csv, 30),
    "labelled": within("to_label.csv", make_questions, partial(read_answers, name="to_label.csv", asked=False), fits_answers,
                       mutations.of_csv, 20),
    "tasks": within("tasks.json", make_questions, partial(read_answers, name="tasks.json"), fits_answers, mutations.of_json, 30),
    "min": within("min.json", make_questions, partial(read_answers, name="min.json"), fits_answers, mutations.of_json, 20),
    "sorted": within("folders/dog/1.png", make_questions, partial(read_answers, name="folders"), fits_as_asked),
    "manifest": within("manifest.json", make_questions, read_round, fits_manifest, mutations.of_json, 30),
    "results": at("results.csv", make_results, read_results, fits_results, mutations.of_csv, 15),
    "predictions": within(page.PREDICTIONS, make_run, read_evidence, as_before, share=20),
    "record": within(page.RECORD, make_run, read_run, fits_page, mutations.of_json, 10),
}
DIGESTS: list[str] = []  # of the images that are asked, in their order


def outcome(reader: Reader, folder: Path, content: bytes, whole: object) -> str:
    """What is wrong with how a reader takes a content of its file, "" for nothing."""
    path = folder / reader.file
    path.write_bytes(content)
    try:
        found = reader.read(folder)
    except UserError as error:
        message = str(error)
        return "" if message.isprintable() and len(message) < LONG + 10 else f"its message is no line: {message[:300]!r}"
    except BaseException:
        return traceback.format_exc()
    try:
        return "" if reader.fits(found, whole, content) else f"another content: {str(found)[:500]}"
    except BaseException:
        return f"what it read cannot be judged: {str(found)[:500]} {traceback.format_exc()}"


class TooLong(BaseException):
    """No reader may take it for a fault of the file."""


def late(*args):
    raise TooLong


def bounded() -> None:
    """Limit the memory of this process to MEMORY more than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def faults(root: Path, cases: list[tuple[str, str, bytes]], limit: float) -> list[str]:
    """What is wrong with how readers take contents (reader, name of the case, content), in a process of its own that is ended after
    `limit` seconds."""
    journal = root / "journal"
    child = os.fork()
    if not child:
        try:
            bounded()
            signal.signal(signal.SIGPROF, late)
            warnings.simplefilter("ignore")
            with open(journal, "w") as told, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                folders: dict[str, tuple[Path, object]] = {}
                for name, case, content in cases:
                    reader = READERS[name]
                    print(json.dumps(["begins", name, case]), file=told, flush=True)
                    if name not in folders:
                        folder = root / name
                        folder.mkdir()
                        reader.make(folder)
                        folders[name] = folder, reader.read(folder)
                    signal.setitimer(signal.ITIMER_PROF, SECONDS)
                    try:
                        wrong = outcome(reader, folders[name][0], content, folders[name][1])
                    except TooLong:
                        wrong = f"it took more than {SECONDS} seconds"
                    signal.setitimer(signal.ITIMER_PROF, 0)
                    if wrong:
                        print(json.dumps([wrong, name, case]), file=told, flush=True)
                print(json.dumps(["ends"]), file=told)
        except BaseException:
            journal.with_suffix(".error").write_text(traceback.format_exc())
        finally:
            os._exit(0)
    deadline = time.monotonic() + limit
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.02)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    found = [f"{name} {case}: {wrong}" for wrong, name, case in (line for line in lines if len(line) == 3) if wrong != "begins"]
    if lines[-1:] != [["ends"]]:
        error = journal.with_suffix(".error")
        found.append(f"the process ended in {lines[-1:]} with {ended[1]} {error.read_text() if error.exists() else ''}")
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The content of the whole file of each reader."""
    found = {}
    for name, reader in READERS.items():
        folder = tmp_path_factory.mktemp(name)
        reader.make(folder)
        if name == "sorted":
            (image,) = (folder / "x" / "folders" / "dog").iterdir()
            reader.file = f"x/folders/dog/{image.name}"
        if name == "csv":
            DIGESTS[:] = [row["digest"] for row in csv.DictReader((folder / reader.file).read_text().splitlines())]
        found[name] = (folder / reader.file).read_bytes()
    return found


def cases_of(whole: dict[str, bytes], n: int, seed: int) -> list[tuple[str, str, bytes]]:
    """Some n damaged files, shared among the readers; each is made again by its name, which is its seed."""
    total, cases = sum(reader.share for reader in READERS.values()), []
    for name, reader in READERS.items():
        for number in range(-(-n * reader.share // total)):
            case = f"{seed}.{number}"
            rng = random.Random(f"{name} {case}")
            damage = reader.change if reader.change and rng.random() < 0.5 else mutations.of_bytes
            cases.append((name, case, damage(rng, whole[name])))
    return cases


def test_damaged_files_are_named_or_read_as_they_are(tmp_path, whole):
    cases = cases_of(whole, 150, seed=1)
    assert len(cases) >= 150 and faults(tmp_path, cases, LONGEST) == []


@pytest.mark.long
def test_thousands_of_damaged_files_are_named_or_read_as_they_are(tmp_path, whole):
    cases = cases_of(whole, int(os.environ.get("FUZZ_FILES", 5000)), seed=int(os.environ.get("FUZZ_SEED", 2)))
    found = faults(tmp_path, cases, 1200)
    assert found == [], f"{len(found)} of {len(cases)}"


def test_files_that_once_failed_are_named_or_read_as_they_are(tmp_path, whole):
    cases = [(path.name.partition("--")[0], path.name, path.read_bytes()) for path in sorted(KEPT.iterdir())]
    assert cases and faults(tmp_path, cases, LONGEST) == []
