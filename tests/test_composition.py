"""A whole repair by HybridRepair beside one composed here, step by step as the method says, with the same draws in float64."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair import repair, select
from hybridrepair.images.augment import Normalise, flip_and_crop, views_of
from hybridrepair.images.randomness import generator, key

MEAN, STD, CLASSES = (0.5, 0.45, 0.4), (0.25, 0.24, 0.26), 4
SEED, EPOCHS, LR, DECAY, LAM, BUDGET = 10, 2, 0.02, 5e-4, 100.0, 6
NORMALISE = Normalise(MEAN, STD)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.Linear(12, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.norm(self.conv(x.double()))).mean((2, 3))
        return self.linear(features), features


def part(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 16, 16, 3] of noise with a tint for each class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    tint = np.array([[40, 0, 0], [0, 40, 0], [0, 0, 40], [25, 25, 0]])[labels]
    return torch.from_numpy((rng.integers(0, 200, (n, 16, 16, 3)) + tint[:, None, None]).astype(np.uint8)), torch.from_numpy(labels)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return model.eval()(NORMALISE(images))[0]


@torch.no_grad()
def unsmoothness(model: nn.Module, images: Tensor, views: int) -> np.ndarray:
    """Entropy of the mean prediction over the views, divided by the largest."""
    seen = model.eval()(views_of(images, NORMALISE, views, torch.arange(len(images))))[0].softmax(1)
    mean = seen.unflatten(0, (-1, len(images))).mean(0)
    entropy = -(mean * mean.log2()).sum(1)
    return (entropy / entropy.max()).numpy()


def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return (logits(model, images).argmax(1) == labels).nonzero()[:, 0]


def smoothed(labels: Tensor, share: float) -> Tensor:
    return F.one_hot(labels, CLASSES).double() * (1 - share - share / (CLASSES - 1)) + share / (CLASSES - 1)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=DECAY)


class ByHand:
    """The method on train set, T2 and pool, whose regions are those of `chosen`."""

    def __init__(self, raw: nn.Module, train, t2, pool, chosen):
        self.raw, self.train, self.t2, (self.pool, truth) = raw, train, t2, pool
        self.u = unsmoothness(raw, self.pool, key(SEED, "views of pool"))
        regions = [np.flatnonzero(chosen.regions.label.numpy() == number) for number in range(int(chosen.regions.label.max()) + 1)]
        ranked = sorted(regions, key=lambda members: -self.u[members].sum())[:BUDGET]
        with torch.no_grad():
            features = F.normalize(raw(NORMALISE(self.pool))[1], dim=1).numpy()
        self.known = np.full(len(self.pool), -1)
        self.annotated = []
        for members in ranked:
            apart = ((features[members] - features[members].mean(0)) ** 2).sum(1)
            self.annotated.append(int(members[apart.argmin()]))
            self.known[members] = truth[self.annotated[-1]]
        self.tau = self.threshold()
        self.within = self.u <= self.tau

    def threshold(self) -> float:
        """The mean unsmoothness of the T2 images at an average cosine distance from their nearest train images, by logits."""
        field, known = (F.normalize(logits(self.raw, images), dim=1) for images in (self.t2[0], self.train[0]))
        distance = (1 - field @ known.T).sort(1).values[:, :100].mean(1)
        typical = (distance - distance.mean()).abs().argsort()[:1000]
        return unsmoothness(self.raw, self.t2[0], key(SEED, "views of T2"))[typical.numpy()].mean()

    def weights(self, u: np.ndarray) -> np.ndarray:
        return np.where(self.known >= 0, 1.0, np.where(self.within, 1 - u, 0.0))

    def accuracy(self, model: nn.Module) -> float:
        return 100 * len(right(model, *self.t2)) / len(self.t2[1])

    def supervised(self, model: nn.Module, optimizer, seed: int, epoch: int, share: float, chosen: np.ndarray) -> None:
        replay = right(model, *self.train)
        labels = torch.cat([self.train[1][replay], torch.from_numpy(self.known[chosen])])
        order = torch.from_numpy(generator(key(seed, "supervised order", epoch)).permutation(len(labels)))
        model.train()
        for batch in order[:len(order) // 64 * 64].split(64):
            images = torch.stack([
                flip_and_crop(self.train[0][replay[at, None]], key(seed, "train transform", epoch), replay[at, None])[0]
                if at < len(replay) else self.pool[chosen[at - len(replay)]] for at in batch.tolist()])
            optimizer.zero_grad()
            (-smoothed(labels[batch], share) * model(NORMALISE(images))[0].log_softmax(1)).sum(1).mean().backward()
            optimizer.step()

    def semi_supervised(self, model: nn.Module, optimizer, seed: int, epoch: int, weights: np.ndarray) -> float:
        replay = right(model, *self.train).numpy()
        steps, rng = max(len(replay) // 64, len(self.pool) // 64), generator(key(seed, "ssl", epoch))
        drawn = rng.choice(len(self.pool), 64 * steps, p=weights / weights.sum())
        replayed = np.concatenate([rng.permutation(replay) for _ in range(-(-64 * steps // len(replay)))])[:64 * steps]
        model.train()
        losses = []
        for step in range(steps):
            at = torch.arange(64 * step, 64 * step + 64)
            x, u = replayed[at], drawn[at]
            images = NORMALISE(flip_and_crop(self.train[0][x], key(seed, "ssl train transform", epoch), at))
            views = views_of(self.pool[u], NORMALISE, key(seed, "ssl views", epoch), at)
            with torch.no_grad():
                target = model(views)[0].softmax(1).unflatten(0, (9, 64)).mean(0) ** 2
                target /= target.sum(1, keepdim=True)
            known = torch.from_numpy(self.known[u])
            target[known >= 0] = smoothed(known[known >= 0], 0.1)
            inputs, targets = torch.cat([images, views]), torch.cat([F.one_hot(self.train[1][x], CLASSES), *[target] * 9])
            share = rng.beta(0.75, 0.75)
            share, other = max(share, 1 - share), rng.permutation(640)
            out = model(share * inputs + (1 - share) * inputs[other])[0]
            goal = share * targets + (1 - share) * targets[other]
            loss = F.cross_entropy(out[:64], self.train[1][x]) + LAM * ((out[64:].softmax(1) - goal[64:]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def repair(self) -> tuple[nn.Module, float, list[tuple[float, float]]]:
        """The repaired model, the accuracy before, and accuracy and loss of SSL of each epoch."""
        model = copy.deepcopy(self.raw)
        optimizer, nothing, chosen = optimizer_of(model), np.empty(0, np.int64), np.flatnonzero(self.known >= 0)
        for epoch in range(1, EPOCHS + 1):
            self.supervised(model, optimizer, key(SEED, "baseline"), epoch, 0.0, nothing)
        before, weights, epochs = self.accuracy(model), self.weights(self.u), []
        optimizer = optimizer_of(model)
        for epoch in range(1, EPOCHS + 1):
            self.supervised(model, optimizer, key(SEED, "repair"), epoch, 0.1, chosen)
            loss = self.semi_supervised(model, optimizer, key(SEED, "repair"), epoch, weights)
            weights = self.weights(unsmoothness(model, self.pool, key(SEED, "views of pool")))
            epochs.append((self.accuracy(model), loss))
        return model, before, epochs


def test_a_whole_repair_is_that_of_the_method():
    train, t2, pool = part(200, 1), part(80, 2), part(150, 3)
    torch.manual_seed(0)
    raw = Net()
    optimizer = torch.optim.SGD(raw.parameters(), 0.1, momentum=0.9)
    for _ in range(30):
        for batch in torch.randperm(200).split(50):
            optimizer.zero_grad()
            F.cross_entropy(raw(NORMALISE(train[0][batch]))[0], train[1][batch]).backward()
            optimizer.step()
    given = {"train": train, "test": t2, "mean": MEAN, "std": STD, "solution": "hybrid", "manualSeed": SEED, "retrain_lr": LR,
             "retrain_epoch": EPOCHS, "retrain_weightdecay": DECAY, "lam_ul": LAM}
    chosen = select(raw, pool[0], BUDGET, **given)
    ours = repair(raw, pool[0], chosen, pool[1][chosen.annotated], **given)
    hand = ByHand(raw, train, t2, pool, chosen)
    assert hand.annotated == chosen.annotated.tolist() and ours.row["tau"] == pytest.approx(hand.tau, abs=1e-9)
    assert ours.row["n_propagated"] == (hand.known >= 0).sum() - BUDGET > 0 and 0 < (hand.within & (hand.known < 0)).sum() < 150
    model, before, epochs = hand.repair()
    assert ours.before == pytest.approx(before)
    assert [(each["acc"], each["ssl_loss"]) for each in ours.epochs] == [pytest.approx(each, abs=1e-5) for each in epochs]
    for (name, value), made, start in zip(ours.model.state_dict().items(), model.state_dict().values(), raw.state_dict().values()):
        torch.testing.assert_close(value.double(), made.double(), rtol=0, atol=1e-6, msg=name)
        assert (made.double() - start.double()).abs().max() > 1e-3
