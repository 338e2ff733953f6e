"""finetune.py: what epochs give and leave, whatever interrupts them or is not finite."""
import copy
import math
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import Counted, refusal
from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError
from hybridrepair.base.interruption import Interruption, handled
from hybridrepair.base.states import Kept
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.training import finetune as module
from hybridrepair.training import passes
from hybridrepair.training.finetune import Recipe, finetune
from hybridrepair.training.passes import BATCH, Labelled, Unlabelled, accuracy, replay_of, smoothed_one_hot
from hybridrepair.training.statistics import estimate_statistics, statistics_images
from samples import (
    CLASSES,
    NORMALISE,
    PLAIN,
    Drawing,
    Small,
    Table,
    flat,
    noise,
    numbers_of,
    record_steps,
    same,
    weights_of,
)


def test_what_is_replayed_is_decided_before_each_pass(monkeypatch):
    record_steps(monkeypatch)
    model, asked = Small(), []
    monkeypatch.setattr(module, "replay_of", lambda model, normalise, train, size: (
        asked.append(weights_of(model)), torch.arange(len(asked)))[1])
    tuned(model, Recipe(2, lr=0.1))
    assert len(asked) == 4 and not same(asked[0], asked[1])  # between them the supervised pass has trained


# --- the whole

def tuned(model: nn.Module, recipe: Recipe, ssl: bool = True, chosen: bool = True) -> list[dict]:
    """The records of fine-tuning on random images, some of the pool known."""
    pool = noise(90, seed=2)
    known = torch.where(torch.arange(90) < 20, pool.labels, UNKNOWN)
    return list(finetune(model, NORMALISE, noise(130), recipe, noise(10, seed=3) if chosen else None, pool=pool.images,
                         known=known, unlabelled=Unlabelled(np.linspace(0, 1, 90)) if ssl else None))


def test_each_epoch_gives_a_record():
    both = tuned(Small(), Recipe(epochs=2))
    assert [set(record) for record in both] == [{"epoch", "loss", "ssl_loss", "images", "seconds"}] * 2
    assert [record["epoch"] for record in both] == [1, 2]
    assert all(math.isfinite(record["loss"]) and math.isfinite(record["ssl_loss"]) and record["seconds"] > 0 for record in both)
    (supervised,), (ssl,) = tuned(Small(), Recipe(epochs=1), ssl=False), tuned(Small(), Recipe(epochs=1), chosen=False)
    assert supervised["ssl_loss"] is None and supervised["loss"] > 0
    assert ssl["loss"] is None and ssl["ssl_loss"] > 0 and ssl["images"] % BATCH == 0


def test_images_of_a_record_are_those_that_the_model_of_that_epoch_classifies_correctly_and_the_chosen():
    model = Table(torch.eye(CLASSES)[torch.arange(30) % CLASSES])
    train = Labelled(flat(range(30)), torch.arange(30) % CLASSES)
    epochs = finetune(model, PLAIN, train, Recipe(epochs=3, lr=0.0), Labelled(flat([1, 2]), torch.tensor([1, 2])))
    assert next(epochs)["images"] == 32
    with torch.no_grad():
        model.logits[:12] = model.logits[:12].flip(1)  # class 1 stays right
    assert next(epochs)["images"] == 30 - 8 + 2


def test_weights_follow_sgd_with_momentum_and_weight_decay_by_hand():
    labels, lr, decay = torch.tensor([0, 1, 2, 0]), 0.5, 0.01
    weight = torch.randn(4, CLASSES).double()
    model = Table(weight.float())
    recipe = Recipe(epochs=3, lr=lr, weight_decay=decay)
    # the train image, which replay needs, is the only one that is cropped; its centre stays
    list(finetune(model, PLAIN, Labelled(flat([3]), labels[3:]), recipe, Labelled(flat([0, 1, 2]), labels[:3])))
    speed, target = torch.zeros_like(weight), smoothed_one_hot(labels, CLASSES, 0.1).double()
    for _ in range(3):
        speed = 0.9 * speed + (weight.softmax(1) - target) / 4 + decay * weight
        weight = weight - lr * speed
    torch.testing.assert_close(model.logits.detach().double(), weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ssl", [False, True])
def test_fine_tuning_repeats_for_a_seed_and_does_not_depend_on_the_batch_size(ssl):
    start, after = Small(), []
    for recipe in (Recipe(2, seed=1), Recipe(2, seed=1), Recipe(2, seed=1, batch_size=7), Recipe(2, seed=2)):
        model = copy.deepcopy(start)
        tuned(model, recipe, ssl)
        after.append(weights_of(model))
    assert same(after[0], after[1]) and same(after[0], after[2])
    assert not after[0]["linear.weight"].equal(after[3]["linear.weight"])


@pytest.mark.parametrize("ssl", [False, True])
def test_either_pass_learns_what_the_labels_of_the_field_say(ssl):
    model, field, test = Small(), noise(130, seed=3), noise(200, seed=9)

    def right() -> float:
        estimate_statistics(model, NORMALISE, test.images)
        return accuracy(model.eval()(NORMALISE(test.images))[0], test.labels)

    before = right()
    more = dict(pool=field.images, known=field.labels, unlabelled=Unlabelled(np.ones(130))) if ssl else dict(chosen=field)
    list(finetune(model, NORMALISE, noise(130), Recipe(10, lr=0.05), **more))
    assert before < 60 and right() > 90


@pytest.mark.parametrize("ssl, chosen", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("estimated", [True, False])
def test_statistics_after_an_epoch_are_those_of_the_images_replayed_last_where_that_is_asked_for(estimated, ssl, chosen, monkeypatch):
    model, train, replays = Small(), noise(130), []
    monkeypatch.setattr(module, "replay_of", lambda *given: (replays.append(replay_of(*given)), replays[-1])[1])
    tuned(model, Recipe(1, estimated_statistics=estimated), ssl, chosen)
    expected = copy.deepcopy(model)
    estimate_statistics(expected, NORMALISE, statistics_images(train, replays[-1], Recipe().seed, 1))
    assert 0 < len(replays[-1]) < 130
    close = [torch.allclose(*values, rtol=1e-6) for values in zip(model.buffers(), expected.buffers())]
    assert all(close) if estimated else not any(close[:2])  # mean and variance of the first layer


def test_weights_that_the_caller_replaces_hold_from_the_next_epoch(monkeypatch):
    steps = record_steps(monkeypatch)
    first, second = np.zeros(70), np.zeros(70)
    first[5], second[6] = 1, 1
    unlabelled = Unlabelled(first)
    train = Labelled(flat(range(10)), torch.zeros(10, dtype=torch.int64))
    model = Table(torch.zeros(70, CLASSES))
    known = torch.full((70,), UNKNOWN)
    for _ in finetune(model, PLAIN, train, Recipe(2), pool=flat(range(70)), known=known, unlabelled=unlabelled):
        unlabelled.weights = second
    assert [numbers_of(views[:BATCH]).unique().tolist() for _, _, views, *_ in steps] == [[5], [6]]


def test_without_any_weight_there_is_no_ssl_pass():
    pool = noise(70, seed=2)
    (record,) = finetune(Small(), NORMALISE, noise(70), Recipe(1), noise(10, seed=3), pool=pool.images, known=pool.labels,
                         unlabelled=Unlabelled(np.zeros(70)))
    assert record["ssl_loss"] is None and record["loss"] > 0


# --- what is not finite

@pytest.mark.parametrize("ssl, chosen, recipe, told", [
    (False, True, Recipe(3, lr=1e300), r"step 1 of the supervised pass: .*lower --retrain_lr than 1e\+300"),
    (True, False, Recipe(3, lr=1e300), r"step 1 of the SSL pass: .*lower --retrain_lr than 1e\+300"),
    (True, True, Recipe(3, lam_ul=1e300), r"step 1 of the SSL pass: .*lower --lam_ul than 1e\+300"),
    (False, True, Recipe(3, weight_decay=1e300), r"step 1 of the supervised pass: .*lower --retrain_weightdecay than 1e\+300")])
def test_a_loss_that_is_not_finite_is_told_with_epoch_step_and_likely_cause_and_no_state_is_kept(ssl, chosen, recipe, told, tmp_path):
    pool, unlabelled = noise(90, seed=2), Unlabelled(np.ones(90)) if ssl else None
    for _ in range(2):  # the second call says the same
        epochs = finetune(Small().float(), NORMALISE, noise(190), recipe, noise(10, seed=3) if chosen else None, pool=pool.images,
                          known=pool.labels, unlabelled=unlabelled, kept=Kept(tmp_path / "a.t7", {}, 3600))
        with pytest.raises(UserError, match=f"^epoch 1 of fine-tuning, {told}, the likely cause$"):
            list(epochs)
        assert not list(tmp_path.iterdir())


def test_what_was_not_finite_before_the_first_step_is_not_blamed_on_the_learning_rate():
    model = Small()
    with torch.no_grad():
        model.linear.bias[0] = math.nan
    message = refusal(tuned, model, Recipe(3))
    assert message.startswith("epoch 1 of fine-tuning, the logits or features of 130 of 130 images are not finite; nothing had been")


class Breaking:
    """An SSL step after whose n-th call a number of the model is infinite, or the loss is."""

    def __init__(self, monkeypatch, name: str):
        self.name, self.last, self.losses, self.step = name, 0, [], passes.ssl_step
        monkeypatch.setattr(passes, "ssl_step", self)

    def __call__(self, model: nn.Module, *given) -> Tensor:
        self.losses.append(self.step(model, *given))
        if len(self.losses) == self.last and self.name == "loss":
            return self.losses[-1] * math.inf
        if len(self.losses) == self.last:
            model.state_dict()[self.name].view(-1)[0] = math.inf
        return self.losses[-1]


@pytest.mark.parametrize("name", ["linear.weight", "norm2.running_var"])
def test_weights_that_break_in_the_last_step_of_an_epoch_leave_the_last_good_state(name, tmp_path, monkeypatch):
    broken, start, path = Breaking(monkeypatch, name), Small(), tmp_path / "state.t7"
    broken.last = 2
    told = refusal(drawn, start, kept=Kept(path, {}, 3600), estimated=False)
    assert f"epoch 1 of fine-tuning, the weights {name} are not finite; lower " in told
    assert not path.exists()
    broken.last += 4  # the second epoch
    told = refusal(drawn, start, kept=Kept(path, {}, 3600), estimated=False)
    assert f"epoch 2 of fine-tuning, the weights {name} are not finite; lower " in told
    state = checkpoint.load(path)
    assert len(state["records"]) == 1 and all(value.isfinite().all() for value in state["model"].values())
    broken.last += 2  # which alone is done again
    assert refusal(drawn, start, kept=Kept(path, {}, 3600), estimated=False) == told
    assert len(broken.losses) == broken.last and all(loss.isfinite() for loss in broken.losses)


def test_a_state_is_not_written_where_the_loss_is_no_longer_finite(tmp_path, monkeypatch):
    Breaking(monkeypatch, "loss").last = 2
    monkeypatch.setattr(passes, "look", lambda *given, **more: None)  # as if it looked at a later step
    message = refusal(drawn, Small(), kept=Kept(tmp_path / "a.t7", {}, 0))
    assert message.startswith("epoch 1 of fine-tuning, step 2: the loss is not finite; ")
    assert checkpoint.load(tmp_path / "a.t7")["halfway"]["step"] == 1


# --- interruptions

def test_a_signal_at_any_time_of_the_passes_keeps_what_is_done_and_the_end_is_the_same(tmp_path, monkeypatch):
    start = Drawing()
    counted = Counted(monkeypatch, (passes, "smoothed_loss"), (passes, "ssl_loss"), (module, "replay_of"),
                      (module, "estimate_statistics"))
    expected = drawn_and_told(start)
    undisturbed = counted.calls[:]
    numbers = {name: undisturbed.count(name) for name in undisturbed}
    assert numbers == {"replay_of": 4, "smoothed_loss": 5, "ssl_loss": 4, "estimate_statistics": 2}  # of two epochs
    for moment in (1, 3, *range(undisturbed.index("estimate_statistics") + 1, len(undisturbed) + 1)):  # and all of the second
        path, counted.last = tmp_path / f"{moment}.t7", moment
        counted.calls.clear()
        with handled(), pytest.raises(Interruption):
            drawn_and_told(start, Kept(path, {}, 3600))
        counted.last = 0
        torch.manual_seed(moment)
        weights, told = drawn_and_told(start, Kept(path, {}, 3600))
        assert same(weights, expected[0]) and told == expected[1] and counted.calls == undisturbed  # nothing is done twice


def drawn_and_told(start: nn.Module, kept: Kept | None = None) -> tuple[dict[str, Tensor], dict]:
    """The weights after two epochs with dropout, or what `kept` has left of them, and the last record but its time."""
    model, pool = copy.deepcopy(start), noise(140, seed=2)
    *_, record = finetune(model, NORMALISE, noise(130), Recipe(2, lr=0.01, estimated_statistics=True), noise(110, seed=3),
                          pool=pool.images, known=pool.labels, unlabelled=Unlabelled(np.ones(140)), kept=kept)
    return weights_of(model), {name: value for name, value in record.items() if name != "seconds"}


def test_two_signals_end_within_a_step_and_leave_the_state_as_it_was(tmp_path, monkeypatch):
    start, step, path = Drawing(), passes.ssl_step, tmp_path / "state.t7"
    expected = drawn_and_told(start)

    def impatient(*given):
        loss = step(*given)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(passes, "ssl_step", impatient)
    with handled(), pytest.raises(Interruption):
        drawn_and_told(start, Kept(path, {}, 0))
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.before"}
    assert checkpoint.load(path)["halfway"]["supervised"]
    monkeypatch.setattr(passes, "ssl_step", step)
    weights, told = drawn_and_told(start, Kept(path, {}, 0))
    assert same(weights, expected[0]) and told == expected[1]


# --- layers that draw

def drawn(start: nn.Module, seed: int = 1, kept: Kept | None = None, estimated: bool = True) -> dict[str, Tensor]:
    """The weights after two epochs of two SSL steps, or of what `kept` has left of them."""
    model, pool = copy.deepcopy(start), noise(140, seed=2)
    recipe = Recipe(2, lr=0.01, seed=seed, estimated_statistics=estimated)
    list(finetune(model, NORMALISE, noise(130), recipe, noise(10, seed=3), pool=pool.images, known=pool.labels,
                  unlabelled=Unlabelled(np.ones(140)), kept=kept))
    return weights_of(model)


def test_dropout_repeats_for_a_seed_and_leaves_the_generator_of_torch_as_it_was():
    start = Drawing()
    state = torch.get_rng_state()
    first = drawn(start)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(123)
    assert same(drawn(start), first)
    assert not drawn(start, seed=2)["linear.weight"].equal(first["linear.weight"])


def test_batches_steps_and_epochs_do_not_drop_the_same(monkeypatch):
    masks, dropout = [], F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, p, training: (training and masks.append(dropout(torch.ones(1, 99), p)), x)[1])
    model, pool = Drawing(), noise(140, seed=2)
    list(finetune(model, NORMALISE, noise(130), Recipe(2), noise(130, seed=3), pool=pool.images, known=pool.labels,
                  unlabelled=Unlabelled(np.ones(140))))
    assert len(masks) >= 2 * (2 + 2 * 2) and len(torch.cat(masks).unique(dim=0)) == len(masks)


@pytest.mark.parametrize("last", [2, 4])  # in the midst of the SSL pass of the first epoch, and of the second
def test_dropout_after_an_interruption_within_an_ssl_pass_is_as_without(tmp_path, monkeypatch, last):
    start, steps, step = Drawing(), [], passes.ssl_step
    expected = drawn(start)

    def deadly(*given):
        steps.append(given)
        if len(steps) == last:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(passes, "ssl_step", deadly)
    with pytest.raises(KeyboardInterrupt):
        drawn(start, kept=Kept(tmp_path / "state.t7", {}, 0))
    torch.manual_seed(123)
    kept = Kept(tmp_path / "state.t7", {}, 0)
    assert kept.state["halfway"]["step"] == 1
    assert same(drawn(start, kept=kept), expected) and len(steps) == 5


# --- frozen weights

def test_frozen_weights_stay_and_a_model_that_is_frozen_altogether_is_told():
    model = Small()
    model.conv.requires_grad_(False)
    before = weights_of(model)
    tuned(model, Recipe(1))
    assert model.conv.weight.equal(before["conv.weight"]) and not model.linear.weight.equal(before["linear.weight"])
    with pytest.raises(UserError, match="all are frozen; call requires_grad_"):
        tuned(model.requires_grad_(False), Recipe(1))
