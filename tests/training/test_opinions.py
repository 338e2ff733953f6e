"""opinions.py: weights and biases against what is known of made-up opinions, and what a linear classifier has and has not seen."""
import numpy as np
import pytest
import torch

from hybridrepair.training.opinions import combined, linear, logs, opinion_of_features


def made_up(n: int, rights: list[float], classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Opinions on n images, the k-th of which is right as often as it claims, independent of the others; and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    opinions = []
    for right in rights:
        said = np.where(rng.random(n) < right, truth, (truth + rng.integers(1, classes, n)) % classes)
        opinions.append(np.where(np.arange(classes) == said[:, None], right, (1 - right) / (classes - 1)))
    return logs(torch.tensor(np.array(opinions))), torch.tensor(truth)


# --- combining

def test_without_answers_opinions_count_alike_and_classes_have_no_bias():
    found = combined(*made_up(0, [0.9, 0.6]))
    assert found.weights.tolist() == [0.5, 0.5] and not found.bias.any()


def test_independent_opinions_that_claim_what_they_keep_are_multiplied():
    found = combined(*made_up(20000, [0.8, 0.6]))
    assert torch.allclose(found.weights, torch.ones(2, dtype=torch.float64), atol=0.1) and found.bias.abs().max() < 0.1


def test_an_opinion_that_knows_nothing_gets_no_weight_and_one_that_boasts_less():
    opinions, truth = made_up(20000, [0.7, 0.25])
    opinions = torch.stack([opinions[0] * 3, made_up(20000, [0.9], seed=1)[0][0]])  # thrice as sure as it may be; another truth's
    found = combined(opinions.log_softmax(-1), truth)
    assert abs(found.weights[0] - 1 / 3) < 0.05 and abs(found.weights[1]) < 0.05


def test_classes_that_the_opinions_have_seldom_seen_get_a_bias():
    opinions, truth = made_up(20000, [0.8])
    shift = torch.tensor([0.0, 0.0, 0.0, -3.0], dtype=torch.float64)  # as if class 3 were rarer by e^3
    found = combined((opinions + shift).log_softmax(-1), truth)
    assert torch.allclose(found.bias[3] - found.bias[:3].mean(), torch.tensor(3.0, dtype=torch.float64), atol=0.3)


def test_one_answer_moves_weights_and_biases_little_and_towards_it():
    sure = logs(torch.tensor([[[0.7, 0.2, 0.1]], [[0.2, 0.7, 0.1]]]))
    found = combined(sure, torch.tensor([1]))
    assert found.weights[0] < 0.5 < found.weights[1] < 1 and found.bias[1] > 0 > found.bias[0] and found.bias.abs().max() < 1


def test_a_combination_says_the_weighted_sum_of_log_probabilities_and_the_bias():
    opinions = logs(torch.tensor([[[0.5, 0.3, 0.2]], [[0.1, 0.8, 0.1]]]))
    found = combined(opinions[:, :0], torch.empty(0, dtype=torch.int64))
    expected = np.sqrt([0.5 * 0.1, 0.3 * 0.8, 0.2 * 0.1])
    assert found.probs(opinions)[0].tolist() == pytest.approx((expected / expected.sum()).tolist())


def test_log_probabilities_of_what_was_ruled_out_are_finite():
    assert logs(torch.tensor([1.0, 0.0])).tolist() == pytest.approx(np.log([1 / (1 + 1e-6), 1e-6 / (1 + 1e-6)]).tolist())


# --- the linear classifier

def test_a_linear_classifier_separates_what_can_be_and_rules_out_classes_without_a_label():
    rng = np.random.default_rng(0)
    labels = np.array([0, 2]).repeat(30)
    features = np.eye(3)[labels] + 0.05 * rng.normal(size=(60, 3))
    probs = linear(features, labels, features, 3)
    assert (probs.argmax(1) == labels).all() and not probs[:, 1].any() and probs.sum(1) == pytest.approx(1)


@pytest.mark.parametrize("labels, expected", [([], [0.25] * 4), ([2, 2], [0, 0, 1, 0])])
def test_a_linear_classifier_of_no_label_says_nothing_and_of_one_class_that_class(labels, expected):
    assert linear(np.ones((len(labels), 3)), np.array(labels, np.int64), np.zeros((2, 3)), 4).tolist() == [expected] * 2


def test_known_images_of_the_pool_teach_the_classifier_what_the_train_set_lacks():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 90)
    pool, known = np.eye(3)[truth] + 0.05 * rng.normal(size=(90, 3)), np.arange(30)
    train, labels = np.eye(3)[[0, 1] * 20], np.array([0, 1] * 20)
    said, unseen = opinion_of_features(train, labels, pool, known, truth[known], 3, seed=1)
    assert (said.argmax(1) == truth).all() and (unseen.argmax(1) == truth[known]).all()
    without, _ = opinion_of_features(train, labels, pool, known[:0], truth[:0], 3, seed=1)
    assert not (without.argmax(1) == 2).any()


def test_of_a_known_image_says_a_classifier_that_has_not_seen_its_answer():
    rng = np.random.default_rng(0)
    train, labels, pool = rng.normal(size=(40, 50)), rng.integers(0, 2, 40), rng.normal(size=(60, 50))
    known, answers = np.arange(60), rng.integers(0, 2, 60)  # nothing to be learnt
    seen, unseen = opinion_of_features(train, labels, pool, known, answers, 2, seed=1)
    assert (seen.argmax(1) == answers).mean() > 0.85 and 0.3 < (unseen.argmax(1) == answers).mean() < 0.7


def test_one_known_image_without_a_train_set_is_not_seen_by_who_speaks_of_it():
    said, unseen = opinion_of_features(np.empty((0, 3)), np.empty(0, np.int64), np.eye(3), np.array([1]), np.array([2]), 3, seed=1)
    assert said.tolist() == [[0, 0, 1]] * 3 and unseen.tolist() == [[pytest.approx(1 / 3)] * 3]
