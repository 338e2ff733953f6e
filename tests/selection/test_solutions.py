"""solutions.py: regions by hand and beside the recorded ones, and what a selection says."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.selection.clustering import NOISE, Regions
from hybridrepair.selection.solutions import Selection, by_region, nothing, one_by_one, select

# by region

LABEL = [0, 0, 1, 1, 1, 2, NOISE, NOISE]
UNSMOOTHNESS = [.9, .3, .5, .2, .6, .95, 1, .99]  # sums 1.2, 1.3, .95


def labelled(budget: int, seed: int = 0) -> Selection:
    return by_region(Regions(torch.tensor(LABEL), torch.tensor([1, 3, 5])), torch.tensor(UNSMOOTHNESS).double(), budget, seed)


@pytest.mark.parametrize("budget, annotated, region, source", [
    (0, [], [], [-1, -1, -1, -1, -1, -1, -1, -1]),
    (1, [3], [1], [-1, -1, 3, 3, 3, -1, -1, -1]),
    (2, [3, 1], [1, 0], [1, 1, 3, 3, 3, -1, -1, -1]),
    (3, [3, 1, 5], [1, 0, 2], [1, 1, 3, 3, 3, 5, -1, -1]),
    (5, [3, 1, 5, 0, 4], [1, 0, 2, NOISE, NOISE], [0, 1, 3, 3, 4, 5, -1, -1]),
    (6, [3, 1, 5, 0, 4, 2], [1, 0, 2, NOISE, NOISE, NOISE], [0, 1, 2, 3, 4, 5, -1, -1]),
])
def test_regions_go_by_summed_unsmoothness_and_then_their_members_by_their_own(budget, annotated, region, source):
    chosen = labelled(budget)
    assert chosen.annotated.tolist() == annotated and chosen.region.tolist() == region and chosen.source.tolist() == source


def test_noise_images_are_drawn_last():
    draws = {tuple(labelled(7, seed).annotated[6:]) for seed in range(20)}
    assert draws == {(6,), (7,)}
    for budget in (8, 20):
        whole = labelled(budget)
        assert whole.annotated[:6].tolist() == [3, 1, 5, 0, 4, 2] and sorted(whole.annotated[6:]) == [6, 7]
        assert whole.source.tolist() == list(range(8)) and whole.region[3:].tolist() == [NOISE] * 5


def test_without_regions_images_are_drawn():
    noise = Regions(torch.full((9,), NOISE), torch.empty(0, dtype=torch.int64))
    draws = [tuple(by_region(noise, torch.rand(9).double(), 4, seed).annotated) for seed in range(5)]
    assert all(len(set(draw)) == 4 for draw in draws) and len(set(draws)) > 1


def test_regions_and_images_that_tie_go_by_number_and_index():
    equal = Regions(torch.tensor([2, 1, 0, 2, 1, 0]), torch.tensor([5, 1, 0]))
    assert by_region(equal, torch.ones(6).double(), 5, seed=0).annotated.tolist() == [5, 1, 0, 2, 3]


def test_given_regions_the_order_of_the_pool_does_not_matter():
    label, score, order = torch.arange(40) % 8, torch.rand(40).double(), torch.randperm(40)
    place = order.argsort()
    for budget in (1, 5, 8, 20, 40):
        chosen = by_region(Regions(label, torch.arange(8) + 16), score, budget, seed=0)
        shuffled = by_region(Regions(label[order], place[torch.arange(8) + 16]), score[order], budget, seed=0)
        assert order[shuffled.annotated].tolist() == chosen.annotated.tolist()
        assert shuffled.region.tolist() == chosen.region.tolist()


def test_regions_are_labelled_as_recorded(oracle):
    with np.load(oracle / "e_region.npz", allow_pickle=False) as arrays:
        recorded = dict(arrays)
    cuts, members, centre = recorded["cluster_offsets"], recorded["cluster_flat"], recorded["centers"].copy()
    label = np.full(500, NOISE)
    for region in range(55):
        label[members[cuts[region]:cuts[region + 1]]] = region
    foreign = label[centre] != np.arange(55)
    assert np.flatnonzero(foreign).tolist() == [5, 9]  # a noise point, and a member of region 8: ours are members
    centre[foreign] = [np.flatnonzero(label == region)[0] for region in (5, 9)]
    made = Regions(torch.from_numpy(label), torch.from_numpy(centre))
    for budget in recorded["budgets"]:
        chosen = by_region(made, torch.from_numpy(recorded["unsmoothness"]), int(budget), seed=0)
        ours = ~np.isin(chosen.region, [5, 9])
        assert chosen.annotated[ours].tolist() == recorded[f"b{budget}_selected"][ours].tolist()
        known = chosen.labels(recorded["labels"][chosen.annotated])
        image, propagated = recorded[f"b{budget}_prop_idx"], recorded[f"b{budget}_prop_label"]
        assert set(np.flatnonzero(known != UNKNOWN)) == set(image)
        same = ~np.isin(label[image], [5, 9])
        assert (known[image] == propagated)[same].all() and same.sum() > 50


def test_hybrid_plus_chooses_as_hybrid_does_and_lets_no_image_take_the_label_of_another():
    regions = Regions(torch.tensor(LABEL), torch.tensor([1, 3, 5]))
    pool = SimpleNamespace(n=8, seed=0, regions=regions, unsmoothness=torch.tensor(UNSMOOTHNESS).double())
    as_published, ours = (select(pool, solution, 2) for solution in ("hybrid", "hybrid+"))
    assert ours.annotated.tolist() == as_published.annotated.tolist() == [3, 1]
    assert ours.region.tolist() == as_published.region.tolist() and ours.regions is regions
    assert ours.source.tolist() == [-1, 1, -1, 3, -1, -1, -1, -1] and as_published.propagated.sum() == 3 and not ours.propagated.any()


# what a selection says

def test_answers_become_the_labels_of_the_images_and_of_those_that_they_stand_for():
    assert labelled(2).labels(np.array([7, 4])).tolist() == [4, 4, 7, 7, 7, UNKNOWN, UNKNOWN, UNKNOWN]
    assert labelled(5).labels(np.array([7, 4, 1, 0, 2])).tolist() == [0, 4, 7, 7, 2, 1, UNKNOWN, UNKNOWN]


def test_one_by_one_every_image_keeps_its_own_answer():
    chosen = one_by_one(np.array([4, 1]), 5)
    assert chosen.region.tolist() == [NOISE, NOISE] and chosen.regions is None
    assert chosen.labels(np.array([0, 9])).tolist() == [UNKNOWN, 9, UNKNOWN, UNKNOWN, 0]


def test_nothing_annotated_leaves_every_label_unknown():
    assert nothing(3).labels(np.empty(0, dtype=np.int64)).tolist() == [UNKNOWN] * 3 and not len(nothing(3).annotated)
