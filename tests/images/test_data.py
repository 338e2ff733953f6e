"""data.py: arrays of one's own, what is refused and how, and which source goes before which. No network."""
import json
import pickle
from hashlib import sha256

import numpy as np
import pytest

from conftest import Slow, arrays, image_folder, names_in, refusal, twice_at_once
from hybridrepair.images import data, folders
from hybridrepair.images.registry import DATASETS

SPLIT = {"train": [0, 4], "val": [4, 6], "T2": [6, 8], "pool": [8, None]}
pytestmark = pytest.mark.usefixtures("no_network")


def test_arrays_with_a_description_are_a_dataset(tmp_path):
    images = arrays(tmp_path / "mine", description={
        "split": SPLIT, "classes": ["no", "yes"], "mean": [.5, .4, .3], "std": [1, .2, .3]})
    dataset = data.load("mine", tmp_path)
    assert (dataset.images == images).all() and isinstance(dataset.images, np.memmap)
    assert dataset.class_names == ["no", "yes"] and dataset.mean == (.5, .4, .3) and dataset.std == (1, .2, .3)
    assert dataset.split["pool"].tolist() == [8, 9, 10, 11] and dataset.split["pool"].dtype == np.int64


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_what_a_description_leaves_out_is_measured(channels, tmp_path):
    images = arrays(tmp_path / "mine", shape=(8, 12, channels), description={"split": SPLIT})
    dataset = data.load("mine", tmp_path)
    assert dataset.class_names == ["0", "1"]
    assert dataset.mean == pytest.approx(images[:4].mean((0, 1, 2)) / 255)
    assert dataset.std == pytest.approx(images[:4].std((0, 1, 2)) / 255)


def test_grey_arrays_of_a_registered_dataset_get_a_mean_of_their_own(tmp_path):
    arrays(tmp_path / "digits", 1000, (8, 8, 1))
    assert len(data.load("digits", tmp_path).mean) == 1


def test_integer_labels_of_any_width_are_taken_and_the_pool_may_be_unlabelled(tmp_path):
    arrays(tmp_path / "mine", description={"split": SPLIT})
    np.save(tmp_path / "mine" / "labels.npy", np.array([0, 1] * 4 + [-1] * 4, np.int8))
    dataset = data.load("mine", tmp_path)
    assert dataset.labels.dtype == np.int64 and dataset.labels[8:].tolist() == [-1] * 4


def test_arrays_without_a_split_are_told_what_to_write(tmp_path):
    arrays(tmp_path / "mine")
    message = refusal(data.load, "mine", tmp_path)
    assert str(tmp_path / "mine" / "dataset.json") in message
    example = json.loads(message[message.index("{"):message.rindex("}") + 1])
    assert set(example["split"]) == {"train", "val", "T2", "pool"}


@pytest.mark.parametrize("images, expected", [
    (np.zeros((12, 8, 8, 3), np.float32), "float32"),
    (np.zeros((12, 8, 8), np.uint8), "[12, 8, 8]"),
    (np.zeros((12, 3, 32, 32), np.uint8), "[12, 3, 32, 32]"),  # channels first
    (np.zeros((12, 7, 8, 3), np.uint8), "8 or more"),
    (np.zeros((11, 8, 8, 3), np.uint8), "labels.npy is int64 [12]"),
    (np.zeros((0, 8, 8, 3), np.uint8), "0 images"),
], ids=["float", "no channels", "channels first", "too small", "fewer than labels", "none"])
def test_images_that_do_not_fit_are_refused(images, expected, tmp_path):
    arrays(tmp_path / "mine", description={"split": SPLIT})
    np.save(tmp_path / "mine" / "images.npy", images)
    assert expected in refusal(data.load, "mine", tmp_path)


@pytest.mark.parametrize("labels, expected", [
    (np.zeros(12), "float64"),
    (np.zeros((12, 1), np.int64), "[12, 1]"),
    (np.arange(13) % 2, "[13]"),
    (np.arange(12) - 2, "images without a label"),
    (np.array([0, 1] * 5 + [0, -2]), "-2 to 1"),
    (np.array([0, 1] * 5 + [0, 10 ** 12]), "1000000000000"),
    (np.array([0, 1] * 5 + [0, 2]), "0 to 2 for 2 classes"),
], ids=["float", "two axes", "too many", "unlabelled train", "below -1", "absurd", "beyond the classes"])
def test_labels_that_do_not_fit_are_refused(labels, expected, tmp_path):
    arrays(tmp_path / "mine", description={"split": SPLIT, "classes": ["no", "yes"]})
    np.save(tmp_path / "mine" / "labels.npy", labels)
    assert expected in refusal(data.load, "mine", tmp_path)


def test_one_class_is_refused(tmp_path):
    arrays(tmp_path / "mine", description={"split": SPLIT})
    np.save(tmp_path / "mine" / "labels.npy", np.zeros(12, np.int64))
    assert "two classes or more" in refusal(data.load, "mine", tmp_path)


@pytest.mark.parametrize("file", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "npz", "pickle", "missing"])
def test_a_damaged_array_is_named(file, damage, tmp_path):
    arrays(tmp_path / "mine", description={"split": SPLIT})
    path = tmp_path / "mine" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "npz":
        with open(path, "wb") as opened:
            np.savez(opened, a=np.zeros(3), b=np.zeros(3))
    elif damage == "pickle":
        path.write_bytes(pickle.dumps([1, 2]))
    elif damage != "missing":
        path.write_bytes({"truncated": content[:-5], "empty": b"", "text": b"hello"}[damage])
    assert file in refusal(data.load, "mine", tmp_path)


def test_images_without_labels_are_never_overwritten_by_a_conversion(tmp_path):
    arrays(tmp_path / "digits")
    before = (tmp_path / "digits" / "images.npy").read_bytes()
    (tmp_path / "digits" / "labels.npy").unlink()
    assert "labels.npy" in refusal(data.load, "digits", tmp_path)
    assert (tmp_path / "digits" / "images.npy").read_bytes() == before


def test_arrays_too_short_for_the_registered_split_are_refused(tmp_path):
    arrays(tmp_path / "cifar10", 20)
    message = refusal(data.load, "cifar10", tmp_path)
    assert "is images 0 to 15000, but there are 20" in message


@pytest.mark.parametrize("change, expected", [
    ({"split": SPLIT | {"T2": [5, 8]}}, "val and T2"),
    ({"split": SPLIT | {"T2": [6, 6]}}, "part T2"),
    ({"split": SPLIT | {"T2": [7, 6]}}, "part T2"),
    ({"split": SPLIT | {"pool": [12, None]}}, "part pool"),
    ({"split": SPLIT | {"pool": [8, 13]}}, "part pool"),
    ({"split": SPLIT | {"train": [-4, 4]}}, "split"),
    ({"split": SPLIT | {"train": [0.0, 4]}}, "split"),
    ({"split": SPLIT | {"train": [0]}}, "dataset.json"),
    ({"split": SPLIT | {"train": 4}}, "dataset.json"),
    ({"split": {}}, "split is {}; write it like {"),
    ({"split": {"trian": [0, 4]}}, "split"),
    ({"split": [0, 4]}, "split"),
    ({"classes": "ab"}, 'classes is "ab"; give a list of names'),
    ({"mean": [.5, .5]}, "3 numbers"),
    ({"mean": [.5, .5], "std": [.5, .5]}, "3 numbers"),
    ({"mean": [.5, .5, .5], "std": [.5, .5, 0]}, "std above 0"),
    ({"mean": ["a", "b", "c"], "std": [1, 1, 1]}, "mean"),
    ({"mean": [.5, float("nan"), .5]}, "mean is [0.5, NaN, 0.5]"),
    ({"mean": [.5, .5, .5], "std": [1, 1, float("inf")]}, "std is [1, 1, Infinity]"),
    ({"mean": [.5, .5, 10 ** 400]}, "dataset.json"),
    ({"classes": ["cat", "cat "]}, "class 1 in"),
    ({"classes": ["cat", " "]}, "which is nothing"),
    ({"size": 4}, "size"),
    ({"size": "64"}, 'size is "64"; give a whole number from 8 to 512'),
    ({"stamps": 3}, "stamps is 3; delete this entry"),
    ({"size": 700}, "size is 700"),
    ({"mean": [123.7, 116.3, 103.5], "std": [.2, .2, .2]}, "mean is [123.7, 116.3, 103.5]"),
    ({"mean": [.5, .5, .5], "std": [58.4, 57.1, 57.4]}, "std is [58.4, 57.1, 57.4]; give a list of numbers for pixels in 0 to 1, so "),
], ids=lambda value: "" if isinstance(value, dict) else None)
def test_a_description_that_does_not_fit_is_refused(change, expected, tmp_path):
    arrays(tmp_path / "mine", description={"split": SPLIT} | change)
    message = refusal(data.load, "mine", tmp_path)
    assert expected in message and "dataset.json" in message


def test_a_description_saved_by_a_spreadsheet_s_editor_with_a_byte_order_mark_is_read(tmp_path):
    arrays(tmp_path / "mine")
    (tmp_path / "mine" / "dataset.json").write_text(json.dumps({"split": SPLIT}), encoding="utf-8-sig")
    assert len(data.load("mine", tmp_path).split["train"]) == 4


@pytest.mark.parametrize("given", ["mean", "std"])
def test_of_mean_and_std_the_one_that_is_given_is_kept_and_the_other_measured(given, tmp_path):
    images = arrays(tmp_path / "mine", description={"split": SPLIT, given: [.5, .4, .3]})
    dataset, train = data.load("mine", tmp_path), images[:4] / 255
    expected = {"mean": train.mean((0, 1, 2)), "std": train.std((0, 1, 2))} | {given: (.5, .4, .3)}
    assert dataset.mean == pytest.approx(expected["mean"]) and dataset.std == pytest.approx(expected["std"])


# parts

@pytest.mark.parametrize("split, of", [({"pool": [3, None]}, "pool"), ({"T2": [0, 5], "pool": [5, None]}, "pool"),
                                       ({"val": [0, 4], "T2": [4, 12]}, "val"), ({"T2": [2, 12]}, "T2")])
def test_parts_that_are_left_out_are_empty_and_mean_and_std_are_of_the_next(split, of, tmp_path):
    images = arrays(tmp_path / "mine", description={"split": split})
    dataset = data.load("mine", tmp_path)
    assert set(dataset.split) == {"train", "val", "T2", "pool"}
    assert all(index.dtype == np.int64 and (len(index) > 0) == (part in split) for part, index in dataset.split.items())
    assert dataset.mean == pytest.approx(images[dataset.split[of]].mean((0, 1, 2)) / 255)


def test_a_part_that_is_needed_and_absent_is_named_with_its_folder(tmp_path):
    arrays(tmp_path / "mine", description={"split": {"train": [0, 4], "pool": [4, None]}})
    dataset = data.load("mine", tmp_path)
    data.require(dataset, "train", "pool")
    for part, folder in (("val", "val"), ("T2", "test")):
        message = refusal(data.require, dataset, "train", part)
        assert f"no {part} images" in message and str(tmp_path / "mine" / folder) in message


# size

def test_arrays_may_be_asked_for_in_their_own_size_and_no_other(tmp_path):
    arrays(tmp_path / "mine", shape=(16, 16, 3), description={"split": SPLIT})
    assert data.load("mine", tmp_path, size=16).images.shape == (12, 16, 16, 3)
    message = refusal(data.load, "mine", tmp_path, size=32)
    assert "16x16 pixels" in message and "--img_size asks for 32" in message
    assert "16x16 pixels" in refusal(data.load, "digits", tmp_path, size=64)


@pytest.mark.parametrize("text", ["{", "[1]", "3", ""])
def test_a_description_that_is_no_json_object_is_refused(text, tmp_path):
    arrays(tmp_path / "mine")
    (tmp_path / "mine" / "dataset.json").write_text(text)
    assert str(tmp_path / "mine" / "dataset.json") in refusal(data.load, "mine", tmp_path)


def test_an_unknown_dataset_is_told_the_known_ones(tmp_path):
    message = refusal(data.load, "cifar", tmp_path)
    assert "dataset cifar is unknown" in message and "cifar10, svhn, gtsrb, stl10, digits" in message
    assert "folder's name" in message and str(tmp_path) in message
    assert not (tmp_path / "cifar").exists()
    for path in ("../x", "a/b", str(tmp_path)):
        assert "is unknown" in refusal(data.load, path, tmp_path)


def test_a_folder_without_data_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    message = refusal(data.load, "empty", tmp_path)
    assert "neither images.npy nor images" in message and str(tmp_path / "empty") in message


@pytest.mark.parametrize("name, module, making", [("pets", folders, "convert"), ("digits", data, "_from_registry")])
def test_two_processes_convert_a_dataset_once(tmp_path, monkeypatch, name, module, making):
    image_folder(tmp_path / "pets")
    slow = Slow(tmp_path / "calls", getattr(module, making))
    monkeypatch.setattr(module, making, slow)
    twice_at_once(lambda: data.load(name, tmp_path))
    assert slow.calls == 1 and len(data.load(name, tmp_path).images) == (12 if name == "pets" else 1797)


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(np, "save", full)
    message = refusal(data.load, "digits", tmp_path)
    assert "cannot be written" in message and "No space left" in message
    assert not names_in(tmp_path / "digits")


def test_the_digest_of_a_registered_dataset_with_its_usual_parts_is_that_of_earlier_versions(tmp_path):
    images = arrays(tmp_path / "digits", 960, description={"classes": ["0", "1"], "mean": [.5] * 3, "std": [.25] * 3})
    whole = repr((["0", "1"], [.5, .5, .5, .25, .25, .25])).encode()
    for part in (range(550, 950), range(950, 960), range(400), range(400, 550)):  # T2, pool, train, val
        whole += np.array(part, np.int64).tobytes()
    whole += (np.arange(960) % 2).tobytes() + images.tobytes()
    assert data.load("digits", tmp_path).digest == sha256(whole).hexdigest()[:16]


@pytest.mark.parametrize("name, count, split", [("mine", 12, SPLIT), ("digits", 960, DATASETS["digits"].split)])
def test_a_digest_changes_where_an_image_goes_to_the_next_part(tmp_path, name, count, split):
    told = {"split": split, "mean": [.5] * 3, "std": [.25] * 3}
    arrays(tmp_path / name, count, description=told)
    found = {data.load(name, tmp_path).digest}
    for one, other in (("train", "val"), ("val", "T2"), ("T2", "pool")):
        (begin, middle), end = split[one], split[other][1]
        (tmp_path / name / "dataset.json").write_text(json.dumps(told | {"split": split | {
            one: [begin, middle - 1], other: [middle - 1, end]}}))
        found.add(data.load(name, tmp_path).digest)
    assert len(found) == 4


@pytest.mark.parametrize("place, changes", [(0, False), (1, True), (5, False), (11, True)])
def test_a_digest_changes_with_the_images_and_labels_of_the_parts_and_no_others(tmp_path, place, changes):
    images = arrays(tmp_path / "mine", description={"split": {"train": [1, 4], "pool": [8, None]}, "mean": [.5] * 3, "std": [.25] * 3})
    before = data.load("mine", tmp_path).digest
    labels = np.arange(12) % 2
    labels[place] ^= 1
    np.save(tmp_path / "mine/labels.npy", labels)
    assert (data.load("mine", tmp_path).digest != before) == changes
    np.save(tmp_path / "mine/labels.npy", np.arange(12) % 2)
    images[place, 3, 3] ^= 1
    np.save(tmp_path / "mine/images.npy", images)
    assert (data.load("mine", tmp_path).digest != before) == changes
