"""Selection strategies: which images to annotate.

A strategy is a function of the evidence on N unlabelled images and a budget, and returns the indices of min(budget, N)
of them in the order of choice. Ties break by index.
"""
import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hybridrepair.images.randomness import generator, key
from hybridrepair.selection.clustering import Regions
from hybridrepair.selection.kmeans import kmeans, squared_norms
from hybridrepair.selection.reachability import ROUNDING
from hybridrepair.selection.uncertainty import entropy as entropy_of

NEIGHBOURS = 20  # images of its cluster that say how typical an image is
CHUNK = 2 ** 20  # distances computed at a time
ROWS = 4096  # vectors made float64 at a time
AHEAD = 32  # k-center picks whose distances are computed at once


class Evidence(Protocol):
    """What strategies read; each is computed when first asked for."""
    @property
    def n(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def probs(self) -> Tensor: ...  # float64 [N, C], softmax of the model under repair
    @property
    def features(self) -> Tensor: ...  # float32 [N, D], input of its last linear layer
    @property
    def variance(self) -> Tensor: ...  # float64 [N], over augmented views
    @property
    def unsmoothness(self) -> Tensor: ...  # float64 [N], mean entropy over augmented views
    @property
    def latents(self) -> Tensor: ...  # float32 [N, D], the features that --fe names
    @property
    def embedding(self) -> Tensor: ...  # float32 [N, D], L2-normalised: what clusters are made in
    @property
    def regions(self) -> Regions: ...  # of the embedding


def first(scores: Tensor, budget: int, largest: bool = False) -> np.ndarray:
    """Indices of the `budget` smallest (or largest) scores [N], best first."""
    return scores.argsort(descending=largest, stable=True)[:budget].cpu().numpy()


def random(evidence: Evidence, budget: int) -> np.ndarray:
    """Uniform without replacement."""
    return generator(key(evidence.seed, "random selection")).permutation(evidence.n)[:budget]


def gini(evidence: Evidence, budget: int) -> np.ndarray:
    """Smallest sum of squared probabilities. Source: Feng et al., "DeepGini", ISSTA 2020."""
    return first(evidence.probs.square().sum(1), budget)


def entropy(evidence: Evidence, budget: int) -> np.ndarray:
    """Largest predictive entropy. Source: Settles, "Active learning literature survey", 2009."""
    return first(entropy_of(evidence.probs), budget, largest=True)


def margin(evidence: Evidence, budget: int) -> np.ndarray:
    """Smallest difference between the two largest probabilities. Source: Scheffer et al., IDA 2001."""
    two = evidence.probs.topk(2, dim=1).values
    return first(two[:, 0] - two[:, 1], budget)


def turns(group: Tensor, order: Tensor) -> Tensor:
    """Round int64 [N] that each item is served in when groups int64 [N] take turns, each giving its first in `order` [N]."""
    by_group = order[group[order].argsort(stable=True)]
    size = group.bincount()
    place = torch.arange(len(group), device=group.device) - (size.cumsum(0) - size)[group[by_group]]
    return torch.empty_like(place).scatter_(0, by_group, place)


def mcp(evidence: Evidence, budget: int) -> np.ndarray:
    """Multiple-boundary clustering and prioritisation: the images nearest to each boundary between two classes.

    Bins by (first, second) class take turns, each giving its largest p_second / p_first; a last round that cannot serve
    every bin serves those with the largest ratios. Source: Shen et al., "MCP", ASE 2020.
    """
    two = evidence.probs.sort(dim=1, descending=True, stable=True)
    ratio = two.values[:, 1] / two.values[:, 0]
    bin_of = two.indices[:, 0] * evidence.probs.shape[1] + two.indices[:, 1]
    order = ratio.argsort(descending=True, stable=True)
    turn = turns(bin_of, order)
    return order[turn[order].argsort(stable=True)][:budget].cpu().numpy()


def variance(evidence: Evidence, budget: int) -> np.ndarray:
    """Largest variance of the prediction over augmented views. Source: Gao et al., "Consistency-based SSAL", ECCV 2020."""
    return first(evidence.variance, budget, largest=True)


def without_rounding(distance: Tensor, both: Tensor) -> Tensor:
    """Squared distances made 0, in place, below what rounding leaves between copies; `both` is the sum of the squared norms."""
    return distance.masked_fill_(distance < ROUNDING[both.dtype] * torch.finfo(both.dtype).eps * both, 0)


def squared_distance(norm: Tensor, product: Tensor, j: Tensor | int) -> Tensor:
    """Squared distances [N] to the j-th of N vectors, from squared norms and inner products with it, both [N].

    For J vectors at once: [J, N] from j [J, 1] and products [J, N].
    """
    both = norm + norm[j]
    return without_rounding(both - 2 * product, both)


def coreset(evidence: Evidence, budget: int) -> np.ndarray:
    """k-center greedy on the latents: always the image farthest from those chosen; the first is image 0.

    Distances to the AHEAD images that are farthest now are computed at once: the next picks are mostly among them. The
    running minimum stays on the device, which the host asks once for each such round. Where only copies of chosen images
    are left, the lowest index not yet chosen follows.
    Source: Sener and Savarese, "Active learning for CNNs: a core-set approach", ICLR 2018.
    """
    points = evidence.latents
    budget = min(budget, evidence.n)
    chosen = torch.zeros(budget, dtype=torch.int64, device=points.device)
    norm = squared_norms(points, points.dtype)
    distance = squared_distance(norm, points @ points[0], 0).index_fill_(0, chosen[:1], -1)  # chosen ones never again
    done = 1
    while done < budget:
        ahead = distance.sort(descending=True, stable=True).indices[:min(AHEAD, budget - done)]
        to_ahead = squared_distance(norm, (points @ points[ahead].T).T.contiguous(), ahead[:, None])
        known = torch.ones((), dtype=torch.bool, device=points.device)
        count = torch.zeros((), dtype=torch.int64, device=points.device)
        for step in range(len(ahead)):
            pick = distance.argmax()
            place = ahead == pick
            known = known & place.any()
            nearer = torch.minimum(distance, to_ahead[place.to(torch.int8).argmax()]).index_fill_(0, pick, -1)
            distance = torch.where(known, nearer, distance)
            chosen[done + step] = pick
            count += known
        done += int(count)
    return chosen.cpu().numpy()


def gradient_distance(a: Tensor, h: Tensor, norm: Tensor, j: int, rows: Tensor) -> Tensor:
    """Squared distances float64 [B] of gradient embeddings a (x) h at int64 rows [B] to the j-th.

    From a float64 [N, C], h [N, D] and norm = |a|^2 |h|^2, float64 [N].
    """
    both = norm[rows] + norm[j]
    return without_rounding(both - 2 * (a[rows] @ a[j]) * (h[rows].double() @ h[j].double()), both)


def badge(evidence: Evidence, budget: int) -> np.ndarray:
    """k-means++ on the gradient embeddings (onehot(argmax p) - p) (x) features, never formed: N x (C + D) numbers do.

    The first pick has the largest norm, the next are drawn with probability proportional to the squared distance to the
    nearest pick. Source: Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds", ICLR 2020.
    """
    h, probs = evidence.features, evidence.probs  # in this order a pool needs one pass of the network for both
    a = torch.nn.functional.one_hot(probs.argmax(1), probs.shape[1]) - probs
    draws = generator(key(evidence.seed, "badge")).random(evidence.n)
    return spread(a, h, budget, draws)


def spread(a: Tensor, h: Tensor, budget: int, draws: np.ndarray) -> np.ndarray:
    """k-means++ picks on a (x) h with the uniform numbers `draws`; the lowest free index where all distances are 0.

    Distances are float64. Each step reads h [N, D] in its own precision to see which could have fallen, and computes those.
    """
    norm = squared_norms(a, torch.float64) * squared_norms(h, torch.float64)
    rounding = ROUNDING[h.dtype] * torch.finfo(h.dtype).eps
    budget = min(budget, len(norm))
    free = torch.ones(len(norm), dtype=torch.bool, device=norm.device)
    chosen = [int(norm.argmax())] if budget else []
    distance = torch.full_like(norm, math.inf)
    for u in draws[:max(budget - 1, 0)]:
        last = chosen[-1]
        free[last] = False
        both = norm + norm[last]
        fallen = both * (1 - rounding) - 2 * (a @ a[last]) * (h @ h[last]) < distance
        for rows in fallen.nonzero()[:, 0].split(ROWS):
            distance[rows] = torch.minimum(distance[rows], gradient_distance(a, h, norm, last, rows))
        distance[last] = 0
        reach = distance.cumsum(0)
        place = int(torch.searchsorted(reach, u * reach[-1], right=True)) if reach[-1] > 0 else 0
        chosen.append(place if place < len(norm) and free[place] and reach[-1] > 0 else int(free.to(torch.int8).argmax()))
    return np.array(chosen, dtype=np.int64)


def distance_to_neighbours(points: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Mean distance float32 [N] of each of the points [N, D] to the other points nearest to it; 0 for a lone point.

    Computed in float64 and rounded, so that ties are ties. Memory is linear in N, time is not.
    """
    k = min(neighbours, len(points) - 1)
    points = points.double()
    norm = squared_norms(points, points.dtype)
    index = torch.arange(len(points), device=points.device)
    mean = torch.empty(len(points), device=points.device)  # small results kept one by one pin freed blocks: N x N in the end
    for part in index.split(max(CHUNK // len(points), 1)):
        squared = squared_distance(norm, points[part] @ points.T, part[:, None])
        mean[part] = (squared.topk(k + 1, largest=False).values.sqrt().sum(1) / max(k, 1)).float()  # itself is one, at 0
    return mean


def typiclust(evidence: Evidence, budget: int) -> np.ndarray:
    """The most typical image of each of `budget` k-means clusters of the embedding, that of the largest cluster first.

    Typicality is the inverse mean distance to the 20 nearest neighbours in the cluster, or to all where there are fewer.
    Where copies leave fewer clusters than the budget, these take turns with their next typical images.

    The paper makes 500 clusters at most. Here is no such cap: budgets are shares of the pool, so that 1 % means 100 images a
    cluster in a pool of any size, while capped clusters would give several images each, close to one another. k-means++
    draws by position, so that the order of the pool matters unless the clusters lie apart.
    Source: Hacohen et al., "Active learning on a budget: opposite strategies suit high and low budgets", ICML 2022.
    """
    points, budget = evidence.embedding, min(budget, evidence.n)
    if budget == 0:
        return np.empty(0, dtype=np.int64)
    cluster = kmeans(points, budget, key(evidence.seed, "typiclust"))
    size = cluster.bincount()
    distance = torch.empty(evidence.n, device=points.device)
    for member in cluster.argsort(stable=True).split(size[size > 0].tolist()):
        distance[member] = distance_to_neighbours(points[member])
    turn = turns(cluster, distance.argsort(stable=True))
    order = size[cluster].argsort(descending=True, stable=True)
    return order[turn[order].argsort(stable=True)][:budget].cpu().numpy()
