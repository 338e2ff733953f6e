"""The teacher of hybrid+: what the model under repair and a linear classifier on features say of the pool together."""
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hybridrepair.base.processes import led
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.randomness import generator, key
from hybridrepair.run.scenario import Scenario
from hybridrepair.training.opinions import combined, logs, opinion_of_features
from hybridrepair.training.passes import Labelled, smoothed_one_hot

LEARNT = 20_000  # train images that the linear classifier learns from at most: its time grows with them
ROWS = 65_536  # images whose opinions are combined at a time


class Teacher(NamedTuple):
    """Soft labels of the pool, float32 [N, C], and the weights of the opinions that they were made of: the model's, the features'."""
    targets: Tensor
    model: float
    features: float


def learnt(task: Scenario) -> Labelled:
    """The replayed train images, or LEARNT of them that are drawn."""
    train, n = task.train, len(task.train.labels)
    if n <= LEARNT:
        return train
    rows = torch.from_numpy(np.sort(generator(key(task.seed, "teacher")).permutation(n)[:LEARNT])).to(task.device)
    return Labelled(train.images[rows], train.labels[rows])


def teacher_of(task: Scenario, labels: np.ndarray, new: np.ndarray) -> Teacher:
    """Soft labels of a scenario's pool, whose known labels int64 [N] the linear classifier learns too; UNKNOWN elsewhere.

    Those that are `new`, bool [N], decide how much each opinion counts: earlier ones the model has been trained on. Images with a
    known label get it, smoothed as elsewhere; nothing is decided by other labels of the pool.
    """
    pool, known = task.pool, np.flatnonzero(labels != UNKNOWN)
    answers, classes = torch.from_numpy(labels[known]), task.dataset.num_classes
    train = learnt(task)
    given = (pool.embedding_of(train.images).cpu().numpy(), train.labels.cpu().numpy(), pool.embedding.cpu().numpy(), known,
             labels[known], classes, task.seed)
    said, unseen = led(lambda: opinion_of_features(*given))
    of_model, of_features, judged = pool.probs.cpu(), torch.from_numpy(said), torch.from_numpy(new[known])
    how = combined(torch.stack([logs(of_model[known]), logs(torch.from_numpy(unseen))])[:, judged], answers[judged])
    targets = torch.cat([how.probs(torch.stack([logs(one), logs(other)])).float()
                         for one, other in zip(of_model.split(ROWS), of_features.split(ROWS))])
    targets[known] = smoothed_one_hot(answers, classes)
    return Teacher(targets, how.weights[0].item(), how.weights[1].item())
