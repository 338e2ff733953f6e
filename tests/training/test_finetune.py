"""finetune.py: each piece beside hand-worked and recorded values, and what each pass draws, augments and aims at."""
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
from hybridrepair.images.augment import Normalise
from hybridrepair.training import finetune as module
from hybridrepair.training.finetune import (
    BATCH,
    STATISTICS_IMAGES,
    Labelled,
    Recipe,
    Unlabelled,
    accuracy,
    batches,
    estimate_statistics,
    finetune,
    guess,
    mix,
    replay_of,
    smoothed_loss,
    smoothed_one_hot,
    ssl_loss,
    ssl_pass,
    ssl_step,
    statistics_images,
    supervised_pass,
)

PLAIN = Normalise([0.0] * 3, [1 / 255] * 3)  # model input = grey levels
NORMALISE = Normalise([0.5] * 3, [0.25] * 3)
SIDE = 8
CENTRE = SIDE // 2  # a pixel that neither flip and crop nor the clean view takes from elsewhere, where an image is flat
CLASSES = 3


class Table(nn.Module):
    """Reads the number of an image off its centre and looks its logits up: whatever is trained shows in its row."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits, self.seen = nn.Parameter(logits.clone()), []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(x.detach())
        number = numbers_of(x)
        return self.logits[number], F.one_hot(number, len(self.logits)).float()


class Small(nn.Module):
    """Convolution, batch norm, linear layer, in float64: rounding by batch size stays out of sight."""

    def __init__(self):
        super().__init__()
        self.norm1, self.conv, self.norm2 = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4, momentum=0.3)
        self.linear = nn.Linear(36, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.norm2(self.conv(self.norm1(x.to(self.linear.weight.dtype))))).flatten(1)
        return self.linear(features), features


class Drawing(Small):
    """With dropout."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(F.dropout(x, 0.3, self.training))


def flat(numbers) -> Tensor:
    """Images uint8 [N, SIDE, SIDE, 3] that show nothing but a number below 256."""
    return torch.as_tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, SIDE, SIDE, 3).contiguous()


def numbers_of(inputs: Tensor) -> Tensor:
    """What images show at their centre, int64 [N]."""
    return inputs[:, 0, CENTRE, CENTRE].round().long()


def noise(n: int, seed: int = 0) -> Labelled:
    """Random images with labels that follow from their brightest channel, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=n)
    images = rng.integers(0, 156, (n, SIDE, SIDE, 3))
    images[np.arange(n), :, :, labels] += 60
    return Labelled(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


def none() -> Labelled:
    return Labelled(flat([]), torch.empty(0, dtype=torch.int64))


def sgd(model: nn.Module, lr: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


# --- pieces

def test_accuracy_is_in_percent():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, -1.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1])) == pytest.approx(200 / 3)


@pytest.mark.parametrize("n, size, lengths", [
    (1, 64, [1]), (2, 64, [2]), (64, 64, [64]), (65, 64, [65]), (66, 64, [64, 2]), (128, 64, [64, 64]), (129, 64, [64, 65]),
    (3, 2, [3]), (7, 3, [3, 4]),
])
def test_batches_keep_the_order_and_never_leave_one_image(n, size, lengths):
    order = torch.randperm(n)
    parts = batches(order, size)
    assert [len(part) for part in parts] == lengths and torch.cat(parts).equal(order)


def test_smoothed_targets_by_hand():
    expected = [[0.05, 0.9, 0.05], [0.9, 0.05, 0.05]]
    torch.testing.assert_close(smoothed_one_hot(torch.tensor([1, 0]), 3), torch.tensor(expected))
    assert smoothed_one_hot(torch.tensor([2]), 3, smoothing=0).tolist() == [[0, 0, 1]]


def test_smoothed_loss_is_the_cross_entropy_to_the_smoothed_targets():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    by_row = [-0.9 * math.log(0.3) - 0.05 * math.log(0.5 * 0.2), -0.9 * math.log(0.1) - 0.05 * math.log(0.1 * 0.8)]
    assert smoothed_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(sum(by_row) / 2)


@pytest.mark.parametrize("classes", [10, 43])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_smoothing_is_that_of_the_published_code(oracle, classes, smoothing):
    with np.load(oracle / "g_smoothing.npz", allow_pickle=False) as arrays:
        names = ("labels", "logits", *(f"s{smoothing}_{name}" for name in ("onehot", "loss", "grad")))
        labels, logits, onehot, loss, grad = (torch.from_numpy(arrays[f"C{classes}_{name}"]) for name in names)
    torch.testing.assert_close(smoothed_one_hot(labels, classes, smoothing), onehot, rtol=0, atol=1e-7)
    ours = smoothed_loss(logits.requires_grad_(), labels, smoothing)
    ours.backward()
    assert ours.item() == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(logits.grad, grad, rtol=1e-5, atol=1e-8)


def test_guess_is_the_sharpened_mean_over_views_or_the_known_label():
    probs = torch.tensor([[[0.6, 0.4], [0.6, 0.4], [1.0, 0.0]], [[0.2, 0.8], [0.2, 0.8], [1.0, 0.0]]])  # [views, images, C]
    # the mean of the first two is (.4, .6), its squares .16 and .36
    expected = [[4 / 13, 9 / 13], [0.1, 0.9], [1, 0]]
    torch.testing.assert_close(guess(probs, torch.tensor([UNKNOWN, 1, UNKNOWN])), torch.tensor(expected))


def test_mix_keeps_share_of_each_and_adds_the_rest_of_its_partner():
    values = torch.tensor([[0.0, 4.0], [8.0, 0.0], [4.0, 4.0]])
    assert mix(values, 0.75, torch.tensor([1, 2, 0])).tolist() == [[2, 3], [7, 1], [3, 4]]


def test_ssl_loss_by_hand():
    logits, labels = torch.log(torch.tensor([[1.0, 3.0], [1.0, 1.0], [1.0, 3.0]])), torch.tensor([0])
    targets = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.5, 0.5]])  # that of a labelled image is not looked at
    loss, labelled, unlabelled = ssl_loss(logits, labels, targets, lam_ul=10)
    assert labelled.item() == pytest.approx(math.log(4))
    assert unlabelled.item() == pytest.approx((2 * 0.5 ** 2 + 2 * 0.25 ** 2) / 4)
    assert loss.item() == pytest.approx(math.log(4) + 10 * 0.15625)


class Linear(nn.Module):
    """The model that the recorded SSL steps trained."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.linear = nn.Linear(48, 10)
        self.linear.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x.flatten(1)), x.flatten(1)


def test_three_ssl_steps_are_those_of_the_published_code(oracle):
    with np.load(oracle / "f_ssl_mixed.npz", allow_pickle=False) as arrays:
        arrays = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    model = Linear(arrays["s0_weight"], arrays["s0_bias"])
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    lam = arrays["lam"].item()
    seen = 0
    for step in range(arrays["n_steps"].item()):
        of = {name.removeprefix(f"s{step}_"): value for name, value in arrays.items() if name.startswith(f"s{step}_")}
        torch.testing.assert_close(model.linear.weight.detach(), of["weight"], rtol=0, atol=1e-6)
        torch.testing.assert_close(model.linear.bias.detach(), of["bias"], rtol=0, atol=1e-6)
        known = torch.where(of["in_labelled_mask"], of["plabel"], UNKNOWN).long()
        torch.testing.assert_close(guess(of["probs"], known), of["shapened_p"], rtol=0, atol=1e-6)
        share, perm = of["l"].item(), of["perm"]
        mixed = mix(of["all_lu_targets"], share, perm)
        torch.testing.assert_close(mixed, of["mixed_target"], rtol=0, atol=1e-6)
        parts = ssl_loss(of["logits_lu"], of["labels"], of["mixed_target"], lam)
        assert [part.item() for part in parts] == pytest.approx([of[n].item() for n in ("loss", "l_loss", "u_loss")], rel=1e-5)
        images = torch.cat([of["lab_inputs"], of["views"].flatten(0, 1)])
        loss = ssl_step(model, optimizer, images, of["labels"], known, share, perm, lam)
        assert loss.item() == pytest.approx(of["loss"].item(), rel=1e-5) and not loss.requires_grad
        seen += of["in_labelled_mask"].sum().item()
    assert seen  # both kinds of target came up
    torch.testing.assert_close(model.linear.weight.detach(), arrays["final_weight"], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.linear.bias.detach(), arrays["final_bias"], rtol=0, atol=1e-6)


def test_an_ssl_step_guesses_with_batch_statistics_and_without_gradient():
    model, perm = Small(), torch.randperm(20)
    x, views = torch.randn(5, 3, SIDE, SIDE), torch.randn(15, 3, SIDE, SIDE)
    labels, known = torch.arange(5) % CLASSES, torch.full((3,), UNKNOWN)
    other = copy.deepcopy(model).eval()
    other.norm1.running_mean += 100
    arguments = (torch.cat([x, views]), labels, known, 0.8, perm, 10.0)
    losses = [ssl_step(each, sgd(each, 0.1), *arguments).item() for each in (model, other)]
    assert losses[0] == losses[1] and model.norm1.num_batches_tracked == 2

    # the same step with the targets as constants
    third = copy.deepcopy(model)
    third.load_state_dict(weights := weights_of(model))
    with torch.no_grad():
        targets = torch.cat([F.one_hot(labels, CLASSES).float(),
                             guess(third(views)[0].float().softmax(1).view(5, 3, -1), known).repeat(5, 1)])
    inputs = torch.cat([x, views])
    mixed, targets = (0.8 * each + (1 - 0.8) * each[perm] for each in (inputs, targets))
    optimizer = sgd(third, 0.1)
    ssl_loss(third(mixed)[0].float(), labels, targets, 10.0)[0].backward()
    optimizer.step()
    model.load_state_dict(weights)
    ssl_step(model, sgd(model, 0.1), *arguments)
    assert not model.linear.weight.equal(weights["linear.weight"])
    torch.testing.assert_close(model.conv.weight, third.conv.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.linear.weight, third.linear.weight, rtol=0, atol=1e-6)


# --- replay

def test_replayed_are_the_images_that_are_classified_correctly():
    logits = torch.tensor([[5.0, 1, 2], [1, 5, 2], [1, 2, 5], [5, 1, 2]])
    train = Labelled(flat(range(4)), torch.tensor([0, 2, 2, 1]))
    assert replay_of(Table(logits), PLAIN, train, batch_size=3).tolist() == [0, 2]


def test_all_images_are_replayed_where_none_is_classified_correctly():
    train = Labelled(flat(range(5)), torch.tensor([1, 2, 1, 2, 1]))
    assert replay_of(Table(torch.eye(CLASSES)[[0] * 5]), PLAIN, train, batch_size=2).tolist() == [0, 1, 2, 3, 4]


def test_what_is_replayed_is_judged_on_the_plain_images_in_eval_mode():
    class Sided(nn.Module):
        """Class 1 where the left half is brighter: flips would mislead it."""

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            assert not self.training
            left = (x[..., :CENTRE] - x[..., CENTRE:]).mean((1, 2, 3))
            return torch.stack([-left, left], 1), x.flatten(1)

    images = torch.zeros(100, SIDE, SIDE, 3, dtype=torch.uint8)
    images[:, :, :CENTRE] = 200
    labels = torch.ones(100, dtype=torch.int64)
    labels[7] = 0
    assert replay_of(Sided().train(), PLAIN, Labelled(images, labels), 16).tolist() == [n for n in range(100) if n != 7]


# --- supervised pass

def test_each_image_is_seen_once_with_its_label():
    # logits of 0: the gradient of a row is (1 / C - target) / 6 for each time that the image was in the one batch
    model = Table(torch.zeros(10, CLASSES))
    train = Labelled(flat(range(5)), torch.tensor([0, 1, 2, 0, 1]))
    chosen = Labelled(flat([7, 8, 9]), torch.tensor([2, 2, 0]))
    loss, n = supervised_pass(model, sgd(model, 6.0), PLAIN, train, torch.tensor([0, 2, 4]), chosen, 0.1, seed=1, epoch=1)
    assert n == 6 and loss.item() == pytest.approx(math.log(3))
    expected = torch.zeros(10, CLASSES)
    for number, label in ((0, 0), (2, 2), (4, 1), (7, 2), (8, 2), (9, 0)):
        expected[number] = smoothed_one_hot(torch.tensor([label]), CLASSES)[0] - 1 / 3
    torch.testing.assert_close(model.logits.detach(), expected, rtol=0, atol=1e-6)


def test_the_loss_of_a_pass_is_the_mean_over_images_whatever_the_batches():
    model = Table(torch.randn(101, CLASSES))
    chosen = Labelled(flat(range(101)), torch.arange(101) % CLASSES)
    expected = smoothed_loss(model.logits, chosen.labels, 0.3).item()
    nothing = torch.empty(0, dtype=torch.int64)
    for epoch, size in ((1, 64), (2, 20)):
        loss, n = supervised_pass(model, sgd(model), PLAIN, none(), nothing, chosen, 0.3, seed=1, epoch=epoch, size=size)
        assert n == 101 and loss.item() == pytest.approx(expected, rel=1e-5) and not loss.requires_grad
    assert [len(x) for x in model.seen] == [64, 37, 20, 20, 20, 20, 21]
    inorder, first, second = torch.arange(101), *torch.cat([numbers_of(x) for x in model.seen]).split(101)
    assert first.sort().values.equal(inorder) and second.sort().values.equal(inorder)
    assert not first.equal(inorder) and not second.equal(inorder) and not first.equal(second)  # shuffled, in each epoch anew


@pytest.mark.parametrize("n, lengths", [(63, [63]), (64, [64]), (65, [64]), (200, [64] * 3)])
def test_a_pass_of_fine_tuning_drops_what_fills_no_batch_where_there_is_one(n, lengths):
    model = Table(torch.zeros(256, CLASSES))
    chosen = Labelled(flat(range(n)), torch.zeros(n, dtype=torch.int64))
    list(finetune(model, PLAIN, Labelled(flat([255]), torch.zeros(1, dtype=torch.int64)), Recipe(1), chosen))
    seen = [len(x) for x in model.seen[1:]]  # the first decides what to replay: the one train image
    assert seen == ([n + 1] if n < 63 else [64] * ((n + 1) // 64))
    loss, count = supervised_pass(model, sgd(model), PLAIN, none(), torch.empty(0, dtype=torch.int64), chosen, 0.1, 1, 1, whole=True)
    assert count == sum(lengths) and loss.item() == pytest.approx(math.log(3), abs=0.2)


def test_a_pass_shuffles_and_augments_anew_in_each_epoch_and_repeats_for_a_seed():
    train, replay = Labelled(noise(60).images, torch.zeros(60, dtype=torch.int64)), torch.arange(60)

    def seen(seed: int, epoch: int) -> Tensor:
        model = Table(torch.zeros(256, CLASSES))
        supervised_pass(model, sgd(model), PLAIN, train, replay, none(), 0.1, seed, epoch)
        return model.seen[0]

    assert seen(1, 1).equal(seen(1, 1))
    first, *others = (part.flatten(1) for part in (seen(1, 1), seen(1, 2), seen(2, 1)))
    for other in others:
        assert not first.equal(other)
        # what is the same up to order was drawn the same by chance: flip 1 of 2, shift 1 of 9
        assert (torch.cdist(first, other) < 1e-3).any(1).sum() < 15


def test_a_pass_augments_train_images_and_leaves_annotated_ones_as_they_are():
    some = noise(80).images.clone()
    some[:, CENTRE - 1:CENTRE + 2, CENTRE - 2:CENTRE + 2, 0] = torch.arange(80, dtype=torch.uint8).view(-1, 1, 1)
    train = Labelled(some[:60], torch.zeros(60, dtype=torch.int64))
    chosen = Labelled(some[60:], torch.zeros(20, dtype=torch.int64))
    model = Table(torch.zeros(80, CLASSES))
    supervised_pass(model, sgd(model), PLAIN, train, torch.arange(60), chosen, 0.1, seed=1, epoch=1)
    seen = torch.cat(model.seen)
    number = numbers_of(seen)
    as_it_is = (seen - PLAIN(some[number])).abs().amax((1, 2, 3)) < 1e-3
    assert number.sort().values.equal(torch.arange(80))
    assert as_it_is[number >= 60].all()
    assert as_it_is[number < 60].sum() < 15  # 1 of 18 is neither flipped nor shifted


def test_a_pass_trains_in_train_mode():
    model, train = Small().eval(), noise(70)
    supervised_pass(model, sgd(model), NORMALISE, train, torch.arange(70), none(), 0.1, seed=1, epoch=1)
    assert model.training and model.norm1.num_batches_tracked == 2


# --- SSL pass

@pytest.fixture
def steps(monkeypatch) -> list[tuple]:
    """What ssl_pass gives to each step, (inputs, labels, views, known, share, perm, lam_ul), in place of the step.

    Inputs are those of labelled images."""
    taken = []

    def record(model, optimizer, images, labels, known, share, perm, lam_ul, micro_batch) -> Tensor:
        taken.append((images[:BATCH].clone(), labels, images[BATCH:].clone(), known, share, perm, lam_ul))
        return torch.tensor(float(len(taken)))

    monkeypatch.setattr(module, "ssl_step", record)
    return taken


def draw(n_train: int, n_pool: int, weights=None, known=None, replay=None, seed: int = 1, epoch: int = 1, once: bool = False):
    """An SSL pass over flat images, numbered; the label of a train image is its number modulo 3."""
    train = Labelled(flat(np.arange(n_train) % 256), torch.arange(n_train) % CLASSES)
    weights = np.ones(n_pool) if weights is None else np.asarray(weights, dtype=float)
    known = torch.full((n_pool,), UNKNOWN) if known is None else known
    replay = torch.arange(n_train) if replay is None else replay
    unlabelled = Unlabelled(weights, once)
    return ssl_pass(None, None, PLAIN, train, replay, flat(np.arange(n_pool) % 256), unlabelled, known, 100.0, seed, epoch)


@pytest.mark.parametrize("n_train, n_pool, expected", [
    (10, 10, 1), (63, 63, 1), (64, 1, 1), (64, 200, 3), (300, 70, 4), (127, 128, 2), (1, 2, 1),
])
def test_a_pass_takes_as_many_full_steps_as_the_larger_set_fills(steps, n_train, n_pool, expected):
    loss, n = draw(n_train, n_pool)
    assert len(steps) == expected and n == 64 * expected
    assert loss.item() == pytest.approx((expected + 1) / 2)  # the mean over steps
    for inputs, labels, views, known, share, perm, lam_ul in steps:
        assert inputs.shape == (BATCH, 3, SIDE, SIDE) and len(labels) == len(known) == BATCH
        assert views.shape == (9 * BATCH, 3, SIDE, SIDE) and lam_ul == 100
        assert perm.sort().values.equal(torch.arange(10 * BATCH)) and not perm.equal(torch.arange(10 * BATCH))
        assert 0.5 <= share <= 1


def test_pool_images_are_drawn_in_proportion_to_their_weights(steps, monkeypatch):
    monkeypatch.setattr(module, "VIEWS", 1)  # of which this test looks at none
    weights = np.array([0, 1, 3] * 64)
    for epoch in range(40):
        draw(5, 192, weights, epoch=epoch)
    counts = np.bincount(np.concatenate([numbers_of(views[:BATCH]) for _, _, views, *_ in steps]), minlength=192)
    assert counts.sum() == 40 * 192 and counts[weights == 0].sum() == 0
    assert counts[weights == 3].sum() / counts.sum() == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 7680))
    assert counts[weights == 3].std() < 2 * math.sqrt(90)  # 90 are expected of each, as a Poisson variable
    assert counts[weights == 1].min() > 0


def test_few_pool_images_of_weight_fill_the_steps_by_themselves(steps):
    weights = np.zeros(200)
    weights[123] = 1e-9
    draw(5, 200, weights)
    assert all(numbers_of(views[:BATCH]).eq(123).all() for _, _, views, *_ in steps)


def test_replayed_images_come_all_before_any_comes_again_and_with_their_labels(steps):
    replay = torch.arange(0, 200, 2)  # every other one, 100 of 200
    draw(200, 250, replay=replay)
    numbers = torch.cat([numbers_of(inputs) for inputs, *_ in steps])
    assert len(numbers) == 192 and numbers[:100].sort().values.equal(replay) and not numbers[:100].equal(replay)
    assert len(numbers[100:].unique()) == 92 and not numbers[100:].equal(numbers[:92])  # in another order
    assert torch.cat([labels for _, labels, *_ in steps]).equal(numbers % CLASSES)


def test_annotated_and_propagated_labels_go_with_their_images_and_become_targets(steps):
    known = torch.where(torch.arange(150) % 4 == 0, torch.arange(150) % CLASSES, UNKNOWN)
    draw(5, 150, known=known)
    for _, _, views, given, *_ in steps:
        assert given.equal(known[numbers_of(views[:BATCH])])
        targets = guess(torch.full((9, BATCH, CLASSES), 1 / CLASSES), given)
        assert targets[given != UNKNOWN].equal(smoothed_one_hot(given[given != UNKNOWN], CLASSES))
        assert 0 < (given != UNKNOWN).sum() < BATCH


def test_an_ssl_pass_augments_what_is_replayed_and_gives_views_after_the_clean_images(steps):
    pool, train = noise(64).images, Labelled(noise(64, seed=1).images, torch.zeros(64, dtype=torch.int64))

    def given(seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Replayed inputs, clean images and views."""
        unlabelled = Unlabelled(np.ones(64))
        ssl_pass(None, None, PLAIN, train, torch.arange(64), pool, unlabelled, torch.full((64,), UNKNOWN), 100.0, seed, epoch)
        return steps[-1][0].flatten(1), *steps[-1][2].flatten(1).split([64, 8 * 64])

    def shared(some: Tensor, others: Tensor) -> float:
        """The share of images that are also among the others."""
        return (torch.cdist(some, others) < 1e-2).any(1).double().mean().item()

    inputs, clean, views = given(1, 1)
    assert all(one.equal(other) for one, other in zip((inputs, clean, views), given(1, 1)))
    assert shared(clean, PLAIN(pool).flatten(1)) == 1
    # 1 of 18 is neither flipped nor shifted; translations of less than a pixel leave one view in five as it was
    assert shared(inputs, PLAIN(train.images).flatten(1)) < 0.25 and shared(views, PLAIN(pool).flatten(1)) < 0.3
    for seed, epoch in ((1, 2), (2, 1)):
        other = given(seed, epoch)
        assert shared(inputs, other[0]) < 0.25 and shared(views, other[2]) < 0.3 and not clean.equal(other[1])


def test_an_image_that_comes_again_is_augmented_anew(steps):
    some = noise(1).images
    zero, unknown = torch.zeros(1, dtype=torch.int64), torch.full((1,), UNKNOWN)
    ssl_pass(None, None, PLAIN, Labelled(some, zero), zero, some, Unlabelled(np.ones(1)), unknown, 1.0, 1, 1)
    (inputs, _, views, *_), = steps
    assert len(inputs.flatten(1).unique(dim=0)) > 12  # of 2 x 3 x 3 ways to flip and crop
    assert len(views[BATCH:2 * BATCH].flatten(1).unique(dim=0)) > 40 and len(views[:BATCH].flatten(1).unique(dim=0)) == 1


@pytest.mark.parametrize("n_train, n_pool, weighed, expected", [
    (10, 200, 200, 3), (10, 200, 130, 2), (300, 100, 70, 4), (5, 50, 50, 1)])
def test_baselines_take_each_remaining_image_once_before_any_again(steps, n_train, n_pool, weighed, expected):
    weights = np.zeros(n_pool)
    weights[np.random.default_rng(0).permutation(n_pool)[:weighed]] = 1
    draw(n_train, n_pool, weights, once=True)
    numbers = torch.cat([numbers_of(views[:BATCH]) for _, _, views, *_ in steps])
    assert len(steps) == expected and set(numbers.tolist()) <= set(weights.nonzero()[0].tolist())
    count = numbers.bincount(minlength=n_pool)[torch.from_numpy(weights > 0)]
    assert count.max() - count.min() <= 1 and not numbers.equal(numbers.sort().values)


def test_what_is_replayed_is_decided_before_each_pass(steps, monkeypatch):
    model, asked = Small(), []
    monkeypatch.setattr(module, "replay_of", lambda model, normalise, train, size: (
        asked.append(weights_of(model)), torch.arange(len(asked)))[1])
    tuned(model, Recipe(2, lr=0.1))
    assert len(asked) == 4 and not same(asked[0], asked[1])  # between them the supervised pass has trained


# --- batch norm

def test_statistics_of_two_layers_are_those_computed_by_hand():
    model, images = Small(), noise(300).images
    before = weights_of(model)
    estimate_statistics(model, NORMALISE, images)
    means, variances = {"norm1": [], "norm2": []}, {"norm1": [], "norm2": []}
    with torch.no_grad():
        for batch in (images[:256], images[256:]):
            x = NORMALISE(batch).double()
            for name in ("norm1", "norm2"):
                means[name].append(x.mean((0, 2, 3)))
                variances[name].append(x.var((0, 2, 3)))  # unbiased
                biased = x.var((0, 2, 3), unbiased=False, keepdim=True)
                x = model.conv((x - x.mean((0, 2, 3), keepdim=True)) / (biased + 1e-5).sqrt()) if name == "norm1" else x
    for name in ("norm1", "norm2"):
        norm = getattr(model, name)
        torch.testing.assert_close(norm.running_mean, (means[name][0] + means[name][1]) / 2)
        torch.testing.assert_close(norm.running_var, (variances[name][0] + variances[name][1]) / 2)
    assert all(before[name].equal(value) for name, value in model.named_parameters())


def test_momenta_are_restored_and_earlier_statistics_do_not_matter():
    model, images = Small(), noise(50).images
    model.norm2.momentum = None
    other = copy.deepcopy(model)
    other.norm1.running_mean += 100
    for each in (model, other):
        estimate_statistics(each, NORMALISE, images)
        assert (each.norm1.momentum, each.norm2.momentum) == (0.1, None)
    assert same(model.state_dict(), other.state_dict())


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


def test_statistics_are_estimated_on_replayed_images_with_the_train_transform_drawn_anew_in_each_epoch():
    train, replay = Labelled(flat(range(200)), torch.zeros(200, dtype=torch.int64)), torch.arange(50, 150)
    first, again, second = (statistics_images(train, replay, 10, epoch) for epoch in (1, 1, 2))
    assert len(first) == STATISTICS_IMAGES and torch.equal(first, again) and not torch.equal(first, second)
    levels = first.flatten(1).amax(1)  # of flat images that are partly black after the crop
    assert set(levels.tolist()) == set(range(50, 150)) and levels.bincount()[50:].min() >= STATISTICS_IMAGES // 100
    assert 0.5 < (first.flatten(1).amin(1) == 0).double().mean() < 1


def test_weights_that_the_caller_replaces_hold_from_the_next_epoch(steps):
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
        self.name, self.last, self.losses, self.step = name, 0, [], module.ssl_step
        monkeypatch.setattr(module, "ssl_step", self)

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
    monkeypatch.setattr(module, "look", lambda *given, **more: None)  # as if it looked at a later step
    message = refusal(drawn, Small(), kept=Kept(tmp_path / "a.t7", {}, 0))
    assert message.startswith("epoch 1 of fine-tuning, step 2: the loss is not finite; ")
    assert checkpoint.load(tmp_path / "a.t7")["halfway"]["step"] == 1


# --- interruptions

def test_a_signal_at_any_time_of_the_passes_keeps_what_is_done_and_the_end_is_the_same(tmp_path, monkeypatch):
    start = Drawing()
    counted = Counted(monkeypatch, *((module, name) for name in ("smoothed_loss", "ssl_loss", "replay_of", "estimate_statistics")))
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
    start, step, path = Drawing(), module.ssl_step, tmp_path / "state.t7"
    expected = drawn_and_told(start)

    def impatient(*given):
        loss = step(*given)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(module, "ssl_step", impatient)
    with handled(), pytest.raises(Interruption):
        drawn_and_told(start, Kept(path, {}, 0))
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.before"}
    assert checkpoint.load(path)["halfway"]["supervised"]
    monkeypatch.setattr(module, "ssl_step", step)
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
    start, steps, step = Drawing(), [], module.ssl_step
    expected = drawn(start)

    def deadly(*given):
        steps.append(given)
        if len(steps) == last:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(module, "ssl_step", deadly)
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
