"""Mutual reachability, the distance that HDBSCAN clusters by, and its minimum spanning tree.

The mutual reachability of two points is the largest of their distance and the core distances of both; a core distance is that
to the `min_samples`-th neighbour. All N^2 distances are computed, in tiles by matrix products on the device of the points,
but only N k of them are kept: candidates in float32, which are computed anew in float64, and where rounding could have
hidden one, the row in float64. Boruvka's algorithm then needs few further rows to connect
all points, and Prim's, on the few edges that matter, puts the tree in order.
Sources: Campello et al., "Hierarchical density estimates", TKDD 2015; March et al., "Fast Euclidean minimum spanning tree", KDD 2010.
"""
import heapq
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
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
    """A minimum spanning tree of N points, edges in the order in which Prim's algorithm finds them from point 0."""
    p: np.ndarray  # int64 [N - 1]: the end that was there
    q: np.ndarray  # int64 [N - 1]: the end that came to it
    length: np.ndarray  # float64 [N - 1]: mutual reachability


def spanning_tree(features: Tensor, min_samples: int) -> Tree:
    """The minimum spanning tree of features [N, D] under mutual reachability. Needs more than min_samples points.

    A core distance is the length of several edges, so trees are not unique; this is the one that scikit-learn finds.
    """
    space = Points(features.float())
    n, device = space.n, features.device
    k = min(max(CANDIDATES, 2 * min_samples), n - 1)
    index, value, bound = space.neighbours(k, min_samples)
    edges = [(torch.arange(n, device=device).repeat_interleave(min_samples), index[:, :min_samples].flatten())]
    space.core = value[:, min_samples - 1].clone()
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
    return prim(p.cpu().numpy(), q.cpu().numpy(), length.cpu().numpy(), n)


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


def prim(p: np.ndarray, q: np.ndarray, length: np.ndarray, n: int) -> Tree:
    """The minimum spanning tree of a connected graph with edges p, q int64 [E], length float64 [E], each given once.

    Of edges as short, that to the lowest point comes first, and of those the one that was found first.
    """
    end = np.concatenate([p, q])
    order = end.argsort(kind="stable")
    start = np.concatenate([[0], np.bincount(end, minlength=n).cumsum()]).tolist()
    neighbour, distance = np.concatenate([q, p])[order].tolist(), np.concatenate([length, length])[order].tolist()
    there, nearest = [False] * n, [math.inf] * n
    tree: list[tuple[int, int, float]] = []
    heap: list[tuple[float, int, int, int]] = [(0.0, 0, 0, 0)]  # length, new point, step, point in the tree
    while heap:
        short, new, step, old = heapq.heappop(heap)
        if there[new]:
            continue
        there[new] = True
        tree.append((old, new, short))
        for place in range(start[new], start[new + 1]):
            far = neighbour[place]
            if not there[far] and distance[place] < nearest[far]:
                nearest[far] = distance[place]
                heapq.heappush(heap, (distance[place], far, len(tree), new))
    return Tree(*(np.array(column) for column in zip(*tree[1:])))
