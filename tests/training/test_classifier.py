"""classifier.py: what its command does not show: networks with dropout, and frozen ones."""
import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import Counted, refusal
from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError
from hybridrepair.base.interruption import Interruption, handled
from hybridrepair.images.augment import Normalise
from hybridrepair.training import classifier, passes
from hybridrepair.training.classifier import train
from hybridrepair.training.passes import Labelled

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


def test_a_signal_at_any_time_keeps_what_is_done_and_model_and_log_are_the_same(tmp_path, monkeypatch):
    def log_of(path: Path) -> list[dict]:
        lines = path.with_suffix(".jsonl").read_text().splitlines()
        return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]

    start = Drawing()
    counted = Counted(monkeypatch, (passes, "smoothed_loss"), (classifier, "accuracy"))
    monkeypatch.setattr(ARGS, "save_every", 3600)
    expected = trained(start, tmp_path / "whole.t7")
    undisturbed = counted.calls[:]
    assert len(undisturbed) == 3 * 4 + 1  # three steps and a judgement in each of three epochs, and one in the end
    for moment in range(1, len(undisturbed)):
        path, counted.last = tmp_path / f"{moment}.t7", moment
        counted.calls.clear()
        with handled(), pytest.raises(Interruption):
            trained(start, path)
        assert path.with_suffix(".partial.t7").exists() and not path.exists()
        counted.last = 0
        torch.manual_seed(moment)
        assert trained(start, path).linear.weight.equal(expected.linear.weight)
        assert counted.calls == undisturbed  # nothing is done twice
        assert path.read_bytes() == (tmp_path / "whole.t7").read_bytes() and log_of(path) == log_of(tmp_path / "whole.t7")


def test_weights_that_break_in_the_last_step_of_an_epoch_leave_the_last_good_state_and_the_log(tmp_path, monkeypatch):
    start, path, steps, descend = Drawing(), tmp_path / "a.t7", [], passes.descend

    def breaking(optimizer) -> None:
        descend(optimizer)
        steps.append(1)
        if len(steps) == 6:
            optimizer.param_groups[0]["params"][0].data[0] = math.nan

    monkeypatch.setattr(passes, "descend", breaking)
    assert refusal(trained, start, path) == ("epoch 2, the weights linear.weight are not finite; train with a lower --lr than 0.1, and "
                                             "--force")
    state = checkpoint.load(path.with_suffix(".partial.t7"))
    assert state["model"]["linear.weight"].isfinite().all() and len(path.with_suffix(".jsonl").read_text().splitlines()) == 1
    assert not path.exists()
