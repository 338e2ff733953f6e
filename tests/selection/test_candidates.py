"""candidates.py: every solution chooses among the images without a label alone, and its selection is one of the whole pool."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.selection.candidates import Candidates, select_among
from hybridrepair.selection.clustering import NOISE, regions
from hybridrepair.selection.solutions import SOLUTIONS, select

BUDGET = 6


def pool(n: int = 60) -> SimpleNamespace:
    """n images in four bunches, with all that strategies read."""
    rng = np.random.default_rng(0)
    embedding = normalize(torch.from_numpy(np.eye(16)[np.arange(n) % 4] + 0.02 * rng.normal(size=(n, 16))).float())
    cut = partial(regions, budget=BUDGET, size=5)
    return SimpleNamespace(n=n, seed=3, device=torch.device("cpu"), probs=torch.from_numpy(rng.normal(size=(n, 6))).softmax(1),
                           features=torch.from_numpy(rng.normal(size=(n, 16))).float(), latents=embedding + 0.1, embedding=embedding,
                           variance=torch.from_numpy(rng.random(n)), unsmoothness=torch.from_numpy(rng.random(n)),
                           regions=cut(embedding), regions_in=lambda points: cut(points()))


def known_of(*labelled: int, n: int = 60) -> np.ndarray:
    known = np.full(n, UNKNOWN)
    known[list(labelled)] = 1
    return known


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_what_has_a_label_is_neither_chosen_nor_takes_another(solution):
    field = pool()
    labelled = select(field, solution, BUDGET).annotated  # those that would be chosen
    selection = select_among(field, solution, BUDGET, known_of(*labelled))
    assert len(selection.annotated) == BUDGET and not set(selection.annotated) & set(labelled)
    assert (selection.source[labelled] == UNKNOWN).all() and (selection.source[selection.annotated] == selection.annotated).all()


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_the_choice_is_that_of_a_pool_of_those_images(solution):
    field, rows = pool(), np.arange(5, 60)
    selection = select_among(field, solution, BUDGET, known_of(*range(5)))
    alone = select(Candidates(field, rows), solution, BUDGET)
    assert selection.annotated.tolist() == (alone.annotated + 5).tolist() and selection.region.tolist() == alone.region.tolist()
    assert selection.source[5:].tolist() == [each + 5 if each != UNKNOWN else UNKNOWN for each in alone.source.tolist()]


def test_regions_cover_what_is_left_and_keep_their_numbers():
    selection = select_among(pool(), "hybrid", BUDGET, known_of(0, 7))
    label, representative = selection.regions
    assert (label[[0, 7]] == NOISE).all() and len(label) == 60
    assert representative[selection.region].tolist() == selection.annotated.tolist()
    assert label[representative].tolist() == list(range(len(representative)))


def test_without_a_label_it_is_the_choice_among_all():
    field = pool()
    assert select_among(field, "hybrid", BUDGET, known_of()).annotated.tolist() == select(field, "hybrid", BUDGET).annotated.tolist()


def test_a_budget_beyond_what_is_left_takes_all_of_it():
    selection = select_among(pool(), "gini", BUDGET, known_of(*range(3, 60)))
    assert sorted(selection.annotated.tolist()) == [0, 1, 2]
