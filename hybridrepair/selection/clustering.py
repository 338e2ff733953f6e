"""Regions of the pool: noise points dropped by density, the rest cut into small clusters, each with a representative."""
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hybridrepair.images.randomness import generator
from hybridrepair.selection.reachability import spanning_tree, squared_norms

MIN_CLUSTER_SIZE = 5
MAX_ITERATIONS = 100
NOISE = -1
PAIRS = 2 ** 21  # of points, looked at together by dbscan
NUMBERS = 2 ** 24  # of features, made float64 at a time
LEAST = 1e-150  # between copies: a sparse graph has no edges of length 0


class Regions(NamedTuple):
    """Clusters of N points, numbered from 0 without gaps."""
    label: Tensor  # int64 [N]; NOISE for points in no region
    representative: Tensor  # int64 [R]: the member nearest to each region's centroid


def dense(features: Tensor, min_samples: int) -> Tensor:
    """Labels int64 [N] of exact HDBSCAN on features [N, D], NOISE for noise.

    min_samples counts the point itself, as scikit-learn does, and the published package above 60 dimensions. Both order edges as long
    by chance, and here they go by their ends: a few points on the rim of a cluster are noise in one and not in the other.
    Source: Campello et al., "Hierarchical density estimates", TKDD 2015.
    """
    from sklearn.cluster import HDBSCAN  # here, because it is slow to import and most solutions do without

    if len(features) < max(MIN_CLUSTER_SIZE, min_samples):
        return torch.full((len(features),), NOISE, device=features.device)
    tree = spanning_tree(features, min_samples)
    graph = coo_array((increasing(tree.length), (tree.p, tree.q)), (len(features),) * 2)
    # each point's shortest edge in the tree is no longer than any other, so that a core distance by it changes no edge
    model = HDBSCAN(min_samples=1, min_cluster_size=MIN_CLUSTER_SIZE, metric="precomputed", copy=False)
    return torch.from_numpy(model.fit_predict((graph + graph.T).tocsr())).to(features.device, torch.int64)


def increasing(length: np.ndarray) -> np.ndarray:
    """Lengths float64 [N] >= 0 in order, those that are equal made greater by the least that keeps their order, and none 0."""
    place = np.arange(len(length))
    bits = np.maximum(length, LEAST).view(np.int64)  # of positive floats, consecutive integers are consecutive floats
    return (np.maximum.accumulate(bits - place) + place).view(np.float64)


def nearest(points: Tensor, centres: Tensor, chunk: int = 2048) -> tuple[Tensor, Tensor]:
    """Index int64 [N] of the nearest centre of each point, and the squared distance float32 [N] to it."""
    half = squared_norms(centres, centres.dtype) / 2
    # small results kept one by one would pin the large blocks freed between them: N x k numbers in the end
    index = torch.empty(len(points), dtype=torch.int64, device=points.device)
    distance = torch.empty_like(points[:, 0])
    for part, out, squared in zip(points.split(chunk), index.split(chunk), distance.split(chunk)):
        out.copy_(torch.addmm(half, part, centres.T, alpha=-1).argmin(1))
        squared.copy_((part - centres[out]).square().sum(1))
    return index, distance


def spread_out(points: Tensor, k: int, rng: np.random.Generator, chunk: int = 2048) -> Tensor:
    """k-means++ with several candidates a step, of which the one that lowers the inertia most is kept: centres [k, D].

    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    n, trials = len(points), 2 + int(np.log(k))
    norm = squared_norms(points, points.dtype)
    first = int(rng.integers(n))
    chosen: list[Tensor | int] = [first]
    closest = torch.empty_like(norm)
    for part, out in zip(points.split(chunk), closest.split(chunk)):
        out.copy_((part - points[first]).square().sum(1))
    uniform = torch.from_numpy(rng.random((k, trials))).to(points.device)
    for step in range(1, k):
        reach = closest.cumsum(0, dtype=torch.float64)
        candidate = torch.searchsorted(reach, uniform[step] * reach[-1], right=True).clamp(max=n - 1)
        distance = torch.addmm(norm, points[candidate], points.T, alpha=-2) + norm[candidate, None]
        distance = torch.minimum(distance.clamp_(min=0), closest)
        best = distance.sum(1).argmin()
        closest = distance[best]
        chosen.append(candidate[best])
    return points[torch.stack([torch.as_tensor(c, device=points.device) for c in chosen])]


def centroids(points: Tensor, label: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Means float64 [k, D] and sizes int64 [k] of the clusters that `label` int64 [N] names; an empty one's mean is 0.

    Sums run in float64 over points sorted by label, so they do not depend on threads; some features at a time.
    """
    order = label.argsort(stable=True)
    size = torch.bincount(label, minlength=k)
    end, columns = size.cumsum(0), max(1, NUMBERS // len(points))
    mean = torch.empty(k, points.shape[1], dtype=torch.float64, device=points.device)
    for part, out in zip(points.split(columns, 1), mean.split(columns, 1)):
        total = torch.zeros(len(points) + 1, part.shape[1], dtype=torch.float64, device=points.device)
        torch.cumsum(part[order].double(), 0, out=total[1:])
        out.copy_((total[end] - total[end - size]) / size.clamp(min=1)[:, None])
    return mean, size


def kmeans(points: Tensor, k: int, seed: int) -> Tensor:
    """Lloyd's k-means from k-means++ centres: labels int64 [N] in 0..k-1 for points float32 [N, D].

    Stops when the centres have moved by less than 1e-4 of the points' mean variance, or after 100 iterations. Where fewer
    than k points are distinct, some labels do not occur.
    """
    points = points - points.mean(0)  # distances from inner products round less near the origin, and features share a direction
    centres = spread_out(points, k, generator(seed))
    tolerance = 1e-4 * points.var(0, correction=0).mean()
    for _ in range(MAX_ITERATIONS):
        label, distance = nearest(points, centres)
        mean, size = centroids(points, label, k)
        moved = mean.to(points.dtype)
        empty = (size == 0).nonzero()[:, 0]
        moved[empty] = points[distance.argsort(descending=True, stable=True)[:len(empty)]]
        shift = (moved - centres).square().sum()
        centres = moved
        if shift <= tolerance:
            break
    return nearest(points, centres)[0]


def cut(points: Tensor, k: int, seed: int, cell_size: int = 0) -> Tensor:
    """k-means of points [N, D] into k clusters, or with a cell_size first into cells of about so many, and each of these.

    Cells are an approximation, whose time grows with N where that of k-means with k in proportion to N grows with N^2.
    Each cell gets its share of the k clusters, and one at least: labels int64 [N] in 0..k-1, or a few more.
    """
    n = len(points)
    if not 0 < cell_size < n:
        return kmeans(points, k, seed)
    cell = kmeans(points, -(-n // cell_size), seed)
    label, before, count = torch.empty_like(cell), 0, 0
    for member in cell.argsort(stable=True).split([size for size in cell.bincount().tolist() if size]):
        before += len(member)
        share = max(round(k * before / n) - count, 1)
        label[member] = kmeans(points[member], share, seed) + count
        count += share
    return label


def numbered(label: Tensor) -> Tensor:
    """The same clusters numbered from 0 without gaps, in the order of their old numbers; NOISE stays."""
    present, rank = label.unique(return_inverse=True)
    return rank - int((present == NOISE).any())


def representatives(features: Tensor, label: Tensor) -> Tensor:
    """The member nearest to the centroid of each region, the lowest index on ties: int64 [R].

    Distances are computed in float64 and rounded, so that ties are ties: the two members of a region of two, for example.
    The published code takes the nearest of all points, which can be noise or a member of another region.
    """
    member = (label != NOISE).nonzero()[:, 0]
    if not len(member):
        return member
    label, points = label[member], features[member]
    centre, size = centroids(points, label, int(label.max()) + 1)
    distance, rows = torch.empty(len(points), device=points.device), max(1, NUMBERS // points.shape[1])
    for part, of, out in zip(points.split(rows), label.split(rows), distance.split(rows)):
        out.copy_((part.double() - centre[of]).square().sum(1))
    order = distance.argsort(stable=True)
    order = order[label[order].argsort(stable=True)]
    return member[order[size.cumsum(0) - size]]


def count_of(n: int, budget: int, size: int) -> int:
    """How many regions n points are cut into: regions of about `size` points, yet one at least for each annotation."""
    return max(n // size, min(budget, n), 1)


def hybrid(features: Tensor, budget: int, size: int, eps: float, min_samples: int, seed: int, cell_size: int) -> Tensor:
    """k-means of what HDBSCAN does not call noise."""
    label = dense(features, min_samples)
    kept = (label != NOISE).nonzero()[:, 0]
    if len(kept):
        label[kept] = cut(features[kept], count_of(len(kept), budget, size), seed, cell_size)
    return label


def plain_kmeans(features: Tensor, budget: int, size: int, eps: float, min_samples: int, seed: int, cell_size: int) -> Tensor:
    """k-means of all points; none is noise."""
    return cut(features, count_of(len(features), budget, size), seed, cell_size)


def hdbscan(features: Tensor, budget: int, size: int, eps: float, min_samples: int, seed: int, cell_size: int) -> Tensor:
    """The clusters of HDBSCAN themselves."""
    return dense(features, min_samples)


def dbscan(features: Tensor, budget: int, size: int, eps: float, min_samples: int, seed: int, cell_size: int) -> Tensor:
    """DBSCAN with cosine distance `eps`, which on unit vectors is the Euclidean distance sqrt(2 eps).

    Labels int64 [N] as scikit-learn gives them: clusters in the order of their first dense point, and a point on the rim of several
    in the first. No lists of neighbours are kept: beside the points in float64 it takes some 100 MB, whatever their number and eps.
    Source: Ester et al., "A density-based algorithm for discovering clusters", KDD 1996.
    """
    points, n, device = features.double(), len(features), features.device
    norm = squared_norms(points, points.dtype)

    def near(rows: Tensor, columns: Tensor) -> Tensor:
        return torch.addmm(norm[columns], points[rows], points[columns].T, alpha=-2).add_(norm[rows, None]) <= 2 * eps

    every = torch.arange(n, device=device)
    is_dense, component = torch.zeros(n, dtype=torch.bool, device=device), np.arange(n)
    for rows in every.split(max(1, PAIRS // n)):
        close, end = near(rows, every), int(rows[-1]) + 1
        is_dense[rows] = close.sum(1) >= min_samples
        # pairs of dense points, each once: of the later ones it is not known yet whether they are dense
        p, q = (close[:, :end] & is_dense[:end] & is_dense[rows, None]).nonzero().cpu().numpy().T
        joined = coo_array((np.ones(len(p), bool), (component[p + int(rows[0])], component[q])), (n, n))
        component = connected_components(joined, directed=False)[1][component]

    label = torch.full((n,), NOISE, device=device)
    core = is_dense.nonzero()[:, 0]
    if not len(core):
        return label
    _, first, place = np.unique(component[core.cpu().numpy()], return_index=True, return_inverse=True)
    number = torch.from_numpy(first.argsort().argsort()[place]).to(device)
    label[core] = number
    for rows in (~is_dense).nonzero()[:, 0].split(max(1, PAIRS // len(core))):
        least = number.expand(len(rows), -1).masked_fill(~near(rows, core), n).amin(1)
        label[rows] = torch.where(least < n, least, NOISE)
    return label


CLUSTERINGS = {"hybrid": hybrid, "kmeans": plain_kmeans, "hdbscan": hdbscan, "dbscan": dbscan}


def regions(features: Tensor, budget: int, cluster: str = "hybrid", size: int = 10, eps: float = 0.3,
            min_samples: int = 3, seed: int = 0, cell_size: int = 0) -> Regions:
    """Cut L2-normalised features float32 [N, D] into regions by the named clustering; see CLUSTERINGS and `cut`."""
    if not len(features):
        return Regions(*torch.empty(2, 0, dtype=torch.int64, device=features.device))
    label = CLUSTERINGS[cluster](features, budget, size, eps, min_samples, seed, cell_size)
    label = numbered(label.to(features.device))
    return Regions(label, representatives(features, label))
