"""strategies.py: every solution on every kind of pool, each strategy by hand and beside the recorded picks."""
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from hybridrepair.base.provenance import peak_memory
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.randomness import generator, key
from hybridrepair.selection import strategies
from hybridrepair.selection.clustering import Regions, regions
from hybridrepair.selection.solutions import SOLUTIONS, select
from hybridrepair.selection.strategies import (
    ROUNDING,
    badge,
    coreset,
    distance_to_neighbours,
    entropy,
    gini,
    gradient_distance,
    margin,
    mcp,
    spread,
    squared_distance,
    typiclust,
    variance,
)

CLUSTERED = ("typiclust", "hybrid", "hybrid+")  # make clusters for a budget
DRAWN = ("random", "SSLRandom")  # draw positions, whichever images lie there


def solutions_but(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("solution", [name for name in SOLUTIONS if name not in names])


every_solution = solutions_but()


@dataclass
class Pool:
    """The evidence of N images, as Scenario has it but made of arrays."""
    probs: Tensor
    features: Tensor
    variance: Tensor
    unsmoothness: Tensor
    embedding: Tensor
    latents: Tensor
    budget: int = 0
    seed: int = 3

    @property
    def n(self) -> int:
        return len(self.probs)

    @cached_property
    def regions(self) -> Regions:
        return regions(self.embedding, self.budget)

    def __getitem__(self, index) -> "Pool":
        """The pool of these images, in this order, which may repeat some."""
        arrays = ("probs", "features", "variance", "unsmoothness", "embedding", "latents")
        return replace(self, **{name: getattr(self, name)[index] for name in arrays})


def pool(sizes: tuple[int, ...] = (17, 13, 11, 8)) -> Pool:
    """Random images, in bunches of these sizes that lie apart in the embedding, shuffled."""
    n, rng = sum(sizes), np.random.default_rng(0)
    bunch = np.repeat(np.arange(len(sizes)), sizes)
    embedding = normalize(torch.from_numpy(np.eye(16)[bunch] + 0.02 * rng.normal(size=(n, 16))).float())
    probs = torch.from_numpy(2 * rng.normal(size=(n, 6))).softmax(1)
    features = torch.from_numpy(rng.normal(size=(n, 16))).float()
    measured = torch.from_numpy(rng.random((2, n)))
    return Pool(probs, features, *measured, embedding, features + 0.1)[rng.permutation(n)]


def certain() -> Pool:
    """All of one class without a doubt, so that all but the features ties."""
    probs, zeros = one_hot(torch.full((49,), 2), 6).double(), torch.zeros(49).double()
    return replace(pool(), probs=probs, variance=zeros, unsmoothness=zeros)


def of_one_class() -> Pool:
    """All predicted as class 2, by various probabilities."""
    probs = pool().probs
    probs[:, 2] += 1
    return replace(pool(), probs=probs / 2)


POOLS = {"plain": pool, "ties": lambda: pool()[[0] * 30], "duplicates": lambda: pool()[np.arange(60) % 20],
         "one class": of_one_class, "certain": certain, "one image": lambda: pool()[:1], "two images": lambda: pool()[:2]}


def choose(pool: Pool, solution: str, budget: int) -> list[int]:
    return select(replace(pool, budget=budget), solution, budget).annotated.tolist()


def evidence(**arrays) -> SimpleNamespace:
    """Evidence that holds these arrays and nothing else."""
    arrays = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return SimpleNamespace(n=len(next(iter(arrays.values()))), seed=0, **arrays)


# every solution

@every_solution
@pytest.mark.parametrize("kind", POOLS)
def test_a_solution_annotates_as_many_distinct_images_as_the_budget_and_the_pool_allow(solution, kind):
    images = POOLS[kind]()
    for budget in (0, 1, 7, images.n, images.n + 5):
        annotated, region, source, _ = select(replace(images, budget=budget), solution, budget)
        assert annotated.dtype == np.int64 and len(set(annotated.tolist())) == len(annotated) == min(budget, images.n)
        assert set(annotated.tolist()) <= set(range(images.n))
        assert region.shape == annotated.shape and (source[annotated] == annotated).all()
        assert set(source.tolist()) - {UNKNOWN} == set(annotated.tolist())
        assert annotated.tolist() == choose(images, solution, budget)


@solutions_but(*CLUSTERED)
def test_a_larger_budget_adds_to_the_choice_of_a_smaller_one(solution):
    for kind in POOLS:
        everything = choose(POOLS[kind](), solution, 100)
        assert all(choose(POOLS[kind](), solution, budget) == everything[:budget] for budget in (0, 1, 2, 13))


@solutions_but(*DRAWN)
def test_a_pool_in_another_order_gives_the_same_images(solution):
    """For badge, the first: it draws the others by position. Clusters are the same where there is one for each bunch."""
    images, rng = pool(), np.random.default_rng(1)
    for budget in {"badge": [1], "typiclust": [4], "hybrid": [1, 3, 4], "hybrid+": [1, 3, 4]}.get(solution, [1, 4, 20, 49]):
        order = np.concatenate([[0], rng.permutation(np.arange(1, 49))])  # coreset begins with image 0
        assert order[choose(images[order], solution, budget)].tolist() == choose(images, solution, budget)


@solutions_but(*DRAWN, "hybrid", "hybrid+")  # hybrid's regions, members and noise are below
def test_ties_break_by_index(solution):
    for kind in ("ties", "certain") if solution not in ("coreset", "typiclust") else ("ties",):
        assert choose(POOLS[kind](), solution, 12) == list(range(12))


@pytest.mark.parametrize("solution", ["coreset", "badge", "typiclust"])
def test_copies_are_annotated_only_after_an_image_of_each_kind(solution):
    images = POOLS["duplicates"]()
    assert sorted(image % 20 for image in choose(images, solution, 20)) == list(range(20))
    assert sorted(image % 20 for image in choose(images, solution, 60)[:20]) == list(range(20))


@pytest.mark.parametrize("solution", [*DRAWN, "badge"])
def test_what_is_drawn_depends_on_the_seed(solution):
    assert choose(pool(), solution, 10) != choose(replace(pool(), seed=4), solution, 10)


def test_solutions_that_differ_only_in_training_choose_the_same_images():
    assert choose(pool(), "random", 10) == choose(pool(), "SSLRandom", 10)
    assert choose(pool(), "SSLConsistency", 10) == choose(pool(), "SSLConsistency-Imp", 10)


def test_solutions_are_said_to_read_the_features_of_fe_exactly_where_they_do():
    for name, solution in SOLUTIONS.items():
        without = pool()
        del without.embedding, without.latents
        if solution.embeds:
            with pytest.raises(AttributeError):
                select(without, name, 4)
        else:
            select(without, name, 4)


# by the prediction

DOUBTS = [[.50, .50, .00], [.60, .20, .20], [.70, .15, .15], [.34, .33, .33]]


@pytest.mark.parametrize("strategy, order", [
    (gini, [3, 1, 0, 2]),  # sums of squares .5, .44, .535, .3334
    (entropy, [3, 1, 2, 0]),  # 1, 1.371, 1.181, 1.585 bits
    (margin, [0, 3, 1, 2]),  # differences 0, .4, .55, .01
])
def test_images_in_doubt_go_first(strategy, order):
    assert strategy(evidence(probs=torch.tensor(DOUBTS).double()), 4).tolist() == order
    assert strategy(evidence(probs=torch.tensor(DOUBTS).double()), 2).tolist() == order[:2]


def test_mcp_serves_every_boundary_in_turn_and_the_nearest_images_in_a_last_part_of_a_round():
    probs = torch.tensor([
        [.50, .25, .15, .10],  # boundary 0 1, ratio .5
        [.40, .36, .12, .12],  #               .9
        [.75, .15, .05, .05],  #               .2
        [.30, .18, .26, .26],  #          0 2  .87
        [.24, .72, .02, .02],  #          1 0  .33
        [.35, .50, .10, .05],  #               .7
        [.05, .40, .50, .05],  #          2 1  .8
        [.50, .30, .10, .10],  #          0 1  .6
        [.55, .05, .35, .05],  #          0 2  .64
    ]).double()
    rounds = [1, 3, 6, 5, 8, 7, 4, 0, 2]  # ratios .9 .87 .8 .7 | .64 .6 .33 | .5 | .2
    for budget in range(11):
        assert mcp(evidence(probs=probs), budget).tolist() == rounds[:budget]


def test_variance_goes_from_the_largest_down():
    assert variance(evidence(variance=[.2, .9, .2, .4]), 3).tolist() == [1, 3, 0]


@pytest.fixture(params=["a_A_N2000_C10_b100", "a_E_N600_C10_skew_b120"])
def recorded(oracle, request):
    with np.load(oracle / f"{request.param}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def believed(logits: np.ndarray) -> SimpleNamespace:
    return evidence(probs=torch.from_numpy(logits).softmax(1))


def test_gini_picks_the_recorded_images(recorded):
    images, budget = believed(recorded["logits"]), int(recorded["budget"])
    assert images.probs.square().sum(1).numpy() == pytest.approx(recorded["gini_score"], abs=1e-12)
    assert set(gini(images, budget)) == set(recorded["gini_sel"])


def test_mcp_picks_the_recorded_images(recorded):
    assert set(mcp(believed(recorded["logits"]), int(recorded["budget"]))) == set(recorded["mcp_sel"])


@pytest.fixture
def quirks(oracle):
    with np.load(oracle / "a_quirks.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("budget", [3, 6, 8, 20])
def test_mcp_picks_the_recorded_ratios_where_images_tie(quirks, budget):
    picked = mcp(believed(quirks["tie_logits"]), budget)
    ratio, theirs = quirks["tie_ratio"], quirks[f"tie_mcp_b{budget}"]
    assert sorted(ratio[picked]) == sorted(ratio[theirs])
    if budget > 3:  # whole rounds, or a last part of one without ties between boundaries
        assert set(picked) == set(theirs)


def test_mcp_picks_no_image_twice_where_ratios_underflow(quirks):
    assert (quirks["zero_ratio"] == 0).sum() == 4
    # bins 0, 1, 2 and 3 beside the class of lowest number, where 4 and 0 share the first
    assert mcp(believed(quirks["zero_logits"]), 5).tolist() == [4, 1, 2, 3, 0]


def test_mcp_ends_at_a_budget_of_the_whole_pool(quirks):
    images = believed(quirks["small_logits"])
    assert set(mcp(images, 29)) == set(quirks["small_mcp_b29"])
    assert sorted(mcp(images, 30)) == sorted(mcp(images, 31)) == list(range(30))


# by the features

@pytest.mark.parametrize("dimensions", [16, 512, 2048])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_copies_are_at_distance_0_and_others_are_not(dimensions, dtype):
    points = torch.randn(60, dimensions).abs().to(dtype)
    points = torch.cat([points, points, 1.01 * points])
    norm = points.square().sum(1)
    near = pytest.approx(1e-4 * norm[:60].numpy(), rel=0.02)
    for product in (torch.stack([points @ point for point in points]), points @ points.T):
        distance = squared_distance(norm, product, torch.arange(180)[:, None])
        assert distance.diagonal().count_nonzero() == distance[:60, 60:120].diagonal().count_nonzero() == 0
        assert distance[:60, 120:].diagonal().numpy() == near
    single = squared_distance(norm, points @ points[5], 5)
    assert single.numpy() == pytest.approx(distance[5].numpy(), abs=1e-5 * norm[5].item())


def test_coreset_goes_on_with_the_image_farthest_from_those_chosen():
    line = torch.tensor([[0.0], [4], [7], [10], [-3]])  # 10 is 10 from 0; then 4 is 4 from 0, then 7 and -3 tie at 3
    assert coreset(evidence(latents=line), 5).tolist() == [0, 3, 1, 2, 4]


def test_coreset_picks_the_recorded_images(oracle):
    with np.load(oracle / "b_coreset.npz", allow_pickle=False) as arrays:
        picked = coreset(evidence(latents=arrays["latents"]), int(arrays["budget"]))
        assert picked.tolist() == arrays["selected"].tolist()
        copies = coreset(evidence(latents=arrays["dup_latents"]), int(arrays["dup_budget"]))
        assert copies[:5].tolist() == arrays["dup_selected"][:5].tolist()  # of 5 distinct points; then it repeats image 0
        assert copies[5:].tolist() == [1, 2, 4, 5]


def gradients(probs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """onehot(argmax p) - p of probs [N, C], and the gradient embeddings [N, C * D] formed explicitly."""
    a = one_hot(probs.argmax(1), probs.shape[1]) - probs
    return a, (a[:, :, None] * h[:, None]).flatten(1)


def squared_distances(a: Tensor, h: Tensor) -> np.ndarray:
    norm = a.square().sum(1) * h.square().sum(1)
    return torch.stack([gradient_distance(a, h, norm, j, torch.arange(len(a))) for j in range(len(a))]).numpy()


@pytest.mark.parametrize("classes", [2, 10, 43])
def test_factorised_gradient_distances_equal_the_explicit_ones(classes):
    h = torch.randn(40, 24).abs().double()
    a, explicit = gradients((3 * torch.randn(40, classes)).double().softmax(1), h)
    expected = (explicit[:, None] - explicit).square().sum(2)
    assert squared_distances(a, h) == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("classes, name", [("", "embedding"), ("43", "embedding43_as_called")])
def test_factorised_gradient_distances_are_those_of_the_recorded_embedding(oracle, classes, name):
    with np.load(oracle / "c_badge_embedding.npz", allow_pickle=False) as arrays:
        probs, h, theirs = (torch.from_numpy(arrays[part]).double() for part in (f"p{classes}", f"h{classes}", name))
    a, explicit = gradients(probs, h)
    assert explicit[:, :theirs.shape[1]].numpy() == pytest.approx(theirs.numpy(), abs=1e-6)  # of 43 classes it has 10
    expected = theirs if not classes else explicit
    distance = (expected[:, None] - expected).square().sum(2).numpy()
    assert squared_distances(a, h) == pytest.approx(distance, rel=1e-5, abs=1e-5)


def test_badge_makes_the_recorded_picks_of_the_recorded_draws(oracle):
    with np.load(oracle / "c_badge_kmeanspp.npz", allow_pickle=False) as arrays:
        one, x = torch.ones(600, 1).double(), torch.from_numpy(arrays["X"]).double()
        picked = spread(one, x, int(arrays["K"]), arrays["uniforms"])
        assert picked.tolist() == arrays["selected"].tolist()
        distance = gradient_distance(one, x, x.square().sum(1), int(picked[0]), torch.arange(len(x)))
        assert distance.sqrt().numpy() == pytest.approx(arrays["dist_first"], abs=1e-5)


def test_picks_from_float32_features_are_those_from_float64_ones():
    rng = np.random.default_rng(0)
    h = torch.from_numpy(rng.gamma(2, size=(500, 64))).float()[torch.arange(600) % 500]  # with copies
    a = torch.from_numpy(rng.dirichlet(np.ones(10), size=500))[torch.arange(600) % 500]
    draws = rng.random(600)
    assert spread(a, h, 550, draws).tolist() == spread(a, h.double(), 550, draws).tolist()


@pytest.mark.parametrize("u, second", [(0, 0), (.19, 0), (.21, 1), (.99, 1)])
def test_a_draw_picks_in_proportion_to_the_squared_distance(u, second):
    a, h = torch.ones(3, 1).double(), torch.tensor([[4.0], [3], [5]]).double()  # squared distances to 5: 1, 4, 0
    assert spread(a, h, 2, np.array([u])).tolist() == [2, second]


def test_badge_begins_with_the_largest_gradient():
    probs, h = torch.tensor([[.6, .4], [.9, .1], [.5, .5]]).double(), torch.tensor([[1.0, 0], [9, 0], [0, 1.7]])
    assert badge(evidence(probs=probs, features=h), 1).tolist() == [1]  # |a| |h| / sqrt 2: .4, .9, .85


@pytest.mark.parametrize("classes", [2, 43])
def test_badge_picks_what_the_explicit_gradients_of_all_classes_give(classes):
    probs, h = (2 * torch.randn(80, classes)).double().softmax(1), torch.randn(80, 24).abs()
    explicit, draws = gradients(probs, h.double())[1], generator(key(0, "badge")).random(80)
    expected = spread(torch.ones(80, 1).double(), explicit, 30, draws)
    assert badge(evidence(probs=probs, features=h), 30).tolist() == expected.tolist()


def test_badge_takes_copies_last_and_by_index_in_many_dimensions():
    """Products of float64 vectors round more than those of float32 ones; see ROUNDING."""
    probs, h = torch.randn(5, 4).double().softmax(1), torch.randn(5, 2048).abs()
    images = evidence(probs=probs.repeat(4, 1), features=h.repeat(4, 1))
    picked = badge(images, 20).tolist()
    assert sorted(image % 5 for image in picked[:5]) == list(range(5))
    assert picked[5:] == sorted(picked[5:])


def test_badge_never_holds_all_gradients():
    probs, h = torch.randn(20_000, 100).double().softmax(1), torch.randn(20_000, 512)
    before = peak_memory()
    assert len(badge(evidence(probs=probs, features=h), 5)) == 5
    assert peak_memory() - before < 1e9  # they are 4.1e9 bytes in float32


# by typicality

@pytest.mark.parametrize("neighbours, mean", [(1, [1, 1, 2, 4]), (2, [2, 1.5, 2.5, 5]), (20, [11 / 3, 3, 3, 17 / 3])])
def test_an_image_is_typical_by_its_mean_distance_to_its_nearest_neighbours(neighbours, mean):
    line = torch.tensor([[0.0], [1], [3], [7]])
    assert distance_to_neighbours(line, neighbours).numpy() == pytest.approx(mean)


def test_lone_points_and_copies_are_at_distance_0_of_their_neighbours():
    assert distance_to_neighbours(torch.randn(1, 512)).tolist() == [0]
    assert distance_to_neighbours(torch.randn(1, 512).repeat(30, 1)).tolist() == [0] * 30


def test_distances_to_neighbours_do_not_depend_on_how_they_are_cut(monkeypatch):
    points = torch.randn(50, 8)
    whole = distance_to_neighbours(points)
    monkeypatch.setattr(strategies, "CHUNK", 120)
    assert distance_to_neighbours(points).equal(whole)


def test_distances_to_neighbours_take_memory_that_is_linear_in_the_pool():
    points = torch.randn(8_000, 2)
    before = peak_memory()
    distance_to_neighbours(points)
    assert peak_memory() - before < 2e8  # all pairs are 5.1e8 bytes


def test_typiclust_picks_the_most_typical_image_of_each_cluster_the_largest_first():
    #                       largest: 103 is at 3.25 on average  |  then: 1 is at 1.5  |  a lone one
    line = torch.tensor([[1.0], [500], [100], [101], [0], [103], [104], [3], [110]])
    assert typiclust(evidence(embedding=line), 3).tolist() == [5, 0, 1]


def test_typiclust_goes_round_the_clusters_until_the_budget_is_spent(monkeypatch):
    line = torch.tensor([[1.0], [500], [100], [101], [0], [103], [104], [3], [110]])
    monkeypatch.setattr(strategies, "kmeans", lambda points, k, seed: torch.tensor([4, 0, 2, 2, 4, 2, 2, 4, 2]))
    rounds = [5, 0, 1, 6, 4, 3, 7, 2, 8]  # 103 1 500 | 104 0 | 101 3 | 100 | 110
    for budget in range(11):
        assert typiclust(evidence(embedding=line), budget).tolist() == rounds[:budget]


def test_typiclust_goes_round_copies_too():
    line = torch.tensor([[0.0]] * 3 + [[1]] * 5 + [[2]])
    assert typiclust(evidence(embedding=line), 7).tolist() == [3, 0, 8, 4, 1, 5, 2]


def test_typiclust_looks_at_twenty_neighbours_however_large_the_cluster():
    # the median, which has the least mean distance to all, is among the 40 sparse ones; 50 to 54 have 10 dense on each side
    line = torch.cat([torch.arange(40) / 4, 16 + torch.arange(25) / 128])[:, None]
    assert typiclust(evidence(embedding=line), 1).tolist() == [50]


def test_typiclust_takes_the_first_image_of_two():
    # whose distances to each other are equal: what rounding makes of them must not decide
    points = normalize(torch.randn(200, 2, 64), dim=2)
    assert all(distance_to_neighbours(pair)[0] == distance_to_neighbours(pair)[1] for pair in points)
