"""registry.py: what is known of each dataset, and their loaders on small files in the formats of the real ones. No network."""
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from conftest import names_in, picture, refusal
from hybridrepair.images import data, registry

pytestmark = pytest.mark.usefixtures("no_network")


def test_registered_splits_tile_their_dataset_without_overlap():
    for name, spec in registry.DATASETS.items():
        ranges = sorted((begin, spec.count if end is None else end) for begin, end in spec.split.values())
        assert set(spec.split) == {"train", "val", "T2", "pool"}, name
        assert ranges[0][0] == 0 and ranges[-1][1] == spec.count, name
        assert all(previous[1] == following[0] for previous, following in zip(ranges, ranges[1:])), name
        assert len(spec.mean) == len(spec.std) == 3 and 0 < min(spec.std), name


def test_registered_facts_are_those_of_the_method():
    specs = registry.DATASETS
    assert {name: len(spec.classes) for name, spec in specs.items()} == {
        "cifar10": 10, "svhn": 10, "gtsrb": 43, "stl10": 10, "digits": 10}
    assert {name: spec.keep for name, spec in specs.items()} == {
        "cifar10": .75, "svhn": .75, "gtsrb": .9, "stl10": .9, "digits": .75}
    assert specs["cifar10"].mean == pytest.approx(np.array([125.3, 123.0, 113.9]) / 255)
    assert specs["cifar10"].std == pytest.approx(np.array([63.0, 62.1, 66.7]) / 255)
    assert specs["gtsrb"].mean == (.3337, .3064, .3171) and specs["stl10"].std == (.2471, .2435, .2616)
    assert specs["svhn"].split["pool"] == (20000, 99289) and specs["stl10"].split["T2"] == (3000, 7000)
    for count, weights in registry.CLASS_WEIGHTS.items():
        assert len(weights["B"]) == len(weights["C"]) == count
    assert registry.CLASS_WEIGHTS[10]["C"][2] == .00394827 and registry.CLASS_WEIGHTS[43]["B"][42] == .53056465
    # sums taken from the method's text, not from registry.py: one mistyped digit changes them
    sums = [sum(registry.CLASS_WEIGHTS[count][model]) for count in (10, 43) for model in "BC"]
    assert sums == pytest.approx([4.11387258, 6.22602202, 23.60334119, 19.15776525], abs=1e-9)


# digits

def test_digits_come_without_network_and_are_converted_once(tmp_path, monkeypatch):
    digits = data.load("digits", tmp_path)
    assert digits.images.shape == (1797, 16, 16, 3) and digits.images.dtype == np.uint8
    assert {part: len(indices) for part, indices in digits.split.items()} == {
        "train": 400, "val": 150, "T2": 400, "pool": 847}
    assert digits.labels.dtype == np.int64 and digits.num_classes == len(digits.class_names) == 10
    assert isinstance(digits.images, np.memmap) and not digits.images.flags.writeable
    assert names_in(tmp_path / "digits") == ["images.npy", "labels.npy"]
    assert (digits.images[..., 0] == digits.images[..., 2]).all() and digits.file(3) == ""

    def again(folder):
        raise AssertionError("converted twice")
    monkeypatch.setitem(registry.DATASETS, "digits", dataclasses.replace(registry.DATASETS["digits"], load=again))
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
        monkeypatch.setitem(registry.DATASETS, name, dataclasses.replace(registry.DATASETS[name], split=split, count=count))
    return shorten


def test_cifar10_is_read_from_its_pickles_train_batches_first(tmp_path, small):
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    for number, file in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        rows = slice(2 * number, 2 * number + 2)
        batch = {"data": pixels[rows].reshape(2, 3072), "labels": [number, number + 1]}
        (folder / file).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(registry.DATASETS["cifar10"].classes)}))
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
    (folder / "class_names.txt").write_text("\n".join(registry.DATASETS["stl10"].classes))
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
