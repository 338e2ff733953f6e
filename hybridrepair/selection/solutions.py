"""Solutions: ways of repair, each by what it has annotated, who takes those labels, and what it trains on beside them."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.randomness import generator, key
from hybridrepair.selection.clustering import NOISE, Regions
from hybridrepair.selection.strategies import Evidence, badge, coreset, entropy, gini, margin, mcp, random, typiclust, variance


class Selection(NamedTuple):
    """Which pool images are annotated, and who takes their labels."""
    annotated: np.ndarray  # int64 [B], in order of choice
    region: np.ndarray  # int64 [B]: the region each stands for, NOISE where it stands for itself
    source: np.ndarray  # int64 [N]: the annotated image whose label each pool image takes, UNKNOWN for none
    regions: Regions | None = None

    def labels(self, answers: np.ndarray) -> np.ndarray:
        """Annotated and propagated labels int64 [N] from the annotator's answers int64 [B]; UNKNOWN elsewhere."""
        answer_of = np.full(len(self.source), UNKNOWN)
        answer_of[self.annotated] = answers
        return np.where(self.source == UNKNOWN, UNKNOWN, answer_of[self.source])

    @property
    def alone(self) -> "Selection":
        """The same choice, in which each annotated image keeps its label for itself."""
        return self._replace(source=one_by_one(self.annotated, len(self.source)).source)

    @property
    def propagated(self) -> np.ndarray:
        """Which pool images take another's label, bool [N]."""
        return (self.source != UNKNOWN) & (self.source != np.arange(len(self.source)))

    def only(self, kept: np.ndarray) -> "Selection":
        """The selection of those annotated images that kept bool [B] says; who took another's label takes none."""
        annotated = self.annotated[kept]
        return Selection(annotated, self.region[kept], np.where(np.isin(self.source, annotated), self.source, UNKNOWN), self.regions)


def one_by_one(annotated: np.ndarray, n: int) -> Selection:
    """A selection without propagation: each annotated image keeps its own label."""
    source = np.full(n, UNKNOWN)
    source[annotated] = annotated
    return Selection(annotated, np.full(len(annotated), NOISE), source)


def nothing(n: int) -> Selection:
    """The selection that annotates none of n images."""
    return one_by_one(np.empty(0, dtype=np.int64), n)


def by_region(regions: Regions, unsmoothness: Tensor, budget: int, seed: int) -> Selection:
    """HybridRepair: regions by the sum of their members' unsmoothness [N], largest first; each gives its representative.

    A budget beyond the number of regions takes the other clustered images, most unsmooth first, and at last noise images
    at random; all of those stand for themselves.
    """
    label, representative = (x.cpu().numpy() for x in regions)
    score = unsmoothness.cpu().numpy()
    n = len(label)
    clustered = label != NOISE
    total = np.bincount(label[clustered], weights=score[clustered], minlength=len(representative))
    ranked = np.argsort(-total, kind="stable")[:budget]
    stand_in = np.full(len(representative) + 1, UNKNOWN)  # the last entry is that of NOISE = -1
    stand_in[ranked] = representative[ranked]
    source = stand_in[label]
    taken = np.isin(np.arange(n), representative[ranked])
    others = np.flatnonzero(clustered & ~taken)
    others = others[np.argsort(-score[others], kind="stable")]
    noise = generator(key(seed, "noise selection")).permutation(np.flatnonzero(~clustered))
    alone = np.concatenate([others, noise])[:max(budget - len(ranked), 0)]
    source[alone] = alone
    region = np.concatenate([ranked, np.full(len(alone), NOISE)])
    return Selection(np.concatenate([representative[ranked], alone]), region, source, regions)


class Solution(NamedTuple):
    """One way of repair: how it selects, and which unlabelled images it trains on."""
    strategy: Callable[[Evidence, int], np.ndarray] | None  # None: by region
    unlabelled: str = "none"  # none | rest: all but the annotated | all | trusted: by unsmoothness | taught: by soft labels
    embeds: bool = False  # whether it reads the features that --fe names

    @property
    def by_region(self) -> bool:
        """Whether it has one image of each region annotated, as HybridRepair does."""
        return self.strategy is None

    @property
    def trusts(self) -> bool:
        """Whether it follows the unsmoothness of the pool while it trains: HybridRepair as published."""
        return self.unlabelled == "trusted"

    @property
    def taught(self) -> bool:
        """Whether it trains on the soft labels of a teacher."""
        return self.unlabelled == "taught"


SOLUTIONS = {
    "random": Solution(random),
    "gini": Solution(gini),
    "entropy": Solution(entropy),
    "margin": Solution(margin),
    "mcp": Solution(mcp),
    "coreset": Solution(coreset, embeds=True),
    "badge": Solution(badge),
    "typiclust": Solution(typiclust, embeds=True),
    "SSLRandom": Solution(random, "rest"),
    "SSLConsistency": Solution(variance, "rest"),
    "SSLConsistency-Imp": Solution(variance, "all"),
    "hybrid": Solution(None, "trusted", embeds=True),
    "hybrid+": Solution(None, "taught", embeds=True),
}
PUBLISHED_NAMES = {"TTA": "hybrid"}


def select(evidence: Evidence, solution: str, budget: int) -> Selection:
    """Apply a solution to the pool that the evidence is on."""
    rule = SOLUTIONS[solution]
    if rule.strategy is not None:
        return one_by_one(rule.strategy(evidence, budget), evidence.n)
    chosen = by_region(evidence.regions, evidence.unsmoothness, budget, evidence.seed)
    return chosen.alone if rule.taught else chosen
