"""distillation.py: the rate and the loss by hand, what a pass sees, and passes that go on or are cut into parts."""
import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Counted, refusal
from hybridrepair.base.interruption import Interruption, handled
from hybridrepair.base.states import Kept
from hybridrepair.run.flags import repair_parser
from hybridrepair.run.models import recipe_of
from hybridrepair.training import distillation, passes
from hybridrepair.training.distillation import OF_POOL, distillation_pass, rate_at
from hybridrepair.training.finetune import Recipe, finetune, remedy_of
from hybridrepair.training.passes import BATCH, Labelled, accuracy
from hybridrepair.training.statistics import estimate_statistics
from samples import CENTRE, CLASSES, NORMALISE, PLAIN, Drawing, Small, Table, flat, noise, none, numbers_of, same, sgd, weights_of


def test_the_rate_is_half_a_cosine():
    rest = 0.1 / math.sqrt(2)
    assert [rate_at(step, 4, 0.2) for step in range(5)] == pytest.approx([0.2, 0.1 + rest, 0.1, 0.1 - rest, 0])


def test_the_rate_falls_over_all_steps_of_all_epochs(monkeypatch):
    rates: list[float] = []
    optimizer = sgd(model := Table(torch.zeros(3, CLASSES)))
    monkeypatch.setattr(passes, "descend", lambda optimizer: rates.append(optimizer.param_groups[0]["lr"]))
    for epoch in (1, 2):
        distillation_pass(model, optimizer, PLAIN, none(), flat([1] * 2 * OF_POOL), torch.zeros(2 * OF_POOL, CLASSES), 0.2, 2, 1, epoch)
    assert rates == [rate_at(step, 4, 0.2) for step in range(4)]


def test_the_loss_is_the_cross_entropy_to_soft_labels_and_to_those_of_train_images_by_hand():
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
    targets = torch.tensor([[0.2, 0.5, 0.3]]).repeat(OF_POOL, 1)
    model = Table(logits)
    loss, seen = distillation_pass(model, sgd(model), PLAIN, Labelled(flat([0, 0]), torch.tensor([2, 2])), flat([1] * OF_POOL), targets,
                                   0.1, 1, 1, 1)
    of_train, of_pool = -logits[0].log_softmax(0)[2], -(targets[0] * logits[1].log_softmax(0)).sum()
    assert seen == BATCH + OF_POOL and loss.item() == pytest.approx((BATCH * of_train + OF_POOL * of_pool).item() / seen, rel=1e-5)
    slope = [(each - target) * n / seen for each, target, n in ((logits[0].softmax(0), torch.eye(3)[2], BATCH),
                                                               (logits[1].softmax(0), targets[0], OF_POOL))]
    torch.testing.assert_close(model.logits.detach(), logits - 0.1 * torch.stack(slope))


@pytest.mark.parametrize("n, lengths", [(5, [5]), (OF_POOL, [OF_POOL]), (OF_POOL + 1, [OF_POOL + 1]), (OF_POOL + 2, [OF_POOL, 2])])
@pytest.mark.parametrize("n_train", [0, 10])
def test_each_pool_image_is_seen_once_with_its_label_beside_train_images_in_rounds(n, lengths, n_train):
    model, train = Table(torch.zeros(256, CLASSES)), Labelled(flat(range(250 - n_train, 250)), torch.zeros(n_train, dtype=torch.int64))
    targets = torch.eye(CLASSES)[torch.arange(n) % CLASSES]
    distillation_pass(model, sgd(model), PLAIN, train, flat(np.arange(n) % 240), targets, 1.0, 1, 1, 1, micro_batch=640)
    beside = BATCH if n_train else 0
    assert [len(each) for each in model.seen] == [beside + length for length in lengths]
    assert sorted(torch.cat([numbers_of(each[beside:]) for each in model.seen]).tolist()) == sorted((np.arange(n) % 240).tolist())
    replayed = torch.cat([numbers_of(each[:beside]) for each in model.seen]).bincount(minlength=250)[250 - n_train:]
    assert not n_train or replayed.max() - replayed.min() <= 1
    rows = model.logits.detach()
    assert not rows[:1].eq(0).all() and all(rows[i, i % CLASSES] == rows[i].max() for i in range(min(n, 240)))


def test_a_pass_shuffles_and_augments_anew_in_each_epoch_and_repeats_for_a_seed():
    ramp = torch.arange(8 * 8 * 3, dtype=torch.uint8).view(1, 8, 8, 3).repeat(30, 1, 1, 1)

    def seen(seed: int, epoch: int) -> Tensor:
        model = Table(torch.zeros(256, CLASSES))
        distillation_pass(model, sgd(model), PLAIN, none(), ramp, torch.ones(30, CLASSES) / 3, 0.1, 2, seed, epoch)
        return torch.cat(model.seen)

    first = seen(1, 1)
    assert first.equal(seen(1, 1)) and not first.equal(seen(1, 2)) and not first.equal(seen(2, 1))
    assert len({tuple(image.flatten().tolist()) for image in first}) > 9  # of 18 that there are: each image by itself
    assert first[:, :, CENTRE].amax() > 0


def test_a_pass_in_parts_is_one_pass_for_a_network_without_batch_norm():
    images, targets = noise(100).images, torch.rand(100, CLASSES).double().softmax(1)
    start = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES).double())

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(start)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.net(x.contiguous().double()), x.flatten(1)

    whole, parts = Linear(), Linear()
    losses = [distillation_pass(model, sgd(model), NORMALISE, noise(20, seed=1), images, targets, 0.1, 1, 1, 1, micro_batch=size)[0]
              for model, size in ((whole, 256), (parts, 40))]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(weights_of(parts), weights_of(whole))


def test_batch_norm_takes_in_the_parts_of_a_step_with_the_weight_of_the_step():
    images, targets, start, means = noise(100).images, torch.rand(100, CLASSES).softmax(1), Small().float(), []
    for size in (256, 40, 20):
        model = copy.deepcopy(start)
        distillation_pass(model, sgd(model), NORMALISE, noise(20, seed=1), images, targets, 0.1, 1, 1, 1, micro_batch=size)
        means.append(model.norm1.running_mean)
    assert all((part - means[0]).abs().max() < 0.1 * means[0].abs().max() for part in means[1:])


def test_a_pass_goes_on_from_any_of_its_steps():
    pool, targets, told = noise(3 * OF_POOL), torch.rand(3 * OF_POOL, CLASSES).softmax(1), []
    start, train = Small().float(), noise(40, seed=1)

    def passed(model: nn.Module, **given) -> tuple[Tensor, int]:
        return distillation_pass(model, sgd(model), NORMALISE, train, pool.images, targets, 0.1, 2, 1, 1, **given)

    model = copy.deepcopy(start)
    whole = passed(model, after=lambda step, losses: told.append((step, losses.item(), weights_of(model))))
    for step, total, weights in told:
        model = copy.deepcopy(start)
        model.load_state_dict(weights)
        loss, seen = passed(model, done=step, total=total)
        assert same(weights_of(model), told[-1][2]) and (loss, seen) == whole


# --- as a part of fine-tuning

def taught(model: nn.Module, recipe: Recipe, kept: Kept | None = None) -> list[dict]:
    pool = noise(2 * OF_POOL, seed=3)
    targets = 0.8 * torch.eye(CLASSES)[pool.labels] + 0.2 / CLASSES
    return list(finetune(model, NORMALISE, noise(60), recipe, pool=pool.images, targets=targets, kept=kept))


@pytest.mark.parametrize("estimated", [False, True])
def test_what_the_soft_labels_say_is_learnt(estimated):
    model, test = Small().float(), noise(200, seed=9)
    records = taught(model, Recipe(8, lr=0.1, estimated_statistics=estimated))
    if not estimated:
        estimate_statistics(model, NORMALISE, test.images)
    assert accuracy(model.eval()(NORMALISE(test.images))[0], test.labels) > 85
    assert records[-1]["loss"] < records[0]["loss"] and records[0]["ssl_loss"] is None
    assert {record["images"] for record in records} == {2 * (OF_POOL + BATCH)}


def test_a_signal_at_any_step_of_a_distillation_keeps_what_is_done_and_the_end_is_the_same(tmp_path, monkeypatch):
    start, recipe = Drawing().float(), Recipe(2, lr=0.1)
    expected = copy.deepcopy(start)
    records = taught(expected, recipe)
    counted = Counted(monkeypatch, (distillation, "rate_at"))
    for moment in range(1, 5):
        path, counted.last = tmp_path / f"{moment}.t7", len(counted.calls) + moment
        with handled(), pytest.raises(Interruption):
            taught(copy.deepcopy(start), recipe, Kept(path, {}, 3600))
        counted.last, model, before = 0, copy.deepcopy(start), len(counted.calls)
        torch.manual_seed(moment)
        again = taught(model, recipe, Kept(path, {}, 3600))
        assert same(weights_of(model), weights_of(expected)) and len(counted.calls) - before == 4 - moment
        assert [each["loss"] for each in again] == [each["loss"] for each in records][-len(again):]


def test_a_rate_that_is_too_high_is_named():
    told = refusal(taught, Small().float(), Recipe(2, lr=1e30))
    assert told.startswith("epoch 1 of fine-tuning, ") and "lower --distill_lr than 1e+30, the likely cause" in told
    assert remedy_of(Recipe(lr=0.05, weight_decay=0.02), taught=True).startswith("lower --retrain_weightdecay than 0.02")
    assert remedy_of(Recipe(lr=0.05, weight_decay=0.02)).startswith("lower --retrain_lr than 0.05")
    digits = recipe_of(repair_parser("").parse_args(["--dataset", "digits", "--lam_ul", "900"]), "repair", 10)
    assert remedy_of(digits, ssl=True).startswith("lower --lam_ul than 900")  # the rate is the usual one of this dataset
