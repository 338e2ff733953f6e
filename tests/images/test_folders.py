"""folders.py: an image folder becomes arrays, again when it changes, and what is refused and how."""
import json
from pathlib import Path

import pytest

from conftest import image_folder, picture, refusal
from hybridrepair.images import data, folders
from hybridrepair.images.parts import FOLDERS


def test_an_image_folder_becomes_arrays_whose_parts_are_its_subfolders(tmp_path):
    image_folder(tmp_path / "pets")
    for skipped in ("train/cat/.hidden.png", "train/.cache/x.png", "train/cat/notes.txt", "Thumbs.db"):
        (tmp_path / "pets" / skipped).parent.mkdir(exist_ok=True)
        (tmp_path / "pets" / skipped).write_text("no image")
    dataset = data.load("pets", tmp_path)
    assert dataset.class_names == ["cat", "dog"] and dataset.num_classes == 2
    assert dataset.images.shape == (12, 32, 32, 3)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0, 1, 0, 1, -1, -1, -1, 1]
    assert {part: indices.tolist() for part, indices in dataset.split.items()} == {
        "train": [0, 1, 2, 3], "val": [4, 5], "T2": [6, 7], "pool": [8, 9, 10, 11]}
    assert dataset.file(9) == str(tmp_path / "pets" / "field" / "1.png")
    assert dataset.images[9, 0, 0].tolist() == [0, 0, 10]
    assert dataset.images[11, 0, 0].tolist() == [77, 77, 77]  # grey becomes RGB
    assert dataset.mean == pytest.approx([100 / 255, 100 / 255, 0], abs=.01)
    assert dataset.std == pytest.approx([100 / 255, 100 / 255, 1 / 255], abs=.01)
    description = json.loads((tmp_path / "pets" / "dataset.json").read_text())
    assert description["classes"] == ["cat", "dog"] and description["files"][0] == "train/cat/0.png"
    assert description["split"]["T2"] == [6, 8] and not list((tmp_path / "pets").glob(".*tmp"))


def test_an_image_folder_is_converted_again_only_when_its_files_or_the_size_change(tmp_path, monkeypatch):
    image_folder(tmp_path / "pets")
    data.load("pets", tmp_path)
    conversions = []
    monkeypatch.setattr(folders, "write_images", lambda *args, write=folders.write_images: conversions.append(1) or write(*args))
    assert data.load("pets", tmp_path).images.shape[0] == 12 and len(conversions) == 0
    picture(tmp_path / "pets" / "field" / "new.png", (1, 2, 3))
    dataset = data.load("pets", tmp_path)
    assert len(conversions) == 1 and len(dataset.split["pool"]) == 5
    assert Path(dataset.file(12)).name == "new.png" and dataset.images[12, 0, 0].tolist() == [1, 2, 3]
    path = tmp_path / "pets" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": 48}))
    assert data.load("pets", tmp_path).images.shape == (13, 48, 48, 3) and len(conversions) == 2
    data.load("pets", tmp_path)
    assert len(conversions) == 2


def test_a_size_written_beforehand_is_used_and_kept(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "dataset.json").write_text('{"size": 16}')
    assert data.load("pets", tmp_path).images.shape == (12, 16, 16, 3)
    assert json.loads((tmp_path / "pets" / "dataset.json").read_text())["size"] == 16


def test_a_registered_name_may_be_an_image_folder(tmp_path):
    image_folder(tmp_path / "cifar10")
    dataset = data.load("cifar10", tmp_path)
    assert dataset.class_names == ["cat", "dog"] and len(dataset.split["train"]) == 4
    assert data.load("cifar10", tmp_path).class_names == ["cat", "dog"]


def test_class_subfolders_may_be_links_and_have_subfolders(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "dog").rename(tmp_path / "elsewhere")
    (tmp_path / "pets" / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    picture(tmp_path / "elsewhere" / "more" / "9.png", (0, 0, 0))
    dataset = data.load("pets", tmp_path)
    assert dataset.labels[dataset.split["train"]].tolist() == [0, 0, 1, 1, 1]


def test_an_unreadable_image_is_named(tmp_path):
    image_folder(tmp_path / "pets")
    bad = tmp_path / "pets" / "field" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    message = refusal(data.load, "pets", tmp_path)
    assert str(bad) in message and "cannot be read" in message
    assert not list((tmp_path / "pets").glob("*.npy"))


@pytest.mark.parametrize("part", ["val", "test", "field"])
def test_a_class_that_train_lacks_is_refused(part, tmp_path):
    image_folder(tmp_path / "pets")
    picture(tmp_path / "pets" / part / "fox" / "0.png", (0, 0, 0))
    message = refusal(data.load, "pets", tmp_path)
    assert str(tmp_path / "pets" / part / "fox") in message and "none of the classes" in message


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_image_without_a_class_is_refused_outside_of_field(part, tmp_path):
    image_folder(tmp_path / "pets")
    picture(tmp_path / "pets" / part / "0.png", (0, 0, 0))
    message = refusal(data.load, "pets", tmp_path)
    assert f"part {FOLDERS[part]} " in message and "1 images without a label" in message


# interrupted conversions

@pytest.mark.parametrize("before", ["pixels", "dataset.json", "labels.npy", "the end"])
@pytest.mark.parametrize("changed", [False, True], ids=["first", "again"])
def test_an_interrupted_conversion_is_never_taken_for_a_finished_one(before, changed, tmp_path, monkeypatch):
    image_folder(tmp_path / "pets")
    if changed:
        data.load("pets", tmp_path)
        picture(tmp_path / "pets" / "train" / "ant" / "0.png", (9, 9, 9))  # every label moves by one

    def interrupted(path, *args, save=folders.save):
        if before in (path.name, "pixels"):
            raise KeyboardInterrupt
        save(path, *args)
        if before == "the end" and path.name == "labels.npy":
            raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folders, "pixels" if before == "pixels" else "save", interrupted)
        data.load("pets", tmp_path)
    assert not list((tmp_path / "pets").glob(".*tmp"))
    dataset = data.load("pets", tmp_path)
    assert dataset.class_names == (["ant", "cat", "dog"] if changed else ["cat", "dog"])
    assert len(dataset.images) == len(dataset.labels) == len(dataset.files) == 12 + changed
    assert (dataset.images[0, 0, 0].tolist() == [9, 9, 9]) == changed
