"""classifier.py: what its command does not show: networks with dropout, and frozen ones."""
import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base.errors import UserError
from hybridrepair.images.augment import Normalise
from hybridrepair.training.classifier import train
from hybridrepair.training.finetune import Labelled

IMAGES = Labelled(torch.arange(40 * 8 * 8 * 3).mul(37).remainder(251).to(torch.uint8).view(40, 8, 8, 3), torch.arange(40) % 3)
ARGS = SimpleNamespace(n_epochs=3, lr=0.1, batch_size=16, manualSeed=1, save_every=0, force=False)


class Drawing(nn.Module):
    """A linear layer behind dropout."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.dropout(x.flatten(1), 0.3, self.training)
        return self.linear(features), features


def trained(start: nn.Module, path: Path, last: int | None = None) -> nn.Module:
    """A copy of the model after training, which is interrupted in the epoch `last` where that is given."""
    model = copy.deepcopy(start)

    def after(record: dict) -> None:
        if record["epoch"] == last:
            raise KeyboardInterrupt

    train(model, Normalise([0.5] * 3, [0.25] * 3), IMAGES, IMAGES, ARGS, path, {}, path.with_suffix(".jsonl"), after)
    return model


def test_dropout_after_an_interruption_is_as_without_and_leaves_the_generator_of_torch_as_it_was(tmp_path):
    start = Drawing()
    state = torch.get_rng_state()
    expected = trained(start, tmp_path / "whole.t7")
    assert torch.get_rng_state().equal(state)
    with pytest.raises(KeyboardInterrupt):
        trained(start, tmp_path / "resumed.t7", last=2)
    torch.manual_seed(123)
    resumed = trained(start, tmp_path / "resumed.t7")
    assert resumed.linear.weight.equal(expected.linear.weight) and not resumed.linear.weight.equal(start.linear.weight)


def test_a_model_that_is_frozen_altogether_is_told(tmp_path):
    with pytest.raises(UserError, match="all are frozen"):
        trained(Drawing().requires_grad_(False), tmp_path / "a.t7")
