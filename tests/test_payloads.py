"""A file is data: pickles that would run code where they are read the ordinary way are refused by every reader, and nothing is run."""
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import repair
import selection
import tables
import train_classifier
from conftest import refusal
from hybridrepair.annotation import label_studio, sorted_images, spreadsheet
from hybridrepair.annotation.manifest import beside
from hybridrepair.base import checkpoint, formats
from hybridrepair.images import data
from hybridrepair.images.biased import biased_subset
from hybridrepair.report import evidence, page
from hybridrepair.selection import features
from hybridrepair.training import baseline
from mymodels import moco


class Payload:
    """A pickle that makes a folder."""
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def archive(path: Path, payload: Payload) -> None:
    torch.save({"net": payload, "settings": {}}, path)


def legacy(path: Path, payload: Payload) -> None:
    torch.save({"net": payload, "settings": {}}, path, _use_new_zipfile_serialization=False)


def pickled(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps({"net": payload}))


def objects(path: Path, payload: Payload) -> None:
    with open(path, "wb") as file:
        np.save(file, np.array([payload], dtype=object), allow_pickle=True)


def archived_objects(path: Path, payload: Payload) -> None:
    with open(path, "wb") as file:
        np.savez(file, classes=np.array([payload], dtype=object))


def dataset(path: Path):
    """The dataset of arrays in whose folder `path` lies, made with what else it needs."""
    folder = path.parent
    for name, array in (("images.npy", np.zeros((4, 8, 8, 3), np.uint8)), ("labels.npy", np.array([0, 1, 0, 1]))):
        if not (folder / name).exists():
            np.save(folder / name, array)
    if not (folder / "dataset.json").exists():
        (folder / "dataset.json").write_text(json.dumps({"split": {"train": [0, 2], "pool": [2, 4]}}))
    return data.load(folder.name, folder.parent)


def biased(path: Path) -> None:
    (path.parent / "0").mkdir()
    path.rename(path.parent / "0" / "train.npy")
    biased_subset(dataset(path), 0, path.parent, ["train"])


def tuned(path: Path) -> None:
    recipe = SimpleNamespace(epochs=1, lr=0.1, weight_decay=0, seed=1)
    baseline.tune(torch.nn.Linear(1, 1), path, None, None, recipe, {}, lambda model: None, every=0)  # type: ignore[arg-type]


READERS: dict[str, tuple[str, tuple[Callable, ...], Callable]] = {
    "model under repair, .t7": ("a.t7", (archive, legacy, pickled), formats.read),
    "model under repair, .pt": ("a.pt", (archive, legacy, pickled), formats.read),
    "model under repair, .safetensors": ("a.safetensors", (archive, pickled), formats.read),
    "MoCo v3": ("a.pth.tar", (archive, legacy, pickled), moco.load),
    "state of a training": ("a.partial.t7", (archive, legacy, pickled), lambda path: checkpoint.made_with(path, {})),
    "baseline": ("a_finetuned_0.t7", (archive, legacy, pickled), tuned),
    "images": ("images.npy", (objects, pickled, archived_objects), dataset),
    "labels": ("labels.npy", (objects, pickled, archived_objects), dataset),
    "dataset.json": ("dataset.json", (pickled,), dataset),
    "biased set": ("train.npy", (objects, pickled), biased),
    "predictions": ("predictions.npz", (objects, pickled, archived_objects), evidence.load),
    "run.json": ("run.json", (pickled,), page.read_record),
    "answers, CSV": ("a.csv", (pickled,), lambda path: spreadsheet.read(path, "labels file")),
    "answers, JSON": ("a.json", (pickled,), lambda path: label_studio.read(path, "labels file")),
    "manifest": ("manifest.json", (pickled,), lambda path: beside(path.with_name("to_label.csv"), str(path))),
    "results": ("results.csv", (pickled,), lambda path: tables.main(tables.parse_args([str(path)])))}


@pytest.mark.parametrize("save, name", [(save, name) for name, (_, saves, _) in READERS.items() for save in saves],
                         ids=lambda each: each if isinstance(each, str) else each.__name__)
def test_a_pickle_is_refused_in_one_sentence_and_not_run(tmp_path, name, save):
    file, _, read = READERS[name]
    path, ran = tmp_path / "x" / file, tmp_path / "ran"
    path.parent.mkdir()
    save(path, Payload(ran))
    refusal(read, path)
    assert not ran.exists()


def test_the_payload_runs_where_a_pickle_is_read_the_ordinary_way(tmp_path):
    pickled(tmp_path / "a", Payload(tmp_path / "ran"))
    pickle.loads((tmp_path / "a").read_bytes())
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("save", [objects, pickled, archived_objects])
def test_kept_features_that_are_pickled_are_computed_again(tmp_path, save):
    save(tmp_path / "features.npy", Payload(tmp_path / "ran"))
    assert features.kept(tmp_path / "features.npy", 1) is None and not (tmp_path / "ran").exists()


def test_a_sorted_image_that_is_a_pickle_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    pickled(tmp_path / "cat" / "1.png", Payload(tmp_path / "ran"))
    assert "cannot be read" in refusal(sorted_images.read, tmp_path, "labels file", ["cat"], True, [])
    assert not (tmp_path / "ran").exists()


def test_downloaded_batches_of_cifar_that_are_not_the_published_ones_are_not_unpickled(tmp_path, no_network):
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        pickled(folder / name, Payload(tmp_path / "ran"))
    assert "could not be downloaded" in refusal(data.load, "cifar10", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_help_says_which_flags_run_code(capsys):
    for parse_args in (repair.parse_args, selection.parse_args, train_classifier.parse_args):
        with pytest.raises(SystemExit):
            parse_args(["--help"])
        told = " ".join(capsys.readouterr().out.split())
        for flag, says in (("--model2test_arch NAME", "which runs the code in that file"), ("--fe NAME", "whose code is run"),
                           ("--model NAME", "which runs the code in that file")):
            assert says in told.partition(f" {flag} ")[2].partition(" --")[0] or f" {flag} " not in told
