"""The teacher of hybrid+: what the model under repair and a linear classifier on features say of the pool together."""
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.run.scenario import Scenario
from hybridrepair.selection.features import extract
from hybridrepair.selection.uncertainty import predict
from hybridrepair.training.opinions import combined, logs, opinion_of_features
from hybridrepair.training.passes import smoothed_one_hot

ROWS = 65536  # images whose opinions are combined at a time


class Teacher(NamedTuple):
    """Soft labels of the pool, float32 [N, C], and the weights of the opinions that they were made of: the model's, the features'."""
    targets: Tensor
    model: float
    features: float


def train_features(task: Scenario) -> Tensor:
    """The features of the replayed train images, float32 [M, D], as those of the pool are made."""
    if not len(task.train.labels):
        return task.pool.embedding[:0]
    if task.extractor is not None:
        return extract(task.extractor, task.normalise, task.train.images, task.batch_size)
    return normalize(predict(task.models.raw, task.normalise, task.train.images, task.batch_size, features=True)[1], dim=1)


def teacher_of(task: Scenario, labels: np.ndarray, new: np.ndarray) -> Teacher:
    """Soft labels of a scenario's pool, whose known labels int64 [N] the linear classifier learns too; UNKNOWN elsewhere.

    Those that are `new`, bool [N], decide how much each opinion counts: earlier ones the model has been trained on. Images with a
    known label get it, smoothed as elsewhere; nothing is decided by other labels of the pool.
    """
    pool, known = task.pool, np.flatnonzero(labels != UNKNOWN)
    answers, classes = torch.from_numpy(labels[known]), task.dataset.num_classes
    said, unseen = opinion_of_features(train_features(task).cpu().numpy(), task.train.labels.cpu().numpy(),
                                       pool.embedding.cpu().numpy(), known, labels[known], classes, task.seed)
    of_model, of_features, judged = pool.probs.cpu(), torch.from_numpy(said), torch.from_numpy(new[known])
    how = combined(torch.stack([logs(of_model[known]), logs(torch.from_numpy(unseen))])[:, judged], answers[judged])
    targets = torch.cat([how.probs(torch.stack([logs(one), logs(other)])).float()
                         for one, other in zip(of_model.split(ROWS), of_features.split(ROWS))])
    targets[known] = smoothed_one_hot(answers, classes)
    return Teacher(targets, how.weights[0].item(), how.weights[1].item())
