"""Mutual reachability, the distance that HDBSCAN clusters by, and its minimum spanning tree.

The mutual reachability of two points is the largest of their distance and the core distances of both; a core distance is that
to the `min_samples`-th nearest point, of which the point itself is the first. All N^2 distances are computed, in tiles by matrix
products on the device of the points, but only N k of them are kept: candidates in float32, which are computed anew in float64, and
where rounding could have hidden one, the row in float64. Boruvka's algorithm then needs few further rows to connect all points, and
the tree is that of the few edges which matter.
Sources: Campello et al., "Hierarchical density estimates", TKDD 2015; March et al., "Fast Euclidean minimum spanning tree", KDD 2010.
"""
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor

CANDIDATES = 16  # kept for each point, at least
BLOCK = 32  # columns of which only the smallest is looked at first
TILE, TILE_CUDA = 2 ** 23, 2 ** 28  # distances computed at a time: what caches hold, and what keeps a GPU busy
ROWS = 64  # at least, so that a tile stays a matrix product
# eps, of squared distances from inner products; up to 5 and 30 were measured at 16 to 2048 dimensions
ROUNDING = {torch.float32: 8, torch.float64: 64}


def squared_norms(vectors: Tensor, dtype: torch.dtype, rows: int = 4096) -> Tensor:
    """Squared Euclidean norms [N] of vectors [N, D], computed in `dtype`, without N x D further numbers."""
    norm = torch.empty(len(vectors), dtype=dtype, device=vectors.device)  # a list would pin the blocks freed between
    for part, out in zip(vectors.split(rows), norm.split(rows)):
        out.copy_(part.to(dtype).square().sum(1))
    return norm


def smallest(tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row of [B, N], in order, and where: as torch.topk, but it looks at most numbers only once."""
    n = tile.shape[1]
    whole = n // BLOCK
    if whole <= 2 * k:
        return tile.topk(k, dim=1, largest=False)
    blocks = tile[:, :whole * BLOCK].unflatten(1, (whole, BLOCK))
    block = blocks.amin(2).topk(k, dim=1, largest=False).indices  # k blocks hold the k smallest
    column = (block[:, :, None] * BLOCK + torch.arange(BLOCK, device=tile.device)).flatten(1)
    rest = torch.arange(whole * BLOCK, n, device=tile.device).expand(len(tile), -1)
    column = torch.cat([column, rest], dim=1)
    value, place = tile.gather(1, column).topk(k, dim=1, largest=False)
    return value, column.gather(1, place)


class Points:
    """Points float32 [N, D] on a device, and their core distances once these are known."""

    def __init__(self, points: Tensor):
        self.points, self.n = points, len(points)
        self.norm = squared_norms(points, torch.float64)
        self.rows_at_a_time = max(ROWS, (TILE_CUDA if points.is_cuda else TILE) // self.n)
        self.core: Tensor  # squared, float64 [N]; not there before it is known

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """Squared distances float64 [B, K] from points p int64 [B] to q [B, K], or [B] to q [B]."""
        a, b = self.points[p].double(), self.points[q].double()
        return ((a[:, None] if q.dim() == 2 else a) - b).square().sum(-1)

    def closest(self, rows: Tensor, k: int, label: Tensor | None = None, dtype: torch.dtype = torch.float32):
        """For points `rows` int64 [B] the k closest others, or the k closest of other components where label int64 [N] is given.

        Closest by squared distance, or by squared mutual reachability with a label. Returns their indices int64 [B, k] and
        values float64 [B, k] in order (infinite where there are fewer), and a bound float64 [B] below all others' values.
        """
        points, norm = self.points.to(dtype), self.norm.to(dtype)
        tile = torch.addmm(norm, points[rows], points.T, alpha=-2)
        slack = ROUNDING[dtype] * torch.finfo(dtype).eps * (self.norm[rows] + self.norm.max())
        if label is None:
            tile.scatter_(1, rows[:, None], torch.inf)
        else:
            tile = torch.maximum(tile, self.core.to(dtype) - norm[rows, None], out=tile)
            tile.masked_fill_(label[rows, None] == label, torch.inf)
        value, index = smallest(tile, k)
        missing = value.isinf()
        last = value[:, -1].double() + self.norm[rows]
        exact = self.between(rows, index)
        if label is not None:
            exact = torch.maximum(torch.maximum(exact, self.core[rows, None]), self.core[index])
            last = torch.maximum(last, self.core[rows])
        exact, order = exact.masked_fill_(missing, torch.inf).sort(dim=1, stable=True)
        bound = last + slack if dtype == torch.float64 else last - slack  # float64 has the last word: closer than that is a tie
        return index.gather(1, order), exact, bound.masked_fill_(missing[:, -1], torch.inf)

    def neighbours(self, k: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """What `closest` gives for all points, the first `depth` of the k neighbours being exact."""
        index = torch.empty(self.n, k, dtype=torch.int64, device=self.points.device)
        value = torch.empty(self.n, k, dtype=torch.float64, device=self.points.device)
        bound = torch.empty(self.n, dtype=torch.float64, device=self.points.device)
        every = torch.arange(self.n, device=self.points.device)
        for rows in every.split(self.rows_at_a_time):
            index[rows], value[rows], bound[rows] = self.closest(rows, k)
        hidden = (value[:, depth - 1] > bound).nonzero()[:, 0]  # another one could be closer than these
        for rows in hidden.split(max(1, self.rows_at_a_time // 2)):
            index[rows], value[rows], bound[rows] = self.closest(rows, k, dtype=torch.float64)
        return index, value, bound


class Tree(NamedTuple):
    """A minimum spanning tree of N points, edges from the shortest on; those as long by their ends."""
    p: np.ndarray  # int64 [N - 1]: the lower end
    q: np.ndarray  # int64 [N - 1]
    length: np.ndarray  # float64 [N - 1]: mutual reachability


def spanning_tree(features: Tensor, min_samples: int) -> Tree:
    """The minimum spanning tree of features [N, D] under mutual reachability. Needs two points, and min_samples of them.

    A core distance is the length of several edges, so there are several such trees; this is the one that `shortest` defines. All those
    edges are among the candidates, so that last bits of the features, which change with a batch size, do not change the choice.
    """
    space = Points(features.float())
    n, device = space.n, features.device
    k = min(max(CANDIDATES, 2 * min_samples), n - 1)
    depth = max(min_samples - 1, 1)  # others that make a core distance; the nearest one is an edge in any case
    index, value, bound = space.neighbours(k, depth)
    edges = [(torch.arange(n, device=device).repeat_interleave(depth), index[:, :depth].flatten())]
    space.core = value[:, depth - 1].clone() if min_samples > 1 else torch.zeros_like(value[:, 0])
    value = torch.maximum(torch.maximum(value, space.core[:, None]), space.core[index])
    bound = torch.maximum(bound, space.core)

    # Boruvka: each component takes its shortest edge to another one; only the largest need not
    label, parts = torch.arange(n, device=device), n
    while parts > 1:
        point_best, place = value.masked_fill(label[index] == label[:, None], torch.inf).min(1)
        best = torch.full((parts,), torch.inf, dtype=torch.float64, device=device).scatter_reduce_(0, label, point_best, "amin")
        hidden = bound < best[label]  # a candidate that was not kept could be shorter
        certain = torch.ones(parts, dtype=torch.bool, device=device).index_fill_(0, label[hidden], False) & best.isfinite()
        if 8 * int(certain.sum()) < parts:
            hidden &= label != label.bincount().argmax()
            look_again(space, hidden.nonzero()[:, 0], label, best, index, value, bound)
            continue
        takes = certain[label] & (point_best == best[label])
        first = torch.full((parts,), n, device=device).scatter_reduce_(
            0, label[takes], takes.nonzero()[:, 0], "amin")[certain]
        edges.append((first, index[first, place[first]]))
        a, b = (label[end].cpu().numpy() for end in edges[-1])
        parts, merged = connected_components(coo_array((np.ones(len(a)), (a, b)), (parts, parts)), directed=False)
        label = torch.from_numpy(merged).to(device, torch.int64)[label]

    p, q = (torch.cat(ends) for ends in zip(*edges))
    code = (torch.minimum(p, q) * n + torch.maximum(p, q)).unique()
    p, q = code // n, code % n
    length = torch.cat([space.between(*pair) for pair in zip(p.split(2 ** 18), q.split(2 ** 18))])
    length = torch.maximum(length, torch.maximum(space.core[p], space.core[q])).sqrt()
    return shortest(p.cpu().numpy(), q.cpu().numpy(), length.cpu().numpy())


def look_again(space: Points, rows: Tensor, label: Tensor, best: Tensor, index: Tensor, value: Tensor, bound: Tensor) -> None:
    """Replace the candidates of `rows` by those outside their components, nearest bounds first, as long as they could matter."""
    k = index.shape[1]
    rows = rows[bound[rows].argsort(stable=True)]
    for part in rows.split(space.rows_at_a_time):
        part = part[bound[part] < best[label[part]]]
        if not len(part):
            continue
        index[part], value[part], bound[part] = space.closest(part, k, label)
        hidden = part[value[part, 0] > bound[part]]
        if len(hidden):
            index[hidden], value[hidden], bound[hidden] = space.closest(hidden, k, label, torch.float64)
        best.scatter_reduce_(0, label[part], value[part, 0], "amin")


def shortest(p: np.ndarray, q: np.ndarray, length: np.ndarray) -> Tree:
    """The minimum spanning tree of a connected graph with edges p < q int64 [E], length float64 [E], each given once.

    Of edges as long, that to the lower points goes before, so that the tree is the only one, whichever way it is found.
    """
    order = np.lexsort((q, p, length))
    graph = coo_array((np.arange(1.0, len(order) + 1), (p[order], q[order])))
    n = int(q.max()) + 1
    graph.resize(n, n)
    taken = order[np.sort(minimum_spanning_tree(graph.tocsr()).data).astype(np.int64) - 1]
    return Tree(p[taken], q[taken], length[taken])
