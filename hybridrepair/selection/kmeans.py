"""k-means: few centres for many points, and what it is made of."""
import numpy as np
import torch
from torch import Tensor

from hybridrepair.images.randomness import generator

MAX_ITERATIONS = 100
NUMBERS = 2 ** 24  # of features, made float64 at a time
ROWS, CHUNK = 4096, 2048  # vectors whose norms, and points whose distances, are computed at a time


def squared_norms(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """Squared Euclidean norms [N] of vectors [N, D], computed in `dtype`, without N x D further numbers."""
    norm = torch.empty(len(vectors), dtype=dtype, device=vectors.device)  # a list would pin the blocks freed between
    for part, out in zip(vectors.split(ROWS), norm.split(ROWS)):
        out.copy_(part.to(dtype).square().sum(1))
    return norm


def nearest(points: Tensor, centres: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Index int64 [N] of the nearest centre of each point, and the squared distance float32 [N] to it."""
    half = squared_norms(centres, centres.dtype) / 2
    # small results kept one by one would pin the large blocks freed between them: N x k numbers in the end
    index = torch.empty(len(points), dtype=torch.int64, device=points.device)
    distance = torch.empty_like(points[:, 0])
    for part, out, squared in zip(points.split(chunk), index.split(chunk), distance.split(chunk)):
        out.copy_(torch.addmm(half, part, centres.T, alpha=-1).argmin(1))
        squared.copy_((part - centres[out]).square().sum(1))
    return index, distance


def spread_out(points: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """k-means++ with several candidates a step, of which the one that lowers the inertia most is kept: centres [k, D].

    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    n, trials = len(points), 2 + int(np.log(k))
    norm = squared_norms(points, points.dtype)
    first = int(rng.integers(n))
    chosen: list[Tensor | int] = [first]
    closest = torch.empty_like(norm)
    for part, out in zip(points.split(CHUNK), closest.split(CHUNK)):
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
