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

from hybridrepair.selection.cells import Cells, one_cell
from hybridrepair.selection.kmeans import centroids, squared_norms

CANDIDATES = 16  # kept for each point, at least
BLOCK = 32  # columns of which only the smallest is looked at first
TILE, TILE_CUDA = 2 ** 23, 2 ** 28  # distances computed at a time: what caches hold, and what keeps a GPU busy
ROWS = 64  # at least, so that a tile stays a matrix product
NUMBERS = 2 ** 20  # of features of candidates, made float64 at a time
ENDS = 1024  # points on either side, at most, of which the closest make a bridge between two components
# eps, of squared distances from inner products; up to 5 and 30 were measured at 16 to 2048 dimensions
ROUNDING = {torch.float32: 8, torch.float64: 64}


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
    """Points float32 [N, D] on a device, which look at those of their cells, and their core distances once these are known."""

    def __init__(self, points: Tensor, cells: Cells | None = None):
        self.points, self.n = points, len(points)
        self.cells = cells or one_cell(points)
        self.norm = squared_norms(points, torch.float64)
        self.largest = self.norm.max()
        self.tile = TILE_CUDA if points.is_cuda else TILE
        # so many that those which look at a cell make a tile with its members, on average
        self.rows_at_a_time = max(ROWS, self.tile * len(self.cells.members) ** 2 // self.cells.seen.shape[1] // self.n)
        self.core: Tensor  # squared, float64 [N]; not there before it is known

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """Squared distances float64 [B, K] from points p int64 [B] to q [B, K], or [B] to q [B]."""
        a, b = self.points[p].double(), self.points[q].double()
        return ((a[:, None] if q.dim() == 2 else a) - b).square().sum(-1)

    def smallest_of(self, cell: int, rows: Tensor, k: int, label: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """For points `rows` int64 [B] the k smallest of what `closest` compares in a cell, and the points int64 [B, k] that have them.

        Computed in `dtype`, less the squared norms of `rows`, and without their core distances.
        """
        member = self.cells.members[cell]
        points, norm = (self.points, self.norm) if len(member) == self.n else (self.points[member], self.norm[member])
        tile = torch.addmm(norm.to(dtype), self.points[rows].to(dtype), points.to(dtype).T, alpha=-2)
        if label is None:
            own = (self.cells.seen[rows, 0] == cell).nonzero()[:, 0]
            tile[own, self.cells.place[rows[own]]] = torch.inf
        else:
            least = self.core[member].to(dtype) - self.norm[rows, None].to(dtype)
            tile = torch.maximum(tile, least, out=tile).masked_fill_(label[rows, None] == label[member], torch.inf)
        value, place = smallest(tile, min(k, len(member)))
        return value, member[place]

    def closest(self, rows: Tensor, k: int, label: Tensor | None = None, dtype: torch.dtype = torch.float32):
        """For points `rows` int64 [B] the k closest others, or the k closest of other components where label int64 [N] is given.

        Closest by squared distance, or by squared mutual reachability with a label, of those in the cells that they look at. Returns
        their indices int64 [B, k] and values float64 [B, k] in order (infinite where there are fewer), and a bound float64 [B] below
        all others' values.
        """
        value = torch.full((len(rows), k), torch.inf, dtype=dtype, device=rows.device)
        index = torch.zeros(len(rows), k, dtype=torch.int64, device=rows.device)
        for cell, some in self.cells.visits(rows, self.tile * 4 // dtype.itemsize, ROWS):
            found, of = self.smallest_of(cell, rows[some], k, label, dtype)
            value[some], order = torch.cat([value[some], found], dim=1).topk(k, dim=1, largest=False)
            index[some] = torch.cat([index[some], of], dim=1).gather(1, order)
        missing = value.isinf()
        last = value[:, -1].double() + self.norm[rows]
        exact = torch.empty(value.shape, dtype=torch.float64, device=rows.device)
        for p, q, out in zip(*(each.split(max(1, NUMBERS // (k * self.points.shape[1]))) for each in (rows, index, exact))):
            out.copy_(self.between(p, q))
        if label is not None:
            exact = torch.maximum(torch.maximum(exact, self.core[rows, None]), self.core[index])
            last = torch.maximum(last, self.core[rows])
        exact, order = exact.masked_fill_(missing, torch.inf).sort(dim=1, stable=True)
        slack = ROUNDING[dtype] * torch.finfo(dtype).eps * (self.norm[rows] + self.largest)
        bound = last + slack if dtype == torch.float64 else last - slack  # float64 has the last word: closer than that is a tie
        return index.gather(1, order), exact, bound.masked_fill_(missing[:, -1], torch.inf)

    def neighbours(self, k: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        """What `closest` gives for all points, the first `depth` of the k neighbours being exact."""
        index = torch.empty(self.n, k, dtype=torch.int64, device=self.points.device)
        value = torch.empty(self.n, k, dtype=torch.float64, device=self.points.device)
        bound = torch.empty(self.n, dtype=torch.float64, device=self.points.device)
        for rows in self.cells.order.split(self.rows_at_a_time):
            index[rows], value[rows], bound[rows] = self.closest(rows, k)
        hidden = (value[:, depth - 1] > bound).nonzero()[:, 0]  # another one could be closer than these
        for rows in hidden.split(self.rows_at_a_time):
            index[rows], value[rows], bound[rows] = self.closest(rows, k, dtype=torch.float64)
        few = value[:, depth - 1].isinf().nonzero()[:, 0]  # are in the cells of these: they look at all points
        if len(few):
            index[few], value[few], bound[few] = Points(self.points).closest(few, k, dtype=torch.float64)
        return index, value, bound


class Tree(NamedTuple):
    """A minimum spanning tree of N points, edges from the shortest on; those as long by their ends."""
    p: np.ndarray  # int64 [N - 1]: the lower end
    q: np.ndarray  # int64 [N - 1]
    length: np.ndarray  # float64 [N - 1]: mutual reachability


def spanning_tree(features: Tensor, min_samples: int, cells: Cells | None = None) -> Tree:
    """The minimum spanning tree of features [N, D] under mutual reachability. Needs two points, and min_samples of them.

    A core distance is the length of several edges, so there are several such trees; this is the one that `shortest` defines. All those
    edges are among the candidates, so that last bits of the features, which change with a batch size, do not change the choice.
    With `cells`, core distances and edges are sought among the points that a point looks at: the tree is then nearly as short.
    """
    space = Points(features.float(), cells)
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
        known = torch.ones(parts, dtype=torch.bool, device=device).index_fill_(0, label[hidden], False)
        largest, few = label.bincount().argmax(), parts <= len(space.cells.members)
        certain = known & best.isfinite()
        if few:
            certain[largest] = False
        if 8 * int(certain.sum()) < parts:
            smaller = hidden & (label != largest)
            unsure = smaller if smaller.any() or certain.any() else hidden
            if unsure.any():
                look_again(space, unsure.nonzero()[:, 0], label, best, index, value, bound)
                continue
        # a component that looks at no other, and once they are few any but the largest, may take a bridge that is shorter
        asks = (known if few else known & best.isinf()).index_fill(0, largest, False)
        bridged, p, q, length = bridges(space, label, asks)
        edges.append((p, q))
        shorter = length < best[bridged]
        certain[bridged[shorter]] = False
        takes = certain[label] & (point_best == best[label])
        first = torch.full((parts,), n, device=device).scatter_reduce_(
            0, label[takes], takes.nonzero()[:, 0], "amin")[certain]
        edges.append((first, index[first, place[first]]))
        joins = [edges[-1], (p[shorter], q[shorter])]
        a, b = (label[torch.cat(ends)].cpu().numpy() for ends in zip(*joins))
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


def bridges(space: Points, label: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each of the components `wanted` bool [C], of label int64 [N], an edge to another one, near and short if not the shortest.

    What a component has in a cell is a group. The edge joins the two groups, one of the component and one of others, with the nearest
    means, and is the shortest between the points of each that are nearest to the other's mean. Returns components int64 [E], the points
    int64 [E] and [E], and squared mutual reachability float64 [E].
    """
    if not wanted.any():
        return label[:0], label[:0], label[:0], space.core[:0]
    cells = len(space.cells.members)
    key, group = (label * cells + space.cells.seen[:, 0]).unique(return_inverse=True)
    members, of = group.argsort(stable=True).split(group.bincount().tolist()), key // cells
    mean = centroids(space.points, group, len(key))[0]

    def towards(one: Tensor, other: Tensor) -> Tensor:
        member = members[int(one)]
        far = (space.points[member].double() - mean[other]).square().sum(1)
        return member[far.topk(min(ENDS, len(far)), largest=False).indices]

    found, length = [], []
    for component in wanted.nonzero()[:, 0]:
        own = (of == component).nonzero()[:, 0]
        far = torch.cdist(mean[own], mean).masked_fill_(of == component, torch.inf)
        one, other = own[far.argmin() // len(key)], far.argmin() % len(key)
        p, q = towards(one, other), towards(other, one)
        reach = torch.cdist(space.points[p].double(), space.points[q].double()).square()
        reach = torch.maximum(torch.maximum(reach, space.core[p, None]), space.core[q])
        place = reach.argmin()
        found.append(torch.stack([component, p[place // len(q)], q[place % len(q)]]))
        length.append(reach.min())
    return *torch.stack(found, dim=1), torch.stack(length)


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
