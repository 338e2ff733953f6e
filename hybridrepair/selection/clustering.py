"""Regions of the pool: noise points dropped by density, the rest cut into small clusters, each with a representative."""
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hybridrepair.selection.cells import Cells, cells_of
from hybridrepair.selection.kmeans import NUMBERS, centroids, kmeans, squared_norms
from hybridrepair.selection.reachability import spanning_tree

MIN_CLUSTER_SIZE = 5
NOISE = -1
PAIRS = 2 ** 21  # of points, looked at together by dbscan
LEAST = 1e-150  # between copies: a sparse graph has no edges of length 0


class Regions(NamedTuple):
    """Clusters of N points, numbered from 0 without gaps."""
    label: Tensor  # int64 [N]; NOISE for points in no region
    representative: Tensor  # int64 [R]: the member nearest to each region's centroid


def dense(features: Tensor, min_samples: int, cells: Cells | None = None) -> Tensor:
    """Labels int64 [N] of HDBSCAN on features [N, D], NOISE for noise: exact without `cells`, in which else neighbours are sought.

    min_samples counts the point itself, as scikit-learn does, and the published package above 60 dimensions. Both order edges as long
    by chance, and here they go by their ends: a few points on the rim of a cluster are noise in one and not in the other.
    Source: Campello et al., "Hierarchical density estimates", TKDD 2015.
    """
    from sklearn.cluster import HDBSCAN  # here, because it is slow to import and most solutions do without

    if len(features) < max(MIN_CLUSTER_SIZE, min_samples):
        return torch.full((len(features),), NOISE, device=features.device)
    tree = spanning_tree(features, min_samples, cells)
    graph = coo_array((increasing(tree.length), (tree.p, tree.q)), (len(features),) * 2)
    # each point's shortest edge in the tree is no longer than any other, so that a core distance by it changes no edge
    model = HDBSCAN(min_samples=1, min_cluster_size=MIN_CLUSTER_SIZE, metric="precomputed", copy=False)
    return torch.from_numpy(model.fit_predict((graph + graph.T).tocsr())).to(features.device, torch.int64)


def increasing(length: np.ndarray) -> np.ndarray:
    """Lengths float64 [N] >= 0 in order, those that are equal made greater by the least that keeps their order, and none 0."""
    place = np.arange(len(length))
    bits = np.maximum(length, LEAST).view(np.int64)  # of positive floats, consecutive integers are consecutive floats
    return (np.maximum.accumulate(bits - place) + place).view(np.float64)


def cells_in(features: Tensor, cell_size: int, seed: int) -> Cells | None:
    """Cells of about `cell_size` points [N, D]; None for a size of 0, and where all points are one cell."""
    return cells_of(features, cell_size, seed) if 0 < cell_size < len(features) else None


def cut(points: Tensor, k: int, seed: int, parts: list[Tensor]) -> Tensor:
    """k-means of points [N, D] into k clusters, each within one of the parts int64: labels int64 [N] in 0..k-1, or a few more.

    Each part gets its share of the k clusters, and one at least; what is in no part is NOISE. With parts that are cells it is an
    approximation, whose time grows with N where that of k-means with k in proportion to N grows with N^2.
    """
    n, before, count = sum(map(len, parts)), 0, 0
    label = torch.full((len(points),), NOISE, device=points.device)
    for part in parts:
        if not len(part):
            continue
        before += len(part)
        share = max(round(k * before / n) - count, 1)
        label[part] = kmeans(points if len(part) == len(points) else points[part], share, seed) + count
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
    """k-means of what HDBSCAN does not call noise.

    In cells of its own: noise moves the borders of those of all points, whose inertia was 2.9 % above the exact one, not 1.4 %.
    """
    label = dense(features, min_samples, cells_in(features, cell_size, seed))
    kept = (label != NOISE).nonzero()[:, 0]
    if len(kept):
        label[kept] = plain_kmeans(features[kept], budget, size, eps, min_samples, seed, cell_size)
    return label


def plain_kmeans(features: Tensor, budget: int, size: int, eps: float, min_samples: int, seed: int, cell_size: int) -> Tensor:
    """k-means of all points; none is noise."""
    cells = cells_in(features, cell_size, seed)
    parts = cells.members if cells else [torch.arange(len(features), device=features.device)]
    return cut(features, count_of(len(features), budget, size), seed, parts)


def hdbscan(features: Tensor, budget: int, size: int, eps: float, min_samples: int, seed: int, cell_size: int) -> Tensor:
    """The clusters of HDBSCAN themselves."""
    return dense(features, min_samples, cells_in(features, cell_size, seed))


def dbscan(features: Tensor, budget: int, size: int, eps: float, min_samples: int, seed: int, cell_size: int) -> Tensor:
    """DBSCAN with cosine distance `eps`, which on unit vectors is the Euclidean distance sqrt(2 eps).

    Labels int64 [N] as scikit-learn gives them: clusters in the order of their first dense point, and a point on the rim of several
    in the first. No lists of neighbours are kept: beside the points in float64 it takes some 100 MB, whatever their number and eps.
    Source: Ester et al., "A density-based algorithm for discovering clusters", KDD 1996.
    """
    points, n, device = features.double(), len(features), features.device
    norm = squared_norms(points, points.dtype)

    def near(rows: Tensor, columns: Tensor | slice) -> Tensor:
        return torch.addmm(norm[columns], points[rows], points[columns].T, alpha=-2).add_(norm[rows, None]) <= 2 * eps

    every = torch.arange(n, device=device)
    is_dense, component = torch.zeros(n, dtype=torch.bool, device=device), np.arange(n)
    for rows in every.split(max(1, PAIRS // n)):
        close, end = near(rows, slice(None)), int(rows[-1]) + 1
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
