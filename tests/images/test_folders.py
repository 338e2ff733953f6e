"""folders.py: an image folder becomes arrays, again when it changes, and what is refused and how."""
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import arrays, image_folder, names_in, picture, refusal
from hybridrepair.base.text import text_of
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


def test_a_class_folder_without_images_is_named_unless_the_classes_are_written_down(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "bee").mkdir()
    assert f"bee in {tmp_path / 'pets' / 'train'} has no image" in refusal(data.load, "pets", tmp_path)
    (tmp_path / "pets" / "dataset.json").write_text('{"classes": ["bee", "cat", "dog"]}')
    assert data.load("pets", tmp_path).labels.tolist()[:4] == [1, 1, 2, 2]


def test_classes_that_get_other_numbers_are_told(tmp_path, capsys):
    image_folder(tmp_path / "pets")
    data.load("pets", tmp_path)
    assert "no longer" not in capsys.readouterr().out
    picture(tmp_path / "pets" / "train" / "bee" / "0.png", (1, 2, 3))
    assert data.load("pets", tmp_path).class_names == ["bee", "cat", "dog"]
    assert "are no longer cat, dog, but bee, cat, dog" in capsys.readouterr().out


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


# what is an image

def description_of(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def test_images_of_any_format_and_size_make_one_dataset_and_other_files_are_told(tmp_path, capsys):
    image_folder(tmp_path / "pets")
    field = tmp_path / "pets" / "field"
    for name, size in (("a.GIF", (9, 300)), ("b.tga", (1, 1)), ("c.webp", (31, 64))):
        picture(field / name, (50, 50, 50), size)
    for name in ("x.heic", "y.HEIC", "notes.txt", "Thumbs", ".hidden.txt"):
        (field / name).write_text("no image")
    assert len(data.load("pets", tmp_path).split["pool"]) == 7
    out = capsys.readouterr().out
    assert "2 of .heic, 1 of .txt, 1 of no ending" in out or "2 of .heic, 1 of no ending, 1 of .txt" in out
    data.load("pets", tmp_path)
    assert not capsys.readouterr().out


def test_a_folder_of_other_files_alone_has_no_images_and_they_are_told(tmp_path, capsys):
    (tmp_path / "pets" / "field").mkdir(parents=True)
    (tmp_path / "pets" / "field" / "x.heic").write_text("no image")
    assert "neither images.npy nor images" in refusal(data.load, "pets", tmp_path)
    assert "1 of .heic" in capsys.readouterr().out


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "loop"])
def test_a_link_to_a_folder_that_it_lies_in_does_not_multiply_images(target, tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "dog" / "loop").symlink_to(target)
    assert len(data.load("pets", tmp_path).images) == 12


def test_a_linked_part_does_not_multiply_images_either(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "field").rename(tmp_path / "elsewhere")
    (tmp_path / "pets" / "field").symlink_to(tmp_path / "elsewhere")
    for target in (tmp_path / "elsewhere", tmp_path / "pets", tmp_path):
        (tmp_path / "elsewhere" / "dog" / target.name).symlink_to(target)
    assert len(data.load("pets", tmp_path).images) == 12


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    image_folder(tmp_path / "pets")
    closed = tmp_path / "pets" / "field" / "dog"

    def scandir(path, real=os.scandir):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return real(path)
    monkeypatch.setattr(os, "scandir", scandir)
    message = refusal(data.load, "pets", tmp_path)
    assert f"folder {closed} cannot be read" in message and "Permission denied" in message


def test_a_part_that_is_a_link_to_nothing_is_named(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "val").rename(tmp_path / "elsewhere")
    (tmp_path / "pets" / "val").symlink_to(tmp_path / "unmounted")
    assert f"folder {tmp_path / 'pets' / 'val'} cannot be read" in refusal(data.load, "pets", tmp_path)


# names

def test_names_that_are_not_utf_8_are_read_and_can_be_written_down(tmp_path):
    image_folder(tmp_path / "pets")
    name = os.fsdecode(b"caf\xe9")
    picture(tmp_path / "pets" / "train" / name / f"{name}.png", (1, 2, 3))
    picture(tmp_path / "pets" / "field" / f"{name}.png", (4, 5, 6))
    for dataset in (data.load("pets", tmp_path), data.load("pets", tmp_path)):
        assert dataset.class_names == [r"caf\udce9", "cat", "dog"]
        index = dataset.files.index(f"train/{name}/{name}.png")
        assert dataset.labels[index] == 0 and Path(dataset.file(index)).is_file()
        text_of(dataset.file(index)).encode()  # what file() itself says could not be
    (tmp_path / "pets" / "field" / f"{name}.png").write_text("damaged")
    assert r"caf\udce9.png" in text_of(refusal(data.load, "pets", tmp_path))
    data.load("pets", tmp_path, skip_bad=True)
    data.load("pets", tmp_path)


def test_spaces_at_the_ends_of_a_class_folder_belong_to_no_name(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "dog").rename(tmp_path / "pets" / "train" / "dog ")
    picture(tmp_path / "pets" / "train" / "a$b^2$" / "0.png", (0, 0, 0))
    dataset = data.load("pets", tmp_path)
    assert dataset.class_names == ["a$b^2$", "cat", "dog"] and dataset.labels[dataset.split["val"]].tolist() == [1, 2]
    assert data.load("pets", tmp_path).labels.tolist() == dataset.labels.tolist()


def test_a_class_folder_without_a_name_is_refused(tmp_path):
    image_folder(tmp_path / "pets")
    picture(tmp_path / "pets" / "train" / " " / "0.png", (0, 0, 0))
    assert "has no name but spaces" in refusal(data.load, "pets", tmp_path)


# what a user wrote

GIVEN = {"classes": ["dog", "owl", "cat"], "mean": [.5, .4, .3], "std": [.3, .2, .1], "size": 24, "licence": "mine"}


def test_what_a_user_wrote_beforehand_is_kept_through_conversions(tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / "dataset.json").write_text(json.dumps(GIVEN))
    for count in (12, 13):
        dataset = data.load("pets", tmp_path)
        assert dataset.images.shape == (count, 24, 24, 3) and dataset.class_names == GIVEN["classes"]
        assert dataset.mean == (.5, .4, .3) and dataset.std == (.3, .2, .1)
        assert dataset.labels[:4].tolist() == [2, 2, 0, 0]
        assert {key: description_of(tmp_path / "pets")[key] for key in GIVEN} == GIVEN
        picture(tmp_path / "pets" / "field" / "new.png", (1, 2, 3))


@pytest.mark.parametrize("given", ["mean", "std"])
def test_what_a_user_wrote_afterwards_is_kept_and_what_was_measured_follows_the_images(given, tmp_path):
    image_folder(tmp_path / "pets")
    before = data.load("pets", tmp_path)
    path = tmp_path / "pets" / "dataset.json"
    path.write_text(json.dumps(description_of(tmp_path / "pets") | {given: [.5, .4, .3]}))
    assert getattr(data.load("pets", tmp_path), given) == (.5, .4, .3)
    picture(tmp_path / "pets" / "train" / "ant" / "0.png", (255, 255, 255))
    after = data.load("pets", tmp_path)
    other = {"mean": "std", "std": "mean"}[given]
    assert getattr(after, given) == (.5, .4, .3) and getattr(after, other) != getattr(before, other)
    assert after.class_names == ["ant", "cat", "dog"]


def test_parts_of_an_image_folder_other_than_its_subfolders_are_refused_and_nothing_is_converted(tmp_path):
    image_folder(tmp_path / "pets")
    path = tmp_path / "pets" / "dataset.json"
    path.write_text('{"split": {"train": [0, 2], "pool": [2, null]}}')
    message = refusal(data.load, "pets", tmp_path)
    assert f"{path}: split is not what the folders are" in message and "subfolders train, val, test, field" in message
    assert not (tmp_path / "pets" / "images.npy").exists()
    path.unlink()
    dataset = data.load("pets", tmp_path)
    assert "split" not in refusal(data.require, replace(dataset, split=dataset.split | {"val": np.arange(0)}), "val")
    written = description_of(tmp_path / "pets")
    path.write_text(json.dumps(written | {"split": written["split"] | {"pool": [4, None]}}))
    assert "and delete this entry" in refusal(data.load, "pets", tmp_path)
    path.write_text(json.dumps({key: value for key, value in written.items() if key != "split"}))
    assert {part: index.tolist() for part, index in data.load("pets", tmp_path).split.items()} == {
        part: index.tolist() for part, index in dataset.split.items()}
    for part in FOLDERS:  # arrays of images that are gone may be cut otherwise
        shutil.rmtree(tmp_path / "pets" / part)
    path.write_text(json.dumps(written | {"split": {"train": [0, 4], "pool": [6, None]}}))
    assert data.load("pets", tmp_path).split["pool"].tolist() == [6, 7, 8, 9, 10, 11]


def test_labels_follow_when_the_classes_are_put_into_another_order(tmp_path):
    image_folder(tmp_path / "pets")
    data.load("pets", tmp_path)
    path = tmp_path / "pets" / "dataset.json"
    path.write_text(json.dumps(description_of(tmp_path / "pets") | {"classes": ["dog", "cat"]}))
    dataset = data.load("pets", tmp_path)
    assert dataset.class_names == ["dog", "cat"] and dataset.labels[:4].tolist() == [1, 1, 0, 0]
    path.write_text(json.dumps(description_of(tmp_path / "pets") | {"classes": ["dog", "owl"]}))
    assert "cat is none of the classes in" in refusal(data.load, "pets", tmp_path)


def test_a_conversion_of_an_earlier_version_is_done_again_once_and_its_numbers_are_no_user_s(tmp_path, monkeypatch):
    image_folder(tmp_path / "pets")
    found = data.load("pets", tmp_path)
    now = description_of(tmp_path / "pets")
    earlier = {key: now[key] for key in ("classes", "split", "mean", "std", "size", "files")}
    earlier |= {"mean": [.1, .2, .3], "std": [.1, .2, .3]}
    (tmp_path / "pets" / "dataset.json").write_text(json.dumps(earlier))
    assert data.load("pets", tmp_path).mean == found.mean
    monkeypatch.setattr(folders, "write_images", None)
    assert data.load("pets", tmp_path).std == found.std


# size

def test_a_size_that_is_asked_for_goes_before_that_of_the_description_and_stays(tmp_path):
    image_folder(tmp_path / "pets")
    assert data.load("pets", tmp_path, size=20).images.shape[1:] == (20, 20, 3)
    assert data.load("pets", tmp_path).images.shape[1:] == (20, 20, 3)  # no conversion to and fro between steps
    assert data.load("pets", tmp_path, size=28).images.shape[1:] == (28, 28, 3)
    (tmp_path / "pets" / "dataset.json").write_text(json.dumps(description_of(tmp_path / "pets") | {"size": 16}))
    assert data.load("pets", tmp_path).images.shape[1:] == (16, 16, 3)
    assert data.load("pets", tmp_path, size=28).images.shape[1:] == (28, 28, 3)
    assert description_of(tmp_path / "pets")["size"] == 16


# damage

def damage(folder: Path, *files: str) -> list[str]:
    for file in files:
        (folder / file).write_bytes((folder / file).read_bytes()[:60])
    return [str(folder / file) for file in files]


def test_all_damaged_images_are_named_with_their_number(tmp_path):
    image_folder(tmp_path / "pets")
    paths = damage(tmp_path / "pets", "train/cat/1.png", "field/1.png", "field/dog/0.png")
    (tmp_path / "pets" / "field" / "gone.png").symlink_to("nowhere")
    message = refusal(data.load, "pets", tmp_path)
    assert message.startswith("4 of 13 images cannot be read: ") and all(path in message for path in paths)
    assert "field/gone.png (FileNotFoundError" in message and message.endswith("or leave them out by --skip_bad")
    assert names_in(tmp_path / "pets") == ["field", "test", "train", "val"]


def test_twenty_of_many_damaged_images_are_named(tmp_path):
    image_folder(tmp_path / "pets")
    for i in range(30):
        (tmp_path / "pets" / "field" / f"bad{i}.png").write_text("no image")
    message = refusal(data.load, "pets", tmp_path)
    assert "30 of 42 images" in message and message.count("/field/bad") >= 20 and "and 10 more" in message
    assert sum(f"/field/bad{i}.png (" in message for i in range(30)) == 20


def test_damaged_images_are_left_out_if_asked_for_and_recorded(tmp_path, capsys, monkeypatch):
    image_folder(tmp_path / "pets")
    damage(tmp_path / "pets", "train/cat/1.png", "field/1.png")
    dataset = data.load("pets", tmp_path, skip_bad=True)
    assert dataset.labels.tolist() == [0, 1, 1, 0, 1, 0, 1, -1, -1, 1] and len(dataset.images) == len(dataset.files) == 10
    assert {part: len(index) for part, index in dataset.split.items()} == {"train": 3, "val": 2, "T2": 2, "pool": 3}
    assert dataset.images[8, 0, 0].tolist() == [0, 0, 20] and dataset.file(8).endswith("field/2.png")
    skipped = description_of(tmp_path / "pets")["skipped"]
    assert [path for path, _ in skipped] == ["train/cat/1.png", "field/1.png"] and all(len(reason) > 5 for _, reason in skipped)
    assert capsys.readouterr().out.splitlines() == [
        f"left out 2 of 12 images, which cannot be read: skipped in {tmp_path / 'pets' / 'dataset.json'} names them"]
    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_images", None)
        assert len(data.load("pets", tmp_path).images) == 10  # decided once
    picture(tmp_path / "pets" / "field" / "1.png", (9, 9, 9))
    assert "1 of 12 images" in refusal(data.load, "pets", tmp_path)
    picture(tmp_path / "pets" / "train" / "cat" / "1.png", (9, 9, 9))
    assert len(data.load("pets", tmp_path).images) == 12 and not description_of(tmp_path / "pets")["skipped"]


def test_where_no_image_can_be_read_none_can_be_left_out(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / "pets" / "field").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / "field" / name).write_text("no image")
    (tmp_path / "pets" / "dataset.json").write_text('{"classes": ["cat", "dog"]}')
    message = refusal(data.load, "pets", tmp_path, skip_bad=True)
    assert "2 of 2 images cannot be read" in message and "--skip_bad" not in message


# changes under the same name

def test_a_file_that_changed_under_its_name_is_converted_again(tmp_path):
    image_folder(tmp_path / "pets")
    path = tmp_path / "pets" / "field" / "2.png"
    assert data.load("pets", tmp_path).images[10, 0, 0].tolist() == [0, 0, 20]
    before = path.stat()
    picture(path, (0, 0, 21))  # a file as long as before
    assert path.stat().st_size == before.st_size
    assert data.load("pets", tmp_path).images[10, 0, 0].tolist() == [0, 0, 21]


# parts that are absent

@pytest.mark.parametrize("part", ["train", "val", "test", "field"])
def test_a_part_may_be_absent(part, tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / part).rename(tmp_path / "away")
    dataset = data.load("pets", tmp_path)
    assert dataset.class_names == ["cat", "dog"] and list(dataset.split) == ["train", "val", "T2", "pool"]
    assert [name for name, index in dataset.split.items() if not len(index)] == [FOLDERS[part]]
    assert dataset.split[FOLDERS[part]].dtype == np.int64


def test_field_images_alone_are_a_dataset_once_their_classes_are_told(tmp_path):
    for i in range(3):
        picture(tmp_path / "pets" / "field" / f"{i}.png", (10 * i, 0, 0))
    message = refusal(data.load, "pets", tmp_path)
    assert "does not tell its classes" in message and str(tmp_path / "pets" / "dataset.json") in message
    (tmp_path / "pets" / "dataset.json").write_text(message[message.index("{"):message.rindex("}") + 1])
    dataset = data.load("pets", tmp_path)
    assert dataset.class_names == ["cat", "dog"] and dataset.labels.tolist() == [-1, -1, -1]
    assert dataset.mean == pytest.approx([10 / 255, 0, 0]) and [len(index) for index in dataset.split.values()] == [0, 0, 0, 3]


def test_mean_and_std_of_a_folder_without_train_images_are_those_of_the_field(tmp_path):
    picture(tmp_path / "pets" / "test" / "cat" / "0.png", (255, 255, 255))
    picture(tmp_path / "pets" / "test" / "dog" / "0.png", (255, 255, 255))
    picture(tmp_path / "pets" / "field" / "0.png", (51, 0, 0))
    dataset = data.load("pets", tmp_path)
    assert dataset.mean == pytest.approx([.2, 0, 0]) and dataset.class_names == ["cat", "dog"]


def test_one_class_alone_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    picture(tmp_path / "pets" / "train" / "cat" / "0.png", (0, 0, 0))
    monkeypatch.setattr(folders, "pixels", None)
    assert "one class alone, cat" in refusal(data.load, "pets", tmp_path)


def test_images_that_other_arrays_lie_beside_are_left_alone(tmp_path):
    image_folder(tmp_path / "pets")
    arrays(tmp_path / "pets", description={"split": {"pool": [0, None]}})
    assert data.load("pets", tmp_path).images.shape == (12, 9, 10, 3)
