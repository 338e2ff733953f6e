"""pool.py: what a pool computes of its images, and what of it it keeps."""
import pytest
import torch
from torch import nn

from conftest import field_of
from hybridrepair.images.augment import Normalise
from hybridrepair.selection import pool as module
from hybridrepair.selection.pool import Pool


class Small(nn.Module):
    def forward(self, x):
        features = x.mean((2, 3))
        return features @ torch.eye(3) * 2, features


@pytest.fixture
def pool(tmp_path, monkeypatch) -> Pool:
    calls: list[bool] = []
    predict = module.predict
    monkeypatch.setattr(module, "predict", lambda *given: (calls.append(given[4]), predict(*given))[1])
    made = Pool(field_of(tmp_path, 7), Small(), Normalise((.5,) * 3, (.5,) * 3), torch.device("cpu"), 1, 512, None, lambda points: None)
    made.calls = calls
    return made


def test_features_that_nobody_reads_are_not_kept(pool):
    assert pool.probs.shape == (7, 3) and "_predictions" not in pool.__dict__ and pool.calls == [False]


def test_features_and_predictions_are_of_one_pass_where_both_are_read(pool):
    features, probs = pool.features, pool.probs
    assert pool.calls == [True] and features.shape == (7, 3)
    assert probs.equal((2 * features).double().softmax(1))
