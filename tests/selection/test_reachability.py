"""reachability.py beside all pairs at once: on scattered points, bunches that lie apart, copies and tiny sets."""
import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.nn.functional import normalize

from hybridrepair.selection import reachability
from hybridrepair.selection.cells import cells_of
from hybridrepair.selection.reachability import Points, shortest, smallest, spanning_tree


def scattered(n: int = 400, width: int = 8) -> Tensor:
    return normalize(torch.from_numpy(np.random.default_rng(0).normal(size=(n, width))).float())


def bunches(size: int = 60, groups: int = 8) -> Tensor:
    """More points each than candidates are kept, so that each bunch must look again for its way out."""
    rng = np.random.default_rng(1)
    return normalize(torch.from_numpy(np.repeat(np.eye(groups), size, 0) + 0.02 * rng.normal(size=(size * groups, groups))).float())


def copies() -> Tensor:
    return scattered(30)[torch.arange(400) % 30]


POOLS = {"scattered": scattered, "bunches": bunches, "copies": copies, "few": lambda: scattered(6),
         "copies of one": lambda: scattered(1).expand(50, -1)}
every_pool = pytest.mark.parametrize("pool", POOLS)


def all_pairs(points: Tensor, min_samples: int) -> np.ndarray:
    """Mutual reachability float64 [N, N] by the definition."""
    distance = cdist(points.double().numpy(), points.double().numpy())
    core = np.sort(distance, axis=1)[:, min_samples - 1]  # the point itself is first
    return np.maximum(np.maximum(distance, core[:, None]), core)


@pytest.mark.parametrize("n", [5, 40, 96, 97, 500, 1000])
def test_smallest_finds_what_topk_finds(n):
    tile = torch.from_numpy(np.random.default_rng(n).permutation(4 * n).reshape(4, n)).float()
    value, index = smallest(tile, 5)
    assert value.equal(tile.topk(5, largest=False).values) and tile.gather(1, index).equal(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closest_of_all_are_in_order_and_the_bound_is_below_the_rest(dtype):
    points = scattered()
    index, value, bound = Points(points).closest(torch.arange(7, 90), 5, dtype=dtype)
    squared = cdist(points.double().numpy(), points.double().numpy())[7:90] ** 2
    order = np.sort(squared, axis=1)
    np.testing.assert_allclose(value, order[:, 1:6], rtol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(squared, index.numpy(), 1), value, rtol=1e-12)
    assert (bound.numpy() <= order[:, 6]).all() and (bound.numpy() > order[:, 4]).all()


def test_closest_of_other_components_counts_core_distances():
    points, label = scattered(100), torch.arange(100) % 4
    space = Points(points)
    space.core = space.neighbours(10, 3)[1][:, 2].clone()  # the fourth of four points, itself counted
    index, value, _ = space.closest(torch.arange(100), 4, label)
    reach = all_pairs(points, 4) ** 2
    reach[label[:, None] == label] = np.inf
    np.testing.assert_allclose(value, np.sort(reach, 1)[:, :4], rtol=1e-12)
    assert (label[index] != label[:, None]).all()


def test_closest_tells_where_there_are_fewer():
    label = torch.tensor([0, 0, 0, 1])
    space = Points(scattered(4))
    space.core = torch.zeros(4, dtype=torch.float64)
    value, bound = space.closest(torch.arange(4), 3, label)[1:]
    assert value.isfinite().sum(1).tolist() == [1, 1, 1, 3] and bound.isinf().tolist() == [True, True, True, False]


@every_pool
@pytest.mark.parametrize("min_samples", [1, 3, 5])
@pytest.mark.parametrize("rows", [1, 13, 1000])
def test_tree_is_as_short_as_that_of_all_pairs(monkeypatch, pool, min_samples, rows):
    monkeypatch.setattr(reachability, "TILE", 0)
    monkeypatch.setattr(reachability, "ROWS", rows)
    points = POOLS[pool]()
    tree, reach = spanning_tree(points, min_samples), all_pairs(points, min_samples)
    n = len(points)
    assert len(tree.p) == n - 1 and connected_components(coo_array((np.ones(n - 1), (tree.p, tree.q)), (n, n)))[0] == 1
    assert (tree.p < tree.q).all() and np.lexsort((tree.q, tree.p, tree.length)).tolist() == list(range(n - 1))
    np.testing.assert_allclose(tree.length, reach[tree.p, tree.q], atol=1e-7)
    # scipy takes 0 for no edge
    np.testing.assert_allclose(tree.length.sum(), minimum_spanning_tree(reach + 1).sum() - (n - 1), atol=1e-6)


def test_bunches_look_again(monkeypatch):
    """So that the test above has covered it."""
    calls = []
    monkeypatch.setattr(reachability, "look_again", lambda *args, real=reachability.look_again: (calls.append(1), real(*args)))
    spanning_tree(bunches(), 3)
    assert calls


def test_neighbours_hidden_by_rounding_are_found():
    """Forty points closer to one another than float32 can tell from inner products, beside others."""
    rng = np.random.default_rng(2)
    near = np.eye(16)[0] + 1e-5 * rng.normal(size=(40, 16))
    points = torch.from_numpy(np.concatenate([near, rng.normal(size=(60, 16))])).float()
    value = Points(points).neighbours(16, 3)[1]
    squared = np.sort(cdist(points.double().numpy(), points.double().numpy()) ** 2, axis=1)
    np.testing.assert_allclose(value[:, :3], squared[:, 1:4], rtol=1e-6)


def test_of_edges_as_long_those_to_lower_points_are_taken_in_whichever_order_they_come():
    #    0 -2- 1 -2- 3 -2- 0 is a circle; 2 hangs on it by 5 or, longer, by 6; 4 is a copy of 1
    edges = np.array([(0, 1), (1, 3), (0, 3), (2, 3), (1, 2), (1, 4)])
    length = np.array([2.0, 2.0, 2.0, 5.0, 6.0, 0.0])
    for order in (range(6), [5, 2, 1, 0, 4, 3], [3, 1, 4, 2, 0, 5]):
        tree = shortest(*edges[[*order]].T, length[[*order]])
        assert [x.tolist() for x in tree] == [[1, 0, 0, 2], [4, 1, 3, 3], [0.0, 2.0, 2.0, 5.0]]


def test_the_tree_does_not_depend_on_last_bits_of_the_features():
    """Where edges are as long because they share a core distance; others that swap places are not as long."""
    points = scattered(400)
    tree = spanning_tree(points, 5)
    assert len(np.unique(tree.length)) < 350
    for seed in range(5):
        moved = points * (1 + 1e-7 * torch.randn(points.shape, generator=torch.Generator().manual_seed(seed)))
        other = spanning_tree(moved, 5)
        assert {*zip(other.p.tolist(), other.q.tolist())} == {*zip(tree.p.tolist(), tree.q.tolist())}


@every_pool
@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("min_samples", [1, 5])
def test_a_tree_in_cells_joins_all_points_by_edges_that_are_not_much_longer(pool, size, min_samples):
    points = POOLS[pool]()
    tree, exact = spanning_tree(points, min_samples, cells_of(points, size, 0)), spanning_tree(points, min_samples)
    n = len(points)
    assert len(tree.p) == n - 1 and connected_components(coo_array((np.ones(n - 1), (tree.p, tree.q)), (n, n)))[0] == 1
    assert exact.length.sum() <= tree.length.sum() + 1e-9 and np.isfinite(tree.length).all()
    if size > 1:  # cells of single points are looked at four at a time
        assert tree.length.sum() <= 1.15 * exact.length.sum() + 1e-9


def test_groups_that_see_no_other_are_joined_where_they_are_near():
    """Far bunches of several cells each, on a line: no point looks beyond its bunch, and each bunch goes to the next one."""
    rng = np.random.default_rng(0)
    centre = np.repeat([0.0, 10, 21, 33], 60)
    points = torch.from_numpy(np.stack([centre, np.zeros(240)], 1) + rng.normal(size=(240, 2))).float()
    cells = cells_of(points, 10, 0, looks=2)
    tree, exact = spanning_tree(points, 3, cells), spanning_tree(points, 3)
    np.testing.assert_allclose(tree.length[-3:], exact.length[-3:], rtol=0.05)
