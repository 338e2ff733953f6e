"""Opinions: what several classifiers say of the same images, combined with weights that a few answers decide.

Log probabilities are added, each with a weight of its own, and a bias for each class makes up for a train
set that is distributed otherwise than the field.
Sources: Genest and Zidek, "Combining probability distributions", Statistical Science 1986; Wolpert, "Stacked generalization", 1992.
"""
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridrepair.images.randomness import generator, key

INVERSE_PENALTY = 10.0  # C of scikit-learn for the linear classifier, on L2-normalised features
WEIGHT_SD, BIAS_SD = 0.5, 1.0  # how far weights and biases stray from where they are without answers
FOLDS = 5
LEAST = 1e-6  # probability of a class


class Combination(NamedTuple):
    """How opinions are combined: weights float64 [K] of the opinions, and biases float64 [C] of the classes."""
    weights: Tensor
    bias: Tensor

    def logits(self, opinions: Tensor) -> Tensor:
        """Of opinions float64 [K, N, C], which are log probabilities: float64 [N, C]."""
        return torch.einsum("k,knc->nc", self.weights, opinions) + self.bias

    def probs(self, opinions: Tensor) -> Tensor:
        """What it says of them, float64 [N, C]."""
        return self.logits(opinions).softmax(1)


def logs(probs: Tensor) -> Tensor:
    """Log probabilities float64 of probs [..., C], bounded below."""
    return probs.double().clamp_min(LEAST).log().log_softmax(-1)


def combined(opinions: Tensor, answers: Tensor) -> Combination:
    """The most probable combination, given opinions float64 [K, B, C] on images whose answers int64 [B] are known.

    A priori weights are 1 / K, with WEIGHT_SD, and biases 0, with BIAS_SD: what they are where there is no answer.
    """
    k, _, classes = opinions.shape
    start = torch.full((k,), 1 / k, dtype=torch.float64)
    weights, bias = start.clone().requires_grad_(), torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(Combination(weights, bias).logits(opinions), answers, reduction="sum")
        value = value + ((weights - start) / WEIGHT_SD).square().sum() / 2 + (bias / BIAS_SD).square().sum() / 2
        value.backward()
        return value

    if len(answers):
        optimizer.step(loss)
    return Combination(weights.detach(), bias.detach())


def linear(features: np.ndarray, labels: np.ndarray, asked: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities float32 [N, C] of `asked` [N, D] by logistic regression on features [M, D] with labels int64 [M].

    Classes without a label get none of it; where there are no labels, all classes get the same.
    """
    from sklearn.exceptions import ConvergenceWarning  # here, because it is slow to import
    from sklearn.linear_model import LogisticRegression

    present = np.unique(labels)
    probs = np.zeros((len(asked), classes), np.float32)
    if len(present) < 2:
        probs[:, present if len(present) else slice(None)] = 1 if len(present) else 1 / classes
        return probs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it need not be at its optimum to have an opinion
        probs[:, present] = LogisticRegression(C=INVERSE_PENALTY, max_iter=300).fit(features, labels).predict_proba(asked)
    return probs


def opinion_of_features(train: np.ndarray, train_labels: np.ndarray, pool: np.ndarray, known: np.ndarray, answers: np.ndarray,
                        classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a linear classifier on features says: of the pool, float32 [N, C], and of the known images unseen, float32 [B, C].

    It learns from train [M, D] with labels int64 [M] and from the images int64 [B] of the pool [N, D] whose answers int64 [B] are
    known; of each of those, what has learnt neither from it nor from the others of its fold says it again.
    """
    def learnt(which: np.ndarray, asked: np.ndarray) -> np.ndarray:
        return linear(np.concatenate([train, pool[known[which]]]), np.concatenate([train_labels, answers[which]]), asked, classes)

    fold = generator(key(seed, "folds")).permutation(len(known)) % FOLDS
    unseen = np.zeros((len(known), classes), np.float32)
    for each in np.unique(fold):
        unseen[fold == each] = learnt(fold != each, pool[known[fold == each]])
    return learnt(np.ones(len(known), bool), pool), unseen
