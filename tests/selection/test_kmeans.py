"""kmeans.py beside scikit-learn and hand-placed points."""
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from conftest import bunches, inertia
from hybridrepair.images.randomness import generator
from hybridrepair.selection.kmeans import centroids, kmeans, nearest, spread_out


@pytest.mark.parametrize("k", [10, 50, 180])
def test_kmeans_is_as_good_as_scikit_learns(k):
    points = load_digits().data.astype(np.float32)
    ours = [inertia(points, kmeans(torch.from_numpy(points), k, seed).numpy()) for seed in range(4)]
    theirs = [KMeans(k, n_init=1, random_state=seed).fit(points).inertia_ for seed in range(4)]
    assert np.mean(ours) < 1.01 * np.mean(theirs)


def test_kmeans_finds_clusters_that_lie_apart():
    label = kmeans(bunches([5, 9, 20]), 3, seed=0)
    assert adjusted_rand_score(label, np.repeat([0, 1, 2], [5, 9, 20])) == 1


def test_kmeans_repeats_for_a_seed():
    points = torch.randn(200, 4)
    assert kmeans(points, 20, seed=1).equal(kmeans(points, 20, seed=1))
    assert not kmeans(points, 20, seed=1).equal(kmeans(points, 20, seed=2))


def test_kmeans_into_one_cluster_and_into_as_many_as_points():
    points = torch.randn(12, 4)
    assert kmeans(points, 1, seed=0).tolist() == [0] * 12
    assert sorted(kmeans(points, 12, seed=0).tolist()) == list(range(12))
    assert kmeans(points[:1], 1, seed=0).tolist() == [0]


@pytest.mark.parametrize("k", [3, 5, 12])
def test_kmeans_of_fewer_distinct_points_than_clusters_keeps_copies_together(k):
    copies = torch.arange(12) % 3
    label = kmeans(torch.randn(3, 4)[copies], k, seed=0)
    assert label.min() >= 0 and label.max() < k and adjusted_rand_score(label, copies) == 1


def test_kmeans_fills_a_cluster_that_lost_its_points():
    # of these three far groups, k-means++ may start with any centres: no cluster may stay empty in the end
    points = torch.cat([torch.zeros(30, 2), torch.full((2, 2), 50.0), torch.full((2, 2), -50.0)]) + torch.randn(34, 2)
    assert all(len(kmeans(points, 20, seed).unique()) == 20 for seed in range(20))


def test_first_centres_are_distinct_points_of_the_data():
    points = torch.randn(50, 3)
    centres = spread_out(points, 20, generator(0))
    assert len(centres.unique(dim=0)) == 20 and (centres[:, None] == points).all(2).any(1).all()


def test_first_centres_reach_every_far_group():
    for seed in range(10):
        centres = spread_out(bunches([100, 100, 3, 3]), 4, generator(seed))
        assert centres.argmax(1).sort().values.tolist() == [0, 1, 2, 3]


def test_nearest_gives_the_closest_centre_and_the_squared_distance_to_it():
    points, centres = torch.randn(60, 5), torch.randn(7, 5)
    squared = ((points.numpy()[:, None] - centres.numpy()) ** 2).sum(2)
    index, distance = nearest(points, centres, chunk=16)
    assert (index.numpy() == squared.argmin(1)).all() and distance.numpy() == pytest.approx(squared.min(1), rel=1e-5)


def test_centroids_are_the_means_of_the_members_and_0_without_any():
    points = torch.tensor([[1.0, 0], [3, 2], [5, 5], [2, 4]])
    mean, size = centroids(points, torch.tensor([2, 0, 2, 0]), 4)
    assert mean.tolist() == [[2.5, 3], [0, 0], [3, 2.5], [0, 0]] and size.tolist() == [2, 0, 2, 0]
