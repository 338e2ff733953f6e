"""data.py: the registry, the three sources, what is refused and how, and the biased sets. No network, no GPU."""
import dataclasses
import json
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybridrepair.base.errors import UserError
from hybridrepair.images import data

SPLIT = {"train": [0, 4], "val": [4, 6], "T2": [6, 8], "pool": [8, None]}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def refusal(function, *args) -> str:
    """The message of the UserError that function(*args) raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".")
    return message


def arrays(folder: Path, count: int = 12, shape: tuple = (9, 10, 3), description: dict | None = None) -> np.ndarray:
    """Write a small dataset of two classes as arrays; returns its images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(count) % 2)
    if description is not None:
        (folder / "dataset.json").write_text(json.dumps(description))
    return images


def picture(path: Path, color, size: tuple = (40, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def image_folder(folder: Path) -> None:
    """train: 2 cats, 2 dogs; val and test: one each; field: 3 flat images, 1 labelled."""
    for part, count in (("train", 2), ("val", 1), ("test", 1)):
        for i in range(count):
            picture(folder / part / "cat" / f"{i}.png", (200, 0, 0))
            picture(folder / part / "dog" / f"{i}.JPG", (0, 200, 0))
    for i in range(3):
        picture(folder / "field" / f"{i}.png", (0, 0, 10 * i))
    picture(folder / "field" / "dog" / "0.png", 77, mode="L")


# the registry

def test_registered_splits_tile_their_dataset_without_overlap():
    for name, spec in data.DATASETS.items():
        ranges = sorted((begin, spec.count if end is None else end) for begin, end in spec.split.values())
        assert set(spec.split) == {"train", "val", "T2", "pool"}, name
        assert ranges[0][0] == 0 and ranges[-1][1] == spec.count, name
        assert all(previous[1] == following[0] for previous, following in zip(ranges, ranges[1:])), name
        assert len(spec.mean) == len(spec.std) == 3 and 0 < min(spec.std), name


def test_registered_facts_are_those_of_the_method():
    specs = data.DATASETS
    assert {name: len(spec.classes) for name, spec in specs.items()} == {
        "cifar10": 10, "svhn": 10, "gtsrb": 43, "stl10": 10, "digits": 10}
    assert {name: spec.keep for name, spec in specs.items()} == {
        "cifar10": .75, "svhn": .75, "gtsrb": .9, "stl10": .9, "digits": .75}
    assert specs["cifar10"].mean == pytest.approx(np.array([125.3, 123.0, 113.9]) / 255)
    assert specs["cifar10"].std == pytest.approx(np.array([63.0, 62.1, 66.7]) / 255)
    assert specs["gtsrb"].mean == (.3337, .3064, .3171) and specs["stl10"].std == (.2471, .2435, .2616)
    assert specs["svhn"].split["pool"] == (20000, 99289) and specs["stl10"].split["T2"] == (3000, 7000)
    for count, weights in data.CLASS_WEIGHTS.items():
        assert len(weights["B"]) == len(weights["C"]) == count
    assert data.CLASS_WEIGHTS[10]["C"][2] == .00394827 and data.CLASS_WEIGHTS[43]["B"][42] == .53056465
    # sums taken from the method's text, not from data.py: one mistyped digit changes them
    sums = [sum(data.CLASS_WEIGHTS[count][model]) for count in (10, 43) for model in "BC"]
    assert sums == pytest.approx([4.11387258, 6.22602202, 23.60334119, 19.15776525], abs=1e-9)


# digits

def test_digits_come_without_network_and_are_converted_once(tmp_path, monkeypatch):
    digits = data.load("digits", tmp_path)
    assert digits.images.shape == (1797, 16, 16, 3) and digits.images.dtype == np.uint8
    assert {part: len(indices) for part, indices in digits.split.items()} == {
        "train": 400, "val": 150, "T2": 400, "pool": 847}
    assert digits.labels.dtype == np.int64 and digits.num_classes == len(digits.class_names) == 10
    assert isinstance(digits.images, np.memmap) and not digits.images.flags.writeable
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == ["images.npy", "labels.npy"]
    assert (digits.images[..., 0] == digits.images[..., 2]).all() and digits.file(3) == ""

    def again(folder):
        raise AssertionError("converted twice")
    monkeypatch.setitem(data.DATASETS, "digits", dataclasses.replace(data.DATASETS["digits"], load=again))
    assert (data.load("digits", str(tmp_path)).labels == digits.labels).all()


def test_digits_mean_and_std_are_those_of_their_train_part(tmp_path):
    digits = data.load("digits", tmp_path)
    train = digits.images[digits.split["train"]] / 255
    assert train.mean((0, 1, 2)) == pytest.approx(digits.mean, abs=1e-4)
    assert train.std((0, 1, 2)) == pytest.approx(digits.std, abs=1e-4)


# torchvision's loaders, on small files in the formats of the real ones

@pytest.fixture
def small(monkeypatch):
    """Accept files that are not the published ones: only their checksums are skipped, and the split is cut down."""
    from torchvision import datasets
    for module in (datasets.utils, datasets.cifar, datasets.svhn, datasets.stl10):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())

    def shorten(name: str, count: int) -> None:
        split = {"train": (0, 2), "val": (2, 4), "T2": (4, 6), "pool": (6, None)}
        monkeypatch.setitem(data.DATASETS, name, dataclasses.replace(data.DATASETS[name], split=split, count=count))
    return shorten


def test_cifar10_is_read_from_its_pickles_train_batches_first(tmp_path, small):
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    for number, file in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        rows = slice(2 * number, 2 * number + 2)
        batch = {"data": pixels[rows].reshape(2, 3072), "labels": [number, number + 1]}
        (folder / file).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(data.DATASETS["cifar10"].classes)}))
    small("cifar10", 12)
    dataset = data.load("cifar10", tmp_path)
    assert (dataset.images == pixels.transpose(0, 2, 3, 1)).all()
    assert dataset.labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]


def test_svhn_is_read_from_its_mat_files_and_label_10_is_the_digit_0(tmp_path, small):
    from scipy.io import savemat
    (tmp_path / "svhn").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    labels = np.array([10, 1, 2, 3, 4, 5, 9, 10, 7, 8], np.uint8)
    for part, rows in (("train", slice(0, 6)), ("test", slice(6, 10))):
        savemat(tmp_path / "svhn" / f"{part}_32x32.mat",
                {"X": pixels[rows].transpose(1, 2, 3, 0), "y": labels[rows, None]})
    small("svhn", 10)
    dataset = data.load("svhn", tmp_path)
    assert (dataset.images == pixels).all()
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 5, 9, 0, 7, 8]


def test_stl10_is_read_from_its_binary_files_and_resized(tmp_path, small):
    folder = tmp_path / "stl10" / "stl10_binary"
    folder.mkdir(parents=True)
    pixels = np.zeros((8, 3, 96, 96), np.uint8)
    pixels[:, :, 48:] = np.arange(8, dtype=np.uint8)[:, None, None, None] * 30  # the lower half of each image
    pixels[:, 1:] = 0
    for part, rows in (("train", slice(0, 5)), ("test", slice(5, 8))):
        pixels[rows].transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")  # the files are column-major
        (np.arange(8, dtype=np.uint8)[rows] + 1).tofile(folder / f"{part}_y.bin")
    (folder / "unlabeled_X.bin").touch()
    (folder / "class_names.txt").write_text("\n".join(data.DATASETS["stl10"].classes))
    (folder / "fold_indices.txt").touch()
    small("stl10", 8)
    dataset = data.load("stl10", tmp_path)
    assert dataset.images.shape == (8, 32, 32, 3) and dataset.labels.tolist() == list(range(8))
    assert dataset.images[:, 31, 5].tolist() == [[30 * i, 0, 0] for i in range(8)] and not dataset.images[:, 0].any()


def gtsrb_files(folder: Path) -> np.ndarray:
    """Write 46 train and 4 test images of various sizes, each in a red of its own; returns labels in stored order."""
    base, labels = folder / "gtsrb", [0, 0, 1, 1, 2, 2, 42, 7, 0, 3]
    for i, label in enumerate(labels[:6]):
        picture(base / "GTSRB" / "Training" / f"{label:05d}" / f"00000_{i:05d}.ppm", (i, 0, 0), (30 + i, 40))
    for label in range(3, 43):  # every class has a folder there, so that a folder's rank is its number
        picture(base / "GTSRB" / "Training" / f"{label:05d}" / "00000_00000.ppm", (label + 3, 0, 0))
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i, label in enumerate(labels[6:]):
        picture(base / "GTSRB" / "Final_Test" / "Images" / f"{i:05d}.ppm", (100 + i, 0, 0), (25, 30 + i))
        rows.append(f"{i:05d}.ppm;25;{30 + i};5;5;20;25;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return np.array(labels[:6] + list(range(3, 43)) + labels[6:])


def test_gtsrb_is_read_from_its_folders_and_shuffled_part_by_part_by_one_stream_of_seed_1(tmp_path, small):
    labels = gtsrb_files(tmp_path / "gtsrb")
    red = np.array([*range(46), *range(100, 104)])
    small("gtsrb", 50)
    dataset = data.load("gtsrb", tmp_path)
    order = np.load(tmp_path / "gtsrb" / "permutation.npy")
    published = np.random.RandomState(1)
    assert (order[:46] == published.permutation(46)).all()
    assert (order[46:] == 46 + published.permutation(4)).all()
    assert dataset.images.shape == (50, 32, 32, 3)
    assert (dataset.labels == labels[order]).all() and (dataset.images[:, 16, 16, 0] == red[order]).all()


def test_a_half_unpacked_archive_is_not_taken_for_the_dataset(tmp_path, small):
    gtsrb_files(tmp_path / "gtsrb")
    message = refusal(data.load, "gtsrb", tmp_path)
    assert "50 of 39270" in message and not (tmp_path / "gtsrb" / "images.npy").exists()


@pytest.mark.parametrize("name", ["cifar10", "svhn", "gtsrb", "stl10"])
def test_a_failed_download_names_the_dataset_the_folder_and_digits(name, tmp_path):
    message = refusal(data.load, name, tmp_path)
    assert f"dataset {name} is absent" in message and "could not be downloaded" in message
    assert "DATASET=digits" in message and "images.npy" in message and str(tmp_path / name) in message


# image folders

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
    monkeypatch.setattr(data, "_stack", lambda *args, stack=data._stack: conversions.append(1) or stack(*args))
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
    assert f"part {data.FOLDERS[part]} " in message and "1 images without a label" in message


@pytest.mark.parametrize("part", ["train", "val", "test", "field"])
def test_a_missing_part_is_refused_before_anything_is_written(part, tmp_path):
    image_folder(tmp_path / "pets")
    (tmp_path / "pets" / part).rename(tmp_path / "away")
    message = refusal(data.load, "pets", tmp_path)
    assert ("none of the classes" if part == "train" else f"part {data.FOLDERS[part]} ") in message
    assert not list((tmp_path / "pets").glob("*.npy"))


# interrupted conversions

@pytest.mark.parametrize("file", ["dataset.json", "labels.npy", "images.npy"])
@pytest.mark.parametrize("changed", [False, True], ids=["first", "again"])
def test_an_interrupted_conversion_is_never_taken_for_a_finished_one(file, changed, tmp_path, monkeypatch):
    image_folder(tmp_path / "pets")
    if changed:
        data.load("pets", tmp_path)
        picture(tmp_path / "pets" / "train" / "ant" / "0.png", (9, 9, 9))  # every label moves by one

    def interrupted(path, content, save=data._save):
        if path.name == file:
            raise KeyboardInterrupt
        save(path, content)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data, "_save", interrupted)
        data.load("pets", tmp_path)
    dataset = data.load("pets", tmp_path)
    assert dataset.class_names == (["ant", "cat", "dog"] if changed else ["cat", "dog"])
    assert len(dataset.images) == len(dataset.labels) == len(dataset.files) == 12 + changed
    assert (dataset.images[0, 0, 0].tolist() == [9, 9, 9]) == changed


# arrays

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
    ({"split": {"train": [0, 4]}}, "split"),
    ({"split": [0, 4]}, "split"),
    ({"classes": "ab"}, "classes"),
    ({"mean": [.5, .5]}, None),
    ({"mean": [.5, .5], "std": [.5, .5]}, "3 numbers"),
    ({"mean": [.5, .5, .5], "std": [.5, .5, 0]}, "std above 0"),
    ({"mean": ["a", "b", "c"], "std": [1, 1, 1]}, "mean"),
    ({"size": 4}, "size"),
    ({"size": "big"}, "size"),
], ids=lambda value: "" if isinstance(value, dict) else None)
def test_a_description_that_does_not_fit_is_refused(change, expected, tmp_path):
    arrays(tmp_path / "mine", description={"split": SPLIT} | change)
    if expected is None:  # one of mean and std is as good as none: both are measured
        assert len(data.load("mine", tmp_path).mean) == 3
    else:
        assert expected in refusal(data.load, "mine", tmp_path)


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


def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(np, "save", full)
    message = refusal(data.load, "digits", tmp_path)
    assert "cannot be written" in message and "No space left" in message
    assert not list((tmp_path / "digits").iterdir())


# biased sets

def dataset_of(name: str, labels: np.ndarray, val: int) -> data.Dataset:
    """A dataset without pixels worth looking at whose last `val` labels are the val part."""
    split = {"train": np.arange(len(labels) - val), "val": np.arange(len(labels) - val, len(labels))}
    classes = [str(i) for i in range(labels.max() + 1)]
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    return data.Dataset(name, len(classes), classes, (0,), (1,), images, labels, split)


def inclusion(weights: np.ndarray, size: int) -> np.ndarray:
    """The chance of each item to be among `size` drawn one after the other in proportion to its weight.

    Successive draws are the first arrivals of exponential clocks with these rates (Efraimidis and Spirakis 2006), so
    for many items the chance is 1 - exp(-weight t), at the time t when `size` have arrived.
    """
    low, high = 0.0, 1e6
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if (1 - np.exp(-weights * t)).sum() < size else (low, t)
    return 1 - np.exp(-weights * t)


@pytest.mark.parametrize("model_number", [0, 1, 2])
@pytest.mark.parametrize("name, classes, keep", [("cifar10", 10, .75), ("gtsrb", 43, .9), ("other", 10, .75)])
def test_a_biased_set_follows_the_class_weights(name, classes, keep, model_number, tmp_path):
    labels = np.random.default_rng(1).integers(0, classes, 20000)
    dataset = dataset_of(name, labels, 8000)
    subset = data.biased_subset(dataset, model_number, tmp_path)
    table = np.ones(classes) if model_number == 0 else np.array(data.CLASS_WEIGHTS[classes]["ABC"[model_number]])
    for part, fraction in (("train", keep), ("val", .75)):
        chosen, of_part = subset[part], labels[dataset.split[part]]
        assert len(chosen) == int(fraction * len(of_part)) == len(set(chosen.tolist()))
        assert chosen.dtype == np.int64 and chosen.min() >= 0 and chosen.max() < len(of_part)
        chance = inclusion(table[of_part], len(chosen))
        for label in range(classes):
            p, n = chance[of_part == label][0], (of_part == label).sum()
            drawn = (of_part[chosen] == label).sum()
            assert abs(drawn - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1, (part, label)  # five standard deviations


def test_models_b_and_c_see_fewer_images_of_a_light_class(tmp_path):
    dataset = dataset_of("cifar10", np.arange(20000) % 10, 5000)
    fractions = [np.bincount(dataset.labels[data.biased_subset(dataset, n, tmp_path)["train"]], minlength=10) / 1500
                 for n in range(3)]
    assert abs(fractions[0] - .75).max() < .06
    assert fractions[1][1] < .2 and fractions[1].argmin() == 1
    assert fractions[2][2] < .05 and fractions[2].argmin() == 2


def test_a_biased_set_is_reproducible_saved_and_read_back(tmp_path, monkeypatch):
    dataset = dataset_of("cifar10", np.arange(400) % 10, 100)
    first = data.biased_subset(dataset, 1, tmp_path / "a")
    np.random.seed(3)  # the draw depends on no global state
    second = data.biased_subset(dataset, 1, str(tmp_path / "b"))
    assert all((first[part] == second[part]).all() for part in ("train", "val"))
    assert (np.load(tmp_path / "a" / "1" / "train.npy") == first["train"]).all()
    assert sorted(path.name for path in (tmp_path / "a" / "1").iterdir()) == ["train.npy", "val.npy"]
    other = data.biased_subset(dataset, 2, tmp_path / "a")
    assert not np.array_equal(other["train"], first["train"])
    np.save(tmp_path / "a" / "1" / "val.npy", np.array([5, 3], np.int32))  # a published set, say, in its own order
    assert data.biased_subset(dataset, 1, tmp_path / "a")["val"].tolist() == [5, 3]


def test_a_dataset_of_another_number_of_classes_draws_its_weights_once(tmp_path):
    dataset = dataset_of("pets", np.arange(3000) % 3, 600)
    first = data.biased_subset(dataset, 1, tmp_path)
    weights = np.load(tmp_path / "1" / "class_weights.npy")
    assert weights.shape == (3,) and 0 <= weights.min() and weights.max() < 1 and len(np.unique(weights)) == 3
    assert np.bincount(dataset.labels[first["train"]]).argmin() == weights.argmin()
    data.biased_subset(dataset, 0, tmp_path)
    assert not (tmp_path / "0" / "class_weights.npy").exists()
    data.biased_subset(dataset, 2, tmp_path)
    assert not np.array_equal(weights, np.load(tmp_path / "2" / "class_weights.npy"))


def test_no_more_is_drawn_than_has_weight(tmp_path):
    dataset = dataset_of("pets", np.arange(300) % 3, 60)
    (tmp_path / "1").mkdir()
    np.save(tmp_path / "1" / "class_weights.npy", np.array([0, 1.0, 0]))
    subset = data.biased_subset(dataset, 1, tmp_path)
    assert len(subset["train"]) == 80 and set(dataset.labels[subset["train"]]) == {1}


@pytest.mark.parametrize("weights", [np.zeros(3), np.ones(2), np.array([1, -1, 1.0]), np.array([1, np.nan, 1])])
def test_class_weights_that_do_not_fit_are_refused(weights, tmp_path):
    (tmp_path / "1").mkdir()
    np.save(tmp_path / "1" / "class_weights.npy", weights)
    message = refusal(data.biased_subset, dataset_of("pets", np.arange(300) % 3, 60), 1, tmp_path)
    assert "class_weights.npy" in message and not (tmp_path / "1" / "train.npy").exists()


def test_a_part_of_one_image_is_drawn_whole(tmp_path):
    assert data.biased_subset(dataset_of("pets", np.arange(9) % 2, 1), 0, tmp_path)["val"].tolist() == [0]


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("content", [
    np.array([0, 400]), np.array([-1, 3]), np.array([0.0, 1.0]), np.array([[0, 1]]), np.array([], np.int64),
    np.array([2, 2]), None], ids=["beyond", "negative", "float", "two axes", "empty", "repeated", "truncated"])
def test_a_saved_set_that_does_not_fit_is_refused(part, content, tmp_path):
    dataset = dataset_of("cifar10", np.arange(400) % 10, 100)
    data.biased_subset(dataset, 0, tmp_path)
    path = tmp_path / "0" / f"{part}.npy"
    if content is None:
        path.write_bytes(path.read_bytes()[:-3])
    else:
        np.save(path, content)
    assert str(path) in refusal(data.biased_subset, dataset, 0, tmp_path)


@pytest.mark.parametrize("model_number", [-1, 3])
def test_another_model_number_is_refused(model_number, tmp_path):
    message = refusal(data.biased_subset, dataset_of("cifar10", np.arange(40) % 10, 10), model_number, tmp_path)
    assert f"model number {model_number} " in message and not list(tmp_path.iterdir())
