"""baseline.py: what is kept is read again, and two processes that need one baseline make it once."""
import pytest
import torch
from torch import nn

from conftest import Slow, twice_at_once
from hybridrepair.base import checkpoint
from hybridrepair.training import baseline
from hybridrepair.training.finetune import Recipe
from hybridrepair.training.passes import Labelled


def add_one(model: nn.Linear, *args) -> None:
    with torch.no_grad():
        model.weight += 1


def test_a_baseline_is_made_once_by_two_processes_and_both_have_it(tmp_path, monkeypatch):
    making, path, settings = Slow(tmp_path / "calls", add_one), tmp_path / "model.t7", {"weights": "aa"}
    monkeypatch.setattr(baseline, "train_on", making)

    def tune() -> None:
        model = nn.Linear(2, 2)
        nn.init.zeros_(model.weight)
        images = Labelled(torch.zeros(0), torch.zeros(0))
        baseline.tune(model, path, None, images, Recipe(1), settings, lambda model: 50.0, 120)
        assert model.weight.sum() == 4

    twice_at_once(tune)
    assert making.calls == 1 and checkpoint.load(path)["net"]["weight"].sum() == 4
    tune()
    assert making.calls == 1


def test_the_state_is_written_as_often_as_is_asked_for(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(baseline, "train_on", lambda *args: told.append(args[-1].every))
    images = Labelled(torch.zeros(0), torch.zeros(0))
    baseline.tune(nn.Linear(2, 2), tmp_path / "model.t7", None, images, Recipe(1), {}, lambda model: 50.0, 7)
    assert told == [7]


@pytest.mark.parametrize("found", [{"weights": "bb"}, None])
def test_a_file_of_other_settings_is_no_baseline(tmp_path, found):
    path = tmp_path / "model.t7"
    if found:
        checkpoint.save(path, {"net": nn.Linear(2, 2).state_dict(), "settings": found})
    assert not baseline.read(nn.Linear(2, 2), path, {"weights": "aa"})
