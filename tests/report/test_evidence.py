"""evidence.py: which images a report shows, and that predictions.npz brings back what was saved."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hybridrepair.base.errors import UserError
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.report import evidence
from hybridrepair.selection.solutions import Selection

TRUTH = [0, 0, 1, 1, 2, 2, 0, 1]  # of all images: 0 to 3 are T2, 4 to 7 the pool


def dataset(channels: int = 3, size: tuple[int, int] = (8, 8), truth: list[int] = TRUTH) -> SimpleNamespace:
    images = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, *size, channels), np.uint8)
    return SimpleNamespace(class_names=["cat", "dog", "owl"], images=images, labels=np.array(truth), file="field/{}.png".format,
                           split={"T2": np.arange(4), "pool": np.arange(4, 8)})


def pool_of(data: SimpleNamespace, looked: bool = True) -> SimpleNamespace:
    pool = SimpleNamespace(dataset=data, pool_index=data.split["pool"], probs=torch.eye(3, dtype=torch.float64)[[2, 2, 0, 1]],
                           looked_at_views=looked)
    if looked:
        pool.unsmoothness = torch.tensor([.5, .2, 1., .7], dtype=torch.float64)
    return pool


def made(data: SimpleNamespace, selection: Selection, answers: list[int], t2: bool = True, looked: bool = True) -> evidence.Evidence:
    before, after = (torch.tensor([0, 1, 1, 0]), torch.tensor([1, 0, 1, 2])) if t2 else (torch.zeros(0, dtype=torch.int64),) * 2
    return evidence.of(data, pool_of(data, looked), selection, np.array(answers, np.int64), before, after, "T2" if t2 else "")


REGION = Selection(np.array([0]), np.array([3]), np.array([0, 0, UNKNOWN, 0]))
ALONE = Selection(np.array([3, 1]), np.array([-1, -1]), np.array([UNKNOWN, 1, UNKNOWN, 3]))


def test_the_members_of_a_region_are_those_that_took_the_label_the_most_unsmooth_first():
    seen = made(dataset(), REGION, [2])
    assert seen.regions() == [0] and seen.members(0).tolist() == [3, 1]
    assert made(dataset(), ALONE, [1, 2]).regions() == []


def test_judged_images_are_fixed_or_broken_only_where_truth_is_known():
    seen = made(dataset(), REGION, [2])
    assert seen.changed(True).tolist() == [1] and seen.changed(False).tolist() == [0]
    seen = made(dataset(truth=[0, UNKNOWN, 1, 1, 2, 2, 0, 1]), REGION, [2])
    assert seen.changed(True).tolist() == [] and seen.changed(False).tolist() == [0]


@pytest.mark.parametrize("selection, answers, index", [(REGION, [2], [0, 1, 4, 5, 7]), (ALONE, [1, 2], [0, 1, 5, 7])])
def test_thumbnails_are_of_the_images_that_are_shown_and_no_others(selection, answers, index):
    seen = made(dataset(), selection, answers)
    assert seen.tile_index.tolist() == index and seen.tile_file.tolist() == [f"field/{each}.png" for each in index]
    assert seen.tiles.shape == (len(index), 8, 8, 3) and seen.tiles[:, 0, 0, 0].tolist() == index


@pytest.mark.parametrize("channels, size, shape", [(1, (8, 8), (8, 8, 3)), (4, (8, 8), (8, 8, 3)), (2, (8, 16), (8, 16, 3)),
                                                   (3, (512, 256), (96, 48, 3))])
def test_a_thumbnail_is_small_and_has_three_channels(channels, size, shape):
    assert evidence.thumbnail(np.full((*size, channels), 9, np.uint8)).shape == shape
    assert (evidence.thumbnail(np.full((*size, channels), 9, np.uint8)) == 9).all()


def test_items_are_spread_from_the_first_to_the_last():
    assert evidence.spread(np.arange(100), 4).tolist() == [0, 33, 66, 99]
    assert evidence.spread(np.arange(3), 4).tolist() == [0, 1, 2]


def test_without_t2_views_or_annotations_there_are_empty_arrays():
    nothing = Selection(np.empty(0, np.int64), np.empty(0, np.int64), np.full(4, UNKNOWN))
    seen = made(dataset(), nothing, [], t2=False, looked=False)
    assert [len(getattr(seen, name)) for name in ("truth", "before", "after", "unsmoothness", "annotated", "tiles")] == [0] * 6
    assert seen.predicted.tolist() == [2, 2, 0, 1]


def test_evidence_comes_back_from_its_file_as_it_was(tmp_path):
    seen = made(dataset(), REGION, [2])
    seen.classes = np.array(["<script>", "$x$", "größer\udcff"])  # the last has a byte that is not UTF-8
    evidence.save(tmp_path / "predictions.npz", seen)
    back = evidence.load(tmp_path / "predictions.npz")
    assert back.sizes is None  # nor had those of earlier versions any
    seen.sizes = np.array([3, 1])
    evidence.save(tmp_path / "predictions.npz", seen)
    back = evidence.load(tmp_path / "predictions.npz")
    for name, value in vars(seen).items():
        assert getattr(back, name).dtype == value.dtype and np.array_equal(getattr(back, name), value), name


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and no more"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(UserError, match="predictions.npz cannot be read"):
        evidence.load(tmp_path / "predictions.npz")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(UserError, match="other.npz cannot be read"):
        evidence.load(tmp_path / "other.npz")


@pytest.mark.parametrize("change, why", [
    ({"truth": np.array([0, 0, 1, 9])}, "truth goes from 0 to 9"), ({"source": np.array([0, 0, -1, 4])}, "source goes from -1 to 4"),
    ({"before": np.array([0, 1])}, "there are 2 of before, not 4"), ({"after": np.array([0., 1., 1., 0.])}, "after is float64"),
    ({"classes": np.array([1, 2, 3])}, "classes is int64"), ({"unsmoothness": np.array([.5, np.nan, 1., .7])}, "not finite"),
    ({"tiles": np.zeros((5, 8, 8), np.uint8)}, "tiles is uint8 [5, 8, 8]"),
    ({"tile_file": np.array(["a"])}, "there are 1 of tile_file")])
def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path, change, why):
    seen = made(dataset(), REGION, [2])
    vars(seen).update(change)
    evidence.save(tmp_path / "predictions.npz", seen)
    with pytest.raises(UserError) as caught:
        evidence.load(tmp_path / "predictions.npz")
    assert why in str(caught.value)
