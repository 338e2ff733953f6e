"""shares.py and the trainings that use it: several processes do the steps of one, but for rounding, which is that of float64 here."""
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import in_processes
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.training import contrastive
from hybridrepair.training.finetune import Recipe, finetune
from hybridrepair.training.passes import Unlabelled
from hybridrepair.training.shares import add_up
from mymodels.moco import MoCo, mlp
from samples import CLASSES, NORMALISE, Small, noise, sgd

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU cannot be forked")


def distilled() -> dict:
    """A network after two epochs with a teacher, in parts of 50 images."""
    torch.manual_seed(0)
    model, pool = Small(), noise(210, seed=2)
    records = [*finetune(model, NORMALISE, noise(50), Recipe(2, lr=0.05, micro_batch=50), pool=pool.images,
                         targets=torch.rand(210, CLASSES).softmax(1))]
    return model.state_dict() | {"loss": torch.tensor([each["loss"] for each in records])}


def tuned(micro_batch: int | None, estimated: bool) -> dict:
    """A network after two epochs of both passes, whose last supervised batch is not a multiple of 2 or 3, and their losses."""
    torch.manual_seed(0)
    model, pool = Small(), noise(130, seed=2)
    known = torch.where(torch.arange(130) % 9 == 0, pool.labels, UNKNOWN)
    recipe = Recipe(2, lr=0.05, micro_batch=micro_batch, estimated_statistics=estimated)
    records = [*finetune(model, NORMALISE, noise(50), recipe, noise(7, seed=3), pool=pool.images, known=known,
                         unlabelled=Unlabelled(np.ones(130)))]
    return model.state_dict() | {name: torch.tensor([each[name] for each in records]) for name in ("loss", "ssl_loss")}


class Encoder(nn.Module):
    """A network in place of a ResNet."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2)
        self.fc = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv1(x.double()))


def pretrained() -> dict:
    """MoCo after two epochs of batches of 7 images, and its k-NN accuracy and losses."""
    torch.manual_seed(0)
    model = MoCo("resnet18", 4, 8)
    model.base_encoder, model.momentum_encoder, model.predictor = Encoder(), Encoder().requires_grad_(False), mlp((4, 8, 4), False)
    model.double()
    args = Namespace(manualSeed=1, batch_size=7, lr=0.5, warmup_epochs=1, n_epochs=2, momentum=0.9)
    images, optimizer = noise(21), sgd(model, 0.5)
    losses = [contrastive.train_epoch(model, optimizer, NORMALISE, images.images, epoch, args)[0] for epoch in range(2)]
    accuracy = contrastive.knn_accuracy(model, NORMALISE, images.images, images.labels)
    return model.state_dict() | {"told": torch.tensor([accuracy, *losses])}


WORKS = {"whole batches": lambda: tuned(None, False), "parts of 97 images": lambda: tuned(97, False),
         "estimated statistics": lambda: tuned(None, True), "distillation": distilled, "MoCo": pretrained}


@pytest.mark.parametrize("what, n", [*((what, 3) for what in WORKS), ("whole batches", 2)])
def test_several_processes_train_to_the_weights_of_one(what, n, tmp_path):
    ended = in_processes(n, tmp_path, lambda rank: torch.save(WORKS[what](), f"{rank}.pt"))
    assert [each.status for each in ended] == [0] * n, ended
    expected = WORKS[what]()
    for rank in range(n):
        found = torch.load(Path(tmp_path, f"{rank}.pt"))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=lambda told: f"{name}: {told}")  # noqa: B023


def rows_seen() -> int:
    """How many rows a network sees in an epoch of both passes."""
    model, pool, rows = Small(), noise(130, seed=2), list[int]()
    model.register_forward_pre_hook(lambda model, inputs: rows.append(len(inputs[0])))
    [*finetune(model, NORMALISE, noise(70), Recipe(1), noise(7, seed=3), pool=pool.images, known=torch.full((130,), UNKNOWN),
               unlabelled=Unlabelled(np.ones(130)))]
    return sum(rows)


def test_each_row_is_computed_by_one_process(tmp_path):
    ended = in_processes(2, tmp_path, lambda rank: Path(f"{rank}.txt").write_text(str(rows_seen())))
    assert all(each.status == 0 for each in ended)
    seen, whole = [int((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)], rows_seen()
    assert sum(seen) == whole and max(seen) < 0.6 * whole


def test_alone_losses_and_gradients_stay_as_they_are():
    model, losses = nn.Linear(2, 1), torch.ones(3)
    model(torch.ones(1, 2)).sum().backward()
    assert add_up(sgd(model), losses) is losses and model.weight.grad.tolist() == [[1, 1]]


def three(rank: int) -> None:
    used, unused = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))
    used.grad = torch.arange(4.0).view(2, 2).T + rank
    assert add_up(torch.optim.SGD([used, unused], 0.1), torch.tensor([rank, 1.0])).tolist() == [3, 3]
    assert used.grad.tolist() == [[3, 9], [6, 12]] and unused.grad is None


def test_gradients_and_losses_are_the_sums_and_what_has_none_goes_on_to_have_none(tmp_path):
    assert [each.status for each in in_processes(3, tmp_path, three)] == [0] * 3


@pytest.mark.parametrize("rows", [2, 3])
def test_a_batch_of_fewer_rows_than_processes_is_the_step_of_one(rows, tmp_path):
    def step() -> dict:
        torch.manual_seed(0)
        model, some = Small(), noise(rows)
        recipe = Recipe(1, lr=0.5)
        (record,) = finetune(model, NORMALISE, some, recipe, noise(0))
        return model.state_dict() | {"loss": torch.tensor(record["loss"])}

    assert all(each.status == 0 for each in in_processes(3, tmp_path, lambda rank: torch.save(step(), f"{rank}.pt")))
    found, expected = torch.load(tmp_path / "0.pt"), step()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
