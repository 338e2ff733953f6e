"""Distillation: a pass over the pool with a teacher's soft labels, beside replayed train images.

Sources: Hinton et al., "Distilling the knowledge in a neural network", 2015; Loshchilov and Hutter, "SGDR", ICLR 2017 (the rate).
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base.device import seeded
from hybridrepair.base.processes import apart
from hybridrepair.base.progress import progress
from hybridrepair.images.augment import Normalise, flip_and_crop
from hybridrepair.images.randomness import generator, key
from hybridrepair.training.microbatch import counted_once, parts_of
from hybridrepair.training.passes import BATCH, After, Labelled, batches, end_step, rounds
from hybridrepair.training.shares import shared

OF_POOL = 192  # pool images in a step, beside BATCH replayed ones
STEP = BATCH + OF_POOL
LARGEST = STEP + 1  # images in a step: a last pool image joins the others
PEAK = 0.05  # usual learning rate of the first step


def rate_at(step: int, steps: int, peak: float) -> float:
    """The learning rate of a step, counted from 0: half a cosine from `peak` at the first of `steps` to nearly 0 at the last."""
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


def distillation_pass(model: nn.Module, optimizer: torch.optim.Optimizer, normalise: Normalise, train: Labelled, pool: Tensor,
                      targets: Tensor, peak: float, epochs: int, seed: int, epoch: int, done: int = 0, total: float = 0.0,
                      after: After = lambda step, losses: None, micro_batch: int = LARGEST) -> tuple[Tensor, int]:
    """One shuffled epoch over the pool uint8 [N, H, W, C] with soft labels float32 [N, C], beside train images in shuffled rounds.

    All are flipped and cropped. The loss is the cross-entropy to the labels, the rate that of `rate_at` over all steps of `epochs`.
    More than `micro_batch` images go through in parts, each of rows at equal distances. Returns the mean loss and the number of
    images seen. Given what `after` was told, steps done and their losses, a pass goes on from there. NotFinite when the loss is
    no longer finite.
    """
    model.train()
    rng, device, classes = generator(key(seed, "distillation", epoch)), pool.device, targets.shape[1]
    cut = batches(torch.from_numpy(rng.permutation(len(pool))).to(device), OF_POOL)
    beside = BATCH if len(train.labels) else 0
    replayed = torch.from_numpy(rounds(rng, np.arange(len(train.labels)), len(cut) * beside)).to(device) if beside else cut[0][:0]
    transform, title = key(seed, "distillation transform", epoch), " of the distillation pass"
    losses, fine = torch.tensor(total, device=device), torch.tensor(done, device=device)
    place = 0  # in the epoch: an image is augmented anew each time it comes
    for step, batch in enumerate(progress(cut, f"epoch {epoch} distillation", done), 1):
        rows = torch.arange(place, place := place + beside + len(batch), device=device)
        if step <= done:
            continue
        images, labels = pool[batch], targets[batch]
        if beside:
            of_train = replayed[(step - 1) * beside:step * beside]
            images = torch.cat([train.images[of_train], images])
            labels = torch.cat([F.one_hot(train.labels[of_train], classes).to(labels.dtype), labels])
        for group in optimizer.param_groups:
            group["lr"] = rate_at((epoch - 1) * len(cut) + step - 1, epochs * len(cut), peak)
        optimizer.zero_grad()
        parts, of_parts = parts_of(len(images), micro_batch), list[Tensor]()
        with counted_once(model, parts), seeded(apart(key(seed, "distillation layers", epoch, step)), device):
            for part in range(parts):
                with shared(len(images[part::parts])) as share:
                    own = share.of(range(part, len(images), parts))
                    inputs, goals = flip_and_crop(images[own], transform, rows[own]), labels[own]
                    loss = F.cross_entropy(model(normalise(inputs))[0].float(), goals)
                    loss = loss * (len(goals) * share.weight / len(images))
                    loss.backward()
                of_parts.append(loss.detach())
        end_step(optimizer, of_parts, losses, fine, step, len(cut), title, untrained=epoch == 1)
        after(step, losses)
    return losses / len(cut), place
