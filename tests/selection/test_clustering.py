"""clustering.py beside scikit-learn, the recorded noise and hand-placed points; regions of pools of every size."""
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import normalize

from cases import features_of
from conftest import bunches, inertia
from hybridrepair.base.provenance import peak_memory
from hybridrepair.selection import clustering
from hybridrepair.selection import kmeans as means
from hybridrepair.selection.cells import cells_of, one_cell
from hybridrepair.selection.clustering import (
    CLUSTERINGS,
    NOISE,
    count_of,
    cut,
    dbscan,
    dense,
    increasing,
    numbered,
    regions,
    representatives,
)

every_clustering = pytest.mark.parametrize("cluster", CLUSTERINGS)


# noise

def test_dense_finds_the_recorded_clusters_and_noise(oracle):
    with np.load(oracle / "e_hdbscan_hybrid16d.npz", allow_pickle=False) as arrays:
        label, recorded = dense(torch.from_numpy(arrays["X"]), min_samples=4).numpy(), arrays["hdbscan_ms3"]
    agree_but_for_ties(label, recorded)


def agree_but_for_ties(label: np.ndarray, theirs: np.ndarray) -> None:
    """Whether two results of HDBSCAN differ in points on the rim of clusters alone, 2 % of all noise in one alone at most."""
    both = (label != NOISE) & (theirs != NOISE)
    assert ((label == NOISE) != (theirs == NOISE)).mean() <= 0.02
    assert adjusted_rand_score(label[both], theirs[both]) > 0.97


@pytest.mark.parametrize("min_samples", [1, 2, 3, 6])
@pytest.mark.parametrize("width", [2, 16, 300])
@pytest.mark.usefixtures("stable_sort")
def test_dense_is_what_scikit_learn_finds(width, min_samples):
    rng = np.random.default_rng(width)
    points = np.concatenate([rng.normal(size=(1, width)) + spread * rng.normal(size=(100, width)) for spread in (0.1, 0.3, 0.5, 3)])
    points = normalize(torch.from_numpy(points).float())
    label = dense(points, min_samples).numpy()
    theirs = HDBSCAN(min_samples=min_samples, min_cluster_size=5, copy=True).fit_predict(points.double().numpy())
    assert 0 < (label == NOISE).sum() < 400
    agree_but_for_ties(label, theirs)
    if min_samples <= 2:  # then no two edges share a core distance
        assert ((label == NOISE) == (theirs == NOISE)).all() and adjusted_rand_score(label, theirs) == 1


def test_equal_lengths_become_the_least_longer():
    length = np.array([0.0, 0.0, 0.5, 0.5, 0.5, np.nextafter(0.5, 1), 2.0])
    longer = increasing(length)
    assert (np.diff(longer) > 0).all() and longer[0] > 0 and np.allclose(longer, length, rtol=1e-15, atol=1e-149)
    assert longer[[2, 6]].tolist() == [0.5, 2.0]


def test_dense_takes_lone_points_and_far_bunches_of_fewer_than_five_for_noise():
    bunch = torch.arange(6) / 10
    points = torch.cat([bunch, 10 + bunch, torch.tensor([100.0]), 200 + bunch[:4]])[:, None]
    assert numbered(dense(points, min_samples=3)).tolist() in ([0] * 6 + [1] * 6 + [NOISE] * 5,
                                                               [1] * 6 + [0] * 6 + [NOISE] * 5)


# numbers and representatives

def test_numbering_has_no_gaps_and_keeps_order_and_noise():
    assert numbered(torch.tensor([7, NOISE, 2, 7, 9])).tolist() == [1, NOISE, 0, 1, 2]
    assert numbered(torch.tensor([4, 4, 0])).tolist() == [1, 1, 0]
    assert numbered(torch.tensor([NOISE, NOISE])).tolist() == [NOISE, NOISE]


def test_regions_are_the_same_however_many_numbers_are_looked_at_together(monkeypatch):
    points = normalize(torch.from_numpy(np.random.default_rng(0).normal(size=(300, 40))).float(), dim=1)
    whole = regions(points, 30, "kmeans")
    for numbers in (1, 700, 5000):
        monkeypatch.setattr(clustering, "NUMBERS", numbers)
        monkeypatch.setattr(means, "NUMBERS", numbers)
        assert all(some.equal(all_) for some, all_ in zip(regions(points, 30, "kmeans"), whole))


def test_a_representative_is_the_member_nearest_to_the_centroid():
    features = torch.tensor([[0.0], [4], [5], [9.1], [4.4], [20], [30], [25.5]])
    #                   centroid of region 0: 4.525, where image 4, a noise point, is nearer than any member
    label = torch.tensor([0, 0, 0, 0, NOISE, 1, 1, 1])
    assert representatives(features, label).tolist() == [2, 7]


def test_a_representative_is_the_lowest_index_on_ties():
    features = torch.tensor([[8.0], [2], [1], [3], [2], [1], [8]])
    label = torch.tensor([1, 0, 0, 0, 0, 0, 1])
    assert representatives(features, label).tolist() == [1, 0]
    assert representatives(torch.tensor([[3.0], [1]]), torch.tensor([0, 0])).tolist() == [0]


def test_representatives_equal_those_of_a_loop():
    features, label = torch.randn(300, 6), torch.randint(-1, 25, (300,))
    x, expected = features.double().numpy(), []
    for region in range(25):
        member = np.flatnonzero(label.numpy() == region)
        expected.append(member[((x[member] - x[member].mean(0)) ** 2).sum(1).argmin()])
    assert representatives(features, label).tolist() == expected


def test_without_regions_there_are_no_representatives():
    assert representatives(torch.randn(3, 2), torch.full((3,), NOISE)).tolist() == []


# regions

@pytest.mark.parametrize("n, budget, size, count", [(100, 3, 10, 10), (109, 3, 10, 10), (100, 3, 20, 5),
                                                    (100, 30, 10, 30), (5, 30, 10, 5), (5, 0, 10, 1)])
def test_there_is_a_region_for_every_ten_points_and_for_every_annotation(n, budget, size, count):
    assert count_of(n, budget, size) == count


@every_clustering
def test_regions_are_numbered_without_gaps_and_represented_by_a_member(cluster):
    points = bunches([30, 30, 30], scattered=10)
    label, representative = regions(points, budget=4, cluster=cluster)
    assert label.shape == (100,) and label.dtype == representative.dtype == torch.int64
    assert sorted(set(label.tolist()) - {NOISE}) == list(range(len(representative))) and len(representative) >= 3
    assert label[representative].tolist() == list(range(len(representative)))
    again = regions(points, budget=4, cluster=cluster)
    assert again.label.equal(label) and again.representative.equal(representative)


def test_hybrid_cuts_what_is_not_noise_into_small_regions():
    points = bunches([30, 30, 30], scattered=10)
    label, representative = regions(points, budget=4, cluster="hybrid", size=10, min_samples=4)
    assert ((label == NOISE) == (dense(points, min_samples=4) == NOISE)).all()
    assert (label == NOISE).any() and len(representative) == (label != NOISE).sum() // 10


def test_kmeans_takes_every_point_into_a_region():
    assert (regions(bunches([30], scattered=10), budget=4, cluster="kmeans").label != NOISE).all()


def test_dbscan_joins_points_whose_cosine_distance_is_at_most_eps():
    angles = torch.tensor([0, 10, 20, 60, 70, 80, 150]).deg2rad()
    points = torch.stack([angles.cos(), angles.sin()], 1)
    eps = {reach: 1 - np.cos(np.radians(reach)) for reach in (9.9, 10.1, 40.1)}
    assert regions(points, 1, "dbscan", eps=eps[10.1]).label.tolist() == [0, 0, 0, 1, 1, 1, NOISE]
    assert regions(points, 1, "dbscan", eps=eps[9.9]).label.tolist() == [NOISE] * 7
    assert regions(points, 1, "dbscan", eps=eps[40.1]).label.tolist() == [0] * 6 + [NOISE]


@pytest.mark.parametrize("pairs", [1, 700, 2 ** 21])
@pytest.mark.parametrize("dimensions, eps, min_samples", [
    (2, 1e-4, 3), (2, 1e-4, 1), (2, 3e-4, 8), (3, 2e-3, 4), (16, 0.3, 3), (16, 0.45, 12), (16, 0.2, 500), (8, 0.1, 2)])
def test_dbscan_gives_the_labels_of_scikit_learn_whatever_is_looked_at_together(dimensions, eps, min_samples, pairs, monkeypatch):
    monkeypatch.setattr(clustering, "PAIRS", pairs)
    points = normalize(torch.from_numpy(np.random.default_rng(dimensions).normal(size=(400, dimensions))).float())
    points = torch.cat([points, points[:5]])  # copies
    theirs = DBSCAN(eps=(2 * eps) ** 0.5, min_samples=min_samples).fit_predict(points.double().numpy())
    assert dbscan(points, 1, 10, eps, min_samples, 0, 0).tolist() == theirs.tolist()


def test_a_point_on_the_rim_of_two_clusters_belongs_to_the_first():
    angles = torch.tensor([20, 21, 22, 32, 42, 43, 44]).deg2rad()  # 32 is 10 from 22 and from 42, and is not dense with four
    points = torch.stack([angles.cos(), angles.sin()], 1)
    eps = 1 - np.cos(np.radians(10.1))
    for order, expected in ((range(7), [0, 0, 0, 0, 1, 1, 1]), (range(6, -1, -1), [0, 0, 0, 0, 1, 1, 1]),
                            ([3, 4, 5, 6, 0, 1, 2], [0, 0, 0, 0, 1, 1, 1])):
        assert dbscan(points[list(order)], 1, 10, eps, 4, 0, 0).tolist() == expected


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux, which lets a peak begin anew")
def test_dbscan_keeps_no_lists_of_neighbours_and_no_copy_of_the_points(monkeypatch):
    monkeypatch.setattr(clustering, "PAIRS", 2 ** 19)
    near = normalize(torch.rand(7000, 4) + 1)  # all near one another: lists of 49 million pairs would take 392 MB
    wide = normalize(torch.randn(8000, 1024))  # all far from one another: 66 MB in float64, and 34 for their norms
    for points, label, limit in ((near, 0, 100e6), (wide, NOISE, 66e6 + 54e6)):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_memory()
        assert (dbscan(points, 1, 10, 0.3, 3, 0, 0) == label).all() and peak_memory() - before < limit


@every_clustering
@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize("copies", [False, True])
def test_a_tiny_pool_has_regions_too(cluster, n, copies):
    points = bunches([n])[:1].repeat(n, 1) if copies and n else bunches([n])
    for budget in (0, 2, 100):
        label, representative = regions(points, budget, cluster)
        assert label.shape == (n,) and label[representative].tolist() == list(range(len(representative)))


def test_of_two_members_the_first_represents_their_region():
    points = normalize(torch.from_numpy(np.random.default_rng(0).normal(size=(400, 64))).float())
    pair = torch.from_numpy(np.random.default_rng(1).permutation(400)).view(200, 2)
    label = torch.empty(400, dtype=torch.int64).scatter_(0, pair.flatten(), torch.arange(200).repeat_interleave(2))
    assert representatives(points, label).equal(pair.amin(1))


# cells

def in_cells(points: torch.Tensor, k: int, cell_size: int) -> torch.Tensor:
    return cut(points, k, 0, cells_of(points, cell_size, 0).members)


def test_cells_give_clusters_of_their_own_in_proportion_to_their_size():
    label = in_cells(bunches([100, 40, 40]), 18, 60).numpy()
    assert sorted(set(label)) == list(range(18))
    assert [len(set(label[part])) for part in (slice(0, 100), slice(100, 140), slice(140, 180))] == [10, 4, 4]


def test_cells_of_real_points_are_nearly_as_good_as_none():
    points = load_digits().data.astype(np.float32)
    exact = inertia(points, means.kmeans(torch.from_numpy(points), 180, 0).numpy())
    assert exact < inertia(points, in_cells(torch.from_numpy(points), 180, 400).numpy()) < 1.05 * exact


def test_what_is_in_no_part_is_in_no_cluster():
    points = bunches([10, 10])
    label = cut(points, 2, 0, [torch.arange(2, 10), torch.arange(0), torch.arange(12, 20)])
    assert label.tolist() == [NOISE] * 2 + [0] * 8 + [NOISE] * 2 + [1] * 8


@every_clustering
@pytest.mark.parametrize("cell_size", [120, 1000])
def test_a_cell_of_all_points_is_no_cell(cluster, cell_size):
    points = bunches([50, 30], scattered=40)
    whole, cells = (regions(points, 12, cluster, cell_size=size) for size in (0, cell_size))
    assert all(one.equal(other) for one, other in zip(whole, cells))


def test_noise_in_one_cell_is_exact():
    points = bunches([50, 30], scattered=80)
    assert dense(points, 3, one_cell(points)).equal(dense(points, 3))


@pytest.mark.parametrize("cell_size", [1, 7, 30])
def test_cells_of_copies_and_of_few_points(cell_size):
    copies = bunches([1, 1, 1])[torch.arange(60) % 3]
    label = in_cells(copies, 6, cell_size)
    assert label.min() >= 0 and adjusted_rand_score(numbered(label), torch.arange(60) % 3) > 0.99


@pytest.mark.parametrize("cell_size", [3, 10, 25, 60, 100, 180])
@pytest.mark.parametrize("min_samples", [1, 3, 6])
def test_bunches_that_lie_apart_have_the_same_noise_whatever_the_cells(cell_size, min_samples):
    points = torch.cat([bunches([60, 60, 60]), 10 * torch.eye(16)[8:]])
    label = dense(points, min_samples, cells_of(points, cell_size, 0))
    assert adjusted_rand_score(label, [0] * 60 + [1] * 60 + [2] * 60 + [NOISE] * 8) == 1 and (label == NOISE)[180:].all()


def test_noise_in_cells_is_nearly_that_of_all_pairs():
    points = torch.from_numpy(features_of(4000, 32, unit=True))
    exact, cells = (dense(points, 3, cells) == NOISE for cells in (None, cells_of(points, 400, 0)))
    assert 0.1 < exact.double().mean() < 0.9 and (exact == cells).double().mean() > 0.97


def test_regions_in_cells_keep_to_cells_of_what_is_no_noise():
    points = bunches([60, 60, 60], scattered=60)
    label, whole = regions(points, 6, cell_size=50).label, regions(points, 6).label
    kept = label != NOISE
    assert kept.equal(dense(points, 3, cells_of(points, 50, 0)) != NOISE) and not whole.equal(label)
    cells = cells_of(points[kept], 50, 0).seen[:, 0]
    assert all(len(cells[label[kept] == region].unique()) == 1 for region in range(int(label.max()) + 1))
