"""The two passes of an epoch: a supervised one over replayed and annotated images, and a MixMatch-like SSL pass over the pool.

Sources: HybridRepair (Li, Chen, Xu, ISSTA 2022); Berthelot et al., "MixMatch", NeurIPS 2019; Zhang et al., "mixup", ICLR 2018.
"""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base.device import images_at_once, seeded
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.finiteness import descend, look, placed
from hybridrepair.base.processes import apart
from hybridrepair.base.progress import progress
from hybridrepair.images.arrays import UNKNOWN, taken
from hybridrepair.images.augment import Normalise, flip_and_crop
from hybridrepair.images.data import Dataset
from hybridrepair.images.randomness import generator, key
from hybridrepair.selection.uncertainty import VIEWS, predict
from hybridrepair.training.microbatch import counted_once, parts_of, spaced_parts_of, write_views
from hybridrepair.training.shares import add_up, shared

BATCH = 64
STEP = BATCH * (2 + VIEWS)  # images that an SSL step trains on
SMOOTHING = 0.1  # probability taken from the labelled class and spread over the others
TEMPERATURE = 0.5
MIXUP_ALPHA = 0.75
ALL = slice(None)
After = Callable[[int, Tensor], None]  # what is told after each step how many are done, and the sum of their losses


@contextmanager
def enough(n: int, remedy: str) -> Iterator[None]:
    """A block that trains on n labelled images: UserError with the remedy where that is one, and the network cannot do with it."""
    try:
        yield
    except ValueError as error:  # batch norm has no variance of a single value for a channel
        if n != 1:
            raise
        raise UserError(f"one labelled image alone cannot be trained on ({reason_of(error)}); {remedy}") from error


@dataclass
class Labelled:
    """Labelled images on the device: uint8 [N, H, W, C] and int64 [N]."""
    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, dataset: Dataset, index: np.ndarray, device: torch.device) -> "Labelled":
        """The images of a dataset at int64 index [N]."""
        return cls(torch.from_numpy(taken(dataset.images, index)).to(device), torch.from_numpy(dataset.labels[index]).to(device))


def batches(order: Tensor, size: int = BATCH, whole: bool = False) -> list[Tensor]:
    """Cut [N] into batches of `size`; a last one of a single image joins its neighbour, since batch statistics need two.

    With `whole` the rest that fills no batch is dropped, unless it is all there is.
    """
    if whole and len(order) >= size:
        order = order[:len(order) // size * size]
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def micro_batch_of(micro_batch: int | None, height: int, width: int) -> int:
    """Images per forward and backward pass: those asked for, or as many as take the memory of a whole SSL step at 32x32 pixels."""
    return micro_batch or images_at_once(STEP, height, width)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is that of their label, in percent."""
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Mean cross-entropy to 1 - smoothing on the class and smoothing / (C - 1) on each other."""
    classes = logits.shape[1]
    return F.cross_entropy(logits, labels, label_smoothing=smoothing * classes / (classes - 1))


def smoothed_one_hot(labels: Tensor, classes: int, smoothing: float = SMOOTHING) -> Tensor:
    """float32 [N, C]: 1 - smoothing on the class, smoothing / (C - 1) on each other."""
    target = torch.full((len(labels), classes), smoothing / (classes - 1), device=labels.device)
    return target.scatter_(1, labels[:, None], 1 - smoothing)


def replay_of(model: nn.Module, normalise: Normalise, train: Labelled, batch_size: int) -> Tensor:
    """Indices int64 of the train images that the model classifies correctly, judged on the plain images.

    All of them where it classifies fewer than two correctly, so that there is something to replay; none where there are none.
    """
    if not len(train.labels):
        return train.labels
    logits, = predict(model, normalise, train.images, batch_size)
    right = (logits.argmax(1) == train.labels).nonzero()[:, 0]
    return right if len(right) > 1 else torch.arange(len(train.labels), device=train.labels.device)


def end_step(optimizer: torch.optim.Optimizer, of_parts: list[Tensor], losses: Tensor, fine: Tensor, step: int, steps: int,
             title: str, untrained: bool) -> None:
    """Descend by the gradients of a step, whose parts' losses are added to `losses`, both over all processes.

    `fine` counts the steps after which the sum was finite. NotFinite as in `look`, or where the weights would not be.
    """
    for of_part in add_up(optimizer, torch.stack(of_parts)):
        losses += of_part
    with placed(f"step {step}{title}: "):
        descend(optimizer)
    fine += losses.isfinite()
    look(step, steps, losses, fine, title, untrained)


def images_of(train: Labelled, chosen: Labelled, number: Tensor, place: Tensor) -> Tensor:
    """The train images of a number int64 [B], and, where that is less than 0, those at a place int64 [B] among the annotated ones."""
    if not len(chosen.labels):
        return train.images[number]
    if not len(train.labels):
        return chosen.images[place]
    return torch.where((number >= 0)[:, None, None, None], train.images[number.clamp(min=0)], chosen.images[place.clamp(min=0)])


def supervised_pass(model: nn.Module, optimizer: torch.optim.Optimizer, normalise: Normalise, train: Labelled, replay: Tensor,
                    chosen: Labelled, smoothing: float, seed: int, epoch: int, size: int = BATCH,
                    whole: bool = False, micro_batch: int | None = None, done: int = 0, total: float = 0.0,
                    after: After = lambda step, losses: None) -> tuple[Tensor, int]:
    """One shuffled epoch over replayed train images (flip and crop) and annotated images (as they are).

    replay int64 indexes train; `whole` is that of `batches`; more than `micro_batch` images go through in parts. Returns the mean
    loss and the number of images seen. Given what `after` was told, steps done and their losses, a pass goes on from there.
    NotFinite when the loss is no longer finite.
    """
    model.train()
    labels = torch.cat([train.labels[replay], chosen.labels])
    number = torch.cat([replay, torch.full_like(chosen.labels, -1)])  # annotated images are not augmented
    order = torch.from_numpy(generator(key(seed, "supervised order", epoch)).permutation(len(labels))).to(labels.device)
    transform = key(seed, "train transform", epoch)
    losses, fine = torch.tensor(total, device=labels.device), torch.tensor(done, device=labels.device)
    cut, title = batches(order, size, whole), " of the supervised pass"
    for step, batch in enumerate(progress(cut, f"epoch {epoch} supervised", done), 1):
        if step <= done:
            continue
        optimizer.zero_grad()
        parts, of_parts = parts_of(len(batch), micro_batch or len(batch)), list[Tensor]()
        with counted_once(model, parts), seeded(apart(key(seed, "supervised layers", epoch, step)), labels.device):
            for part in batch.tensor_split(parts):
                with shared(len(part)) as share:
                    own = part[share.rows]
                    images = images_of(train, chosen, number[own], own - len(replay))
                    inputs = flip_and_crop(images, transform, number[own], where=number[own] >= 0)
                    loss = smoothed_loss(model(normalise(inputs))[0], labels[own], smoothing)
                    (loss * (len(own) * share.weight / len(batch))).backward()
                of_parts.append(loss.detach() * (len(own) * share.weight))
        end_step(optimizer, of_parts, losses, fine, step, len(cut), title, untrained=epoch == 1)
        after(step, losses)
    seen = sum(map(len, cut))
    return losses / seen, seen


def guess(probs: Tensor, known: Tensor) -> Tensor:
    """Targets [N, C] of unlabelled images from softmax vectors [views, N, C]: their mean, sharpened.

    Images whose label known int64 [N] is not UNKNOWN get its smoothed one-hot instead.
    """
    sharp = probs.mean(0) ** (1 / TEMPERATURE)
    sharp = sharp / sharp.sum(1, keepdim=True)
    return torch.where((known != UNKNOWN)[:, None], smoothed_one_hot(known.clamp(min=0), probs.shape[-1]), sharp)


def mix(values: Tensor, share: float, perm: Tensor, rows: slice = ALL) -> Tensor:
    """Rows of MixUp of [M, ...] with its own permutation: share * values + (1 - share) * values[perm]."""
    return torch.lerp(values[perm[rows]], values[rows], share)


def ssl_loss(logits: Tensor, labels: Tensor, targets: Tensor, lam_ul: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of a mixed batch: cross-entropy of its first len(labels) logits, and lam_ul times the squared error of the rest.

    logits, targets [M, C]; labels int64 [B]. Returns (loss, labelled part, unlabelled part).
    """
    b = len(labels)
    labelled = F.cross_entropy(logits[:b], labels) if b else logits.new_zeros(())
    unlabelled = (logits[b:].softmax(1) - targets[b:]).square().mean() if b < len(logits) else logits.new_zeros(())
    return labelled + lam_ul * unlabelled, labelled, unlabelled


def ssl_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, known: Tensor,
             share: float, perm: Tensor, lam_ul: float, micro_batch: int = STEP) -> Tensor:
    """One step on model inputs [B + V * U, C, H, W]: B with labels [B], then all views of the U unlabelled images known [U].

    share and perm int64 [B + V * U] are those of MixUp. More than `micro_batch` rows go through in parts, each of rows at equal
    distances, so that all kinds of images are in it, and as many different ones as it has room for: only batch norm can tell.
    Several processes share the rows of each part. Returns the loss, detached.
    """
    model.train()
    b, total = len(labels), torch.zeros((), device=images.device)
    views = images[b:]
    parts = spaced_parts_of(len(views), micro_batch)
    with torch.no_grad(), counted_once(model, parts):
        logits = []
        for part in range(parts):
            rows = views[part::parts]
            with shared(len(rows)) as own:
                logits.append(own.joined(model(rows[own.rows].contiguous(memory_format=torch.channels_last))[0].float()))
        probs = torch.empty(len(views), logits[0].shape[1], device=views.device)
        for part, rows in enumerate(logits):
            probs[part::parts] = rows.softmax(1)
        target = guess(probs.unflatten(0, (-1, len(known))), known)
    targets = torch.cat([F.one_hot(labels, target.shape[1]).float(), target.repeat(len(views) // len(known), 1)])
    optimizer.zero_grad()
    parts = spaced_parts_of(len(images), micro_batch)
    with counted_once(model, parts):
        for part in range(parts):
            with shared(len(images[part::parts])) as own:
                some = own.of(range(part, len(images), parts))
                mixed = mix(images, share, perm, some).contiguous(memory_format=torch.channels_last)
                classes, goals = labels[some], mix(targets, share, perm, some)
                _, labelled, unlabelled = ssl_loss(model(mixed)[0].float(), classes, goals, lam_ul)
                loss = labelled * (len(classes) / b) + lam_ul * unlabelled * ((len(goals) - len(classes)) / len(views))
                loss = loss * own.weight
                loss.backward()
            total += loss.detach()
    total = add_up(optimizer, total)
    descend(optimizer)
    return total


def rounds(rng: np.random.Generator, items: np.ndarray, n: int) -> np.ndarray:
    """n of the items [M]: all of them in a random order, then all again in another, and so on."""
    return np.concatenate([rng.permutation(items) for _ in range(-(-n // len(items)))])[:n]


@dataclass
class Unlabelled:
    """The part of the pool that SSL trains on: sampling weights float64 [N], which may be replaced between epochs.

    Images are drawn with replacement in proportion to the weights, or, with `once`, those of weight above 0 in shuffled rounds.
    """
    weights: np.ndarray
    once: bool = False

    def __len__(self) -> int:
        """Images that make an epoch: all of the pool where they are drawn from it."""
        return int((self.weights > 0).sum()) if self.once else len(self.weights)

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """The images that fill n places, int64 [n]."""
        if self.once:
            return rounds(rng, self.weights.nonzero()[0], n)
        return rng.choice(len(self.weights), size=n, p=self.weights / self.weights.sum())


def ssl_pass(model: nn.Module, optimizer: torch.optim.Optimizer, normalise: Normalise, train: Labelled, replay: Tensor,
             pool: Tensor, unlabelled: Unlabelled, known: Tensor, lam_ul: float, seed: int, epoch: int, done: int = 0,
             total: float = 0.0, after: After = lambda step, losses: None, micro_batch: int = STEP) -> tuple[Tensor, int]:
    """One epoch of SSL: replayed train images in shuffled rounds beside images of the pool uint8 [N, H, W, C].

    known int64 [N] holds annotated and propagated labels, UNKNOWN elsewhere. What an image looks like follows from its place in
    the epoch, so that it is augmented anew each time it comes. Returns the mean loss and the number of images drawn from the pool.
    Given what `after` was told, steps done and their losses, a pass goes on from there. NotFinite when the loss is no longer finite.
    """
    rng = generator(key(seed, "ssl", epoch))
    device = pool.device
    steps = max(len(replay) // BATCH, len(unlabelled) // BATCH, 1)
    drawn = torch.from_numpy(unlabelled.draw(rng, steps * BATCH)).to(device)
    replayed = replay[torch.from_numpy(rounds(rng, np.arange(len(replay)), steps * BATCH)).to(device)]
    place = torch.arange(steps * BATCH, device=device)
    transform, augmix = key(seed, "ssl train transform", epoch), key(seed, "ssl views", epoch)
    losses, fine, title = torch.tensor(total, device=device), torch.tensor(done, device=device), " of the SSL pass"
    _, height, width, channels = pool.shape  # of each step, one after the other
    images = torch.empty(BATCH * (2 + VIEWS), channels, height, width, device=device, memory_format=torch.channels_last)
    batches = zip(progress(replayed.split(BATCH), f"epoch {epoch} SSL", done), drawn.split(BATCH), place.split(BATCH))
    for step, (x, u, at) in enumerate(batches, 1):
        share = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
        perm = rng.permutation(BATCH * (2 + VIEWS))
        if step <= done:
            continue
        images[:BATCH] = normalise(flip_and_crop(train.images[x], transform, at))
        write_views(images[BATCH:], pool[u], normalise, augmix, at, micro_batch)
        with placed(f"step {step}{title}: "), seeded(apart(key(seed, "ssl layers", epoch, step)), device):
            losses += ssl_step(model, optimizer, images, train.labels[x], known[u], max(share, 1 - share),
                               torch.from_numpy(perm).to(device), lam_ul, micro_batch)
        fine += losses.isfinite()
        look(step, steps, losses, fine, title)
        after(step, losses)
    return losses / steps, steps * BATCH
