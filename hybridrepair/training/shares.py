"""A step of a training that several processes share: each computes some of the rows, and the gradients are the sums of theirs.

A training pass takes three lines of it: `shared` around each forward and backward pass, the loss of the own rows with their part in the
mean over all, and `add_up` before the step of the optimiser.
By one sum over processes and not by torch's DistributedDataParallel, which means over processes, however many rows each has.
"""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hybridrepair.base import processes
from hybridrepair.base.processes import ALL, Share
from hybridrepair.training.batchnorm import Synchronised


@contextmanager
def shared(n: int) -> Iterator[Share]:
    """This process's share of n rows, for a block in which batch norm sees the rows of all processes."""
    share = processes.share(n)
    if share.rows == ALL:
        yield share
    else:
        with Synchronised():
            yield share


def add_up(optimizer: torch.optim.Optimizer, losses: Tensor) -> Tensor:
    """Make the gradients of what the optimiser trains the sums of those of all processes; the sum of their losses is returned."""
    if processes.size() == 1:
        return losses
    grads = [parameter.grad for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None]
    parts = [losses.detach(), *grads]
    sums = torch.cat([part.flatten() for part in parts])  # as one, which is faster than many
    processes.add_up(sums)
    total, *added = (part.view_as(like) for part, like in zip(sums.split([part.numel() for part in parts]), parts))
    for grad, value in zip(grads, added):
        grad.copy_(value)
    return total.to(losses.dtype)
