"""biased.py: the sets of Model A, B and C follow the class weights, are drawn once, and saved ones are checked."""
import numpy as np
import pytest

from conftest import refusal
from hybridrepair.images import data
from hybridrepair.images.biased import biased_subset
from hybridrepair.images.registry import CLASS_WEIGHTS


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
    subset = biased_subset(dataset, model_number, tmp_path)
    table = np.ones(classes) if model_number == 0 else np.array(CLASS_WEIGHTS[classes]["ABC"[model_number]])
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
    fractions = [np.bincount(dataset.labels[biased_subset(dataset, n, tmp_path)["train"]], minlength=10) / 1500
                 for n in range(3)]
    assert abs(fractions[0] - .75).max() < .06
    assert fractions[1][1] < .2 and fractions[1].argmin() == 1
    assert fractions[2][2] < .05 and fractions[2].argmin() == 2


def test_a_biased_set_is_reproducible_saved_and_read_back(tmp_path, monkeypatch):
    dataset = dataset_of("cifar10", np.arange(400) % 10, 100)
    first = biased_subset(dataset, 1, tmp_path / "a")
    np.random.seed(3)  # the draw depends on no global state
    second = biased_subset(dataset, 1, str(tmp_path / "b"))
    assert all((first[part] == second[part]).all() for part in ("train", "val"))
    assert (np.load(tmp_path / "a" / "1" / "train.npy") == first["train"]).all()
    assert sorted(path.name for path in (tmp_path / "a" / "1").iterdir()) == ["train.npy", "val.npy"]
    other = biased_subset(dataset, 2, tmp_path / "a")
    assert not np.array_equal(other["train"], first["train"])
    np.save(tmp_path / "a" / "1" / "val.npy", np.array([5, 3], np.int32))  # a published set, say, in its own order
    assert biased_subset(dataset, 1, tmp_path / "a")["val"].tolist() == [5, 3]


def test_a_dataset_of_another_number_of_classes_draws_its_weights_once(tmp_path):
    dataset = dataset_of("pets", np.arange(3000) % 3, 600)
    first = biased_subset(dataset, 1, tmp_path)
    weights = np.load(tmp_path / "1" / "class_weights.npy")
    assert weights.shape == (3,) and 0 <= weights.min() and weights.max() < 1 and len(np.unique(weights)) == 3
    assert np.bincount(dataset.labels[first["train"]]).argmin() == weights.argmin()
    biased_subset(dataset, 0, tmp_path)
    assert not (tmp_path / "0" / "class_weights.npy").exists()
    biased_subset(dataset, 2, tmp_path)
    assert not np.array_equal(weights, np.load(tmp_path / "2" / "class_weights.npy"))


def test_no_more_is_drawn_than_has_weight(tmp_path):
    dataset = dataset_of("pets", np.arange(300) % 3, 60)
    (tmp_path / "1").mkdir()
    np.save(tmp_path / "1" / "class_weights.npy", np.array([0, 1.0, 0]))
    subset = biased_subset(dataset, 1, tmp_path)
    assert len(subset["train"]) == 80 and set(dataset.labels[subset["train"]]) == {1}


@pytest.mark.parametrize("weights", [np.zeros(3), np.ones(2), np.array([1, -1, 1.0]), np.array([1, np.nan, 1])])
def test_class_weights_that_do_not_fit_are_refused(weights, tmp_path):
    (tmp_path / "1").mkdir()
    np.save(tmp_path / "1" / "class_weights.npy", weights)
    message = refusal(biased_subset, dataset_of("pets", np.arange(300) % 3, 60), 1, tmp_path)
    assert "class_weights.npy" in message and not (tmp_path / "1" / "train.npy").exists()


def test_a_part_of_one_image_is_drawn_whole(tmp_path):
    assert biased_subset(dataset_of("pets", np.arange(9) % 2, 1), 0, tmp_path)["val"].tolist() == [0]


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("content", [
    np.array([0, 400]), np.array([-1, 3]), np.array([0.0, 1.0]), np.array([[0, 1]]), np.array([], np.int64),
    np.array([2, 2]), None], ids=["beyond", "negative", "float", "two axes", "empty", "repeated", "truncated"])
def test_a_saved_set_that_does_not_fit_is_refused(part, content, tmp_path):
    dataset = dataset_of("cifar10", np.arange(400) % 10, 100)
    biased_subset(dataset, 0, tmp_path)
    path = tmp_path / "0" / f"{part}.npy"
    if content is None:
        path.write_bytes(path.read_bytes()[:-3])
    else:
        np.save(path, content)
    assert str(path) in refusal(biased_subset, dataset, 0, tmp_path)


@pytest.mark.parametrize("model_number", [-1, 3])
def test_another_model_number_is_refused(model_number, tmp_path):
    message = refusal(biased_subset, dataset_of("cifar10", np.arange(40) % 10, 10), model_number, tmp_path)
    assert f"model number {model_number} " in message and not list(tmp_path.iterdir())


@pytest.mark.parametrize("absent", ["train", "val"])
def test_of_an_absent_part_nothing_is_drawn_or_saved(absent, tmp_path):
    dataset = dataset_of("cifar10", np.arange(400) % 10, 100)
    dataset.split[absent] = np.empty(0, np.int64)
    subset = biased_subset(dataset, 1, tmp_path)
    assert subset[absent].shape == (0,) and subset[absent].dtype == np.int64
    assert [path.name for path in (tmp_path / "1").iterdir()] == [{"train": "val.npy", "val": "train.npy"}[absent]]
