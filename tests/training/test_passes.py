"""passes.py: each piece beside hand-worked and recorded values, and what each pass draws, augments and aims at."""
import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base.errors import UserError
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.training import passes
from hybridrepair.training.finetune import Recipe, finetune
from hybridrepair.training.passes import (
    BATCH,
    Labelled,
    Unlabelled,
    accuracy,
    batches,
    enough,
    guess,
    mix,
    replay_of,
    smoothed_loss,
    smoothed_one_hot,
    ssl_loss,
    ssl_pass,
    ssl_step,
    supervised_pass,
)
from samples import CENTRE, CLASSES, NORMALISE, PLAIN, SIDE, Small, Table, flat, noise, none, numbers_of, record_steps, sgd, weights_of

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
    return record_steps(monkeypatch)


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
    monkeypatch.setattr(passes, "VIEWS", 1)  # of which this test looks at none
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


def test_one_image_that_batch_norm_can_do_nothing_with_is_one_sentence_and_other_errors_stay_what_they_are():
    layer = nn.BatchNorm1d(3)
    with pytest.raises(UserError, match="one labelled image alone cannot be trained on \\(ValueError: .*; give more$"):
        with enough(1, "give more"):
            layer(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="^other$"), enough(2, "give more"):
        raise ValueError("other")
    with enough(1, "give more"):
        layer(torch.zeros(2, 3))
