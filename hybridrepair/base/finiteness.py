"""Finiteness: what is NaN or infinite ends the run, in a sentence that says where it came up, and is not written over what is good."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hybridrepair.base.errors import UserError

LOOK = 20  # steps from one look at the losses to the next: each waits for the device


class NotFinite(UserError):
    """NaN or infinity. The message tells what is so; who knows where that is, and the remedy, adds it by `blamed`.

    `untrained`: it was so before the first step of a training.
    """

    def __init__(self, message: str, untrained: bool = False):
        super().__init__(message)
        self.untrained = untrained


@contextmanager
def blamed(place: str, remedy: str) -> Iterator[None]:
    """Turn a NotFinite of the block into a UserError that names the place and the remedy."""
    try:
        yield
    except NotFinite as error:
        if error.untrained:
            remedy = "nothing had been trained before it: check the weights that it starts from, and mean and std of the images"
        raise UserError(f"{place}{error}; {remedy}") from error


def require_weights(model: nn.Module) -> None:
    """NotFinite where a parameter, or a running statistic of batch norm, is not finite.

    Other buffers may be infinite on purpose, such as masks.
    """
    names, fine = [], []
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter) or name.endswith(("running_mean", "running_var")):
            names.append(name)
            fine.append(value.detach().isfinite().all())
    if fine and not (told := torch.stack(fine)).all():
        broken = [name for name, good in zip(names, told.tolist()) if not good]
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise NotFinite(f"the weights {broken[0]}{more} are not finite")


def require_images(broken: Tensor, n: int, what: str) -> None:
    """NotFinite where `what` is broken of some of n images, whose number is given."""
    if broken:
        raise NotFinite(f"the {what} of {int(broken)} of {n} images are not finite")


def look(step: int, steps: int, total: Tensor, fine: Tensor, title: str, untrained: bool = False) -> None:
    """NotFinite where `total`, the sum of the losses of a pass, is not finite: told with the first such step.

    Looks after every LOOK-th step and the last of `steps`; `fine` counts the steps after which the sum was finite. `untrained`: the
    pass is the first of a training.
    """
    if (step == steps or step % LOOK == 0) and not total.isfinite():
        first = int(fine) + 1
        raise NotFinite(f"step {first}{title}: the loss is not finite", untrained and first == 1)


def sum_of(total: Tensor, step: int) -> float:
    """The sum of losses after a step, to be kept. NotFinite where it is not."""
    if not total.isfinite():
        raise NotFinite(f"step {step}: the loss is not finite")
    return total.item()


def descend(optimizer: torch.optim.Optimizer) -> None:
    """A step of the optimiser. NotFinite where torch refuses a rate that is beyond the numbers of the weights."""
    try:
        optimizer.step()
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise NotFinite("the weights would not be finite") from error


@contextmanager
def placed(place: str, untrained: bool = False) -> Iterator[None]:
    """Add to a NotFinite of the block its place, and that nothing had been trained."""
    try:
        yield
    except NotFinite as error:
        raise NotFinite(f"{place}{error}", untrained or error.untrained) from error
