"""Candidates: the evidence on a part of the pool, so that a solution chooses among those images alone."""
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.selection.clustering import NOISE, Regions
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.solutions import Selection, select


class Candidates:
    """A strategies.Evidence on the images `rows` int64 [M] of a pool; regions are cut among them."""

    def __init__(self, pool: Pool, rows: np.ndarray):
        self.pool, self.n, self.seed = pool, len(rows), pool.seed
        self.rows = torch.from_numpy(rows).to(pool.device)

    @cached_property
    def probs(self) -> Tensor:
        return self.pool.probs[self.rows]

    @cached_property
    def features(self) -> Tensor:
        return self.pool.features[self.rows]

    @cached_property
    def variance(self) -> Tensor:
        return self.pool.variance[self.rows]

    @cached_property
    def unsmoothness(self) -> Tensor:
        return self.pool.unsmoothness[self.rows]

    @cached_property
    def latents(self) -> Tensor:
        return self.pool.latents[self.rows]

    @cached_property
    def embedding(self) -> Tensor:
        return self.pool.embedding[self.rows]

    @cached_property
    def regions(self) -> Regions:
        return self.pool.regions_in(lambda: self.embedding)


def select_among(pool: Pool, solution: str, budget: int, known: np.ndarray) -> Selection:
    """Apply a solution to the pool images without a label in known int64 [N]; the selection is one in the whole pool."""
    rows = np.flatnonzero(known == UNKNOWN)
    if len(rows) == pool.n:
        return select(pool, solution, budget)
    annotated, region, taken, regions = select(Candidates(pool, rows), solution, budget)
    source = np.full(pool.n, UNKNOWN)
    source[rows] = np.where(taken == UNKNOWN, UNKNOWN, rows[taken])
    if regions is not None:
        place = torch.from_numpy(rows).to(regions.label.device)
        label = torch.full((pool.n,), NOISE, device=place.device)
        label[place] = regions.label
        regions = Regions(label, place[regions.representative])
    return Selection(rows[annotated], region, source, regions)
