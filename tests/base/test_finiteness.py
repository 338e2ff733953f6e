"""finiteness.py: what is looked at, what is told of it, and what is left alone."""
import math

import pytest
import torch
from torch import nn

from conftest import refusal
from hybridrepair.base.finiteness import (
    LOOK,
    NotFinite,
    blamed,
    descend,
    look,
    placed,
    require_images,
    require_weights,
    sum_of,
)


class Masked(nn.Module):
    """A layer, batch norm, and a mask that is infinite on purpose."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.full((2,), -math.inf))


@pytest.mark.parametrize("name", ["linear.weight", "linear.bias", "norm.weight", "norm.running_mean", "norm.running_var"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_and_running_statistics_are_looked_at_and_named(name, value):
    model = Masked()
    model.state_dict()[name].view(-1)[-1] = value
    assert refusal(require_weights, model) == f"the weights {name} are not finite"


def test_masks_are_left_alone_and_several_weights_are_counted():
    model = Masked()
    require_weights(model)
    require_weights(nn.ReLU())
    model.requires_grad_(False)
    for name in ("linear.bias", "norm.running_var", "norm.bias"):
        model.state_dict()[name].fill_(math.inf)
    assert refusal(require_weights, model) == "the weights linear.bias and 2 more are not finite"


def losses_until(step: int, steps: int, first_bad: int) -> None:
    """Look after each step of a pass whose losses are not finite from a step on, until a step."""
    total, fine = torch.zeros(()), torch.tensor(0)
    for at in range(1, step + 1):
        total += math.nan if at >= first_bad else 1.0
        fine += total.isfinite()
        look(at, steps, total, fine, " of the pass", untrained=True)


@pytest.mark.parametrize("first_bad, told_at", [(1, LOOK), (LOOK, LOOK), (LOOK + 1, LOOK + 7), (LOOK + 7, LOOK + 7)])
def test_losses_are_looked_at_now_and_then_and_in_the_end_and_the_first_bad_one_is_told(first_bad, told_at):
    steps = LOOK + 7
    losses_until(told_at - 1, steps, first_bad)
    with pytest.raises(NotFinite, match=f"^step {first_bad} of the pass: the loss is not finite$") as caught:
        losses_until(told_at, steps, first_bad)
    assert caught.value.untrained == (first_bad == 1)


def test_a_sum_is_kept_only_where_it_is_finite():
    assert sum_of(torch.tensor(1.5), 3) == 1.5
    assert refusal(sum_of, torch.tensor(-math.inf), 3) == "step 3: the loss is not finite"


def test_images_are_counted():
    require_images(torch.tensor(0), 5, "logits")
    assert refusal(require_images, torch.tensor(2), 5, "logits") == "the logits of 2 of 5 images are not finite"


@pytest.mark.parametrize("rates", [{"lr": 1e300}, {"lr": 0.1, "weight_decay": 1e300}])
def test_a_rate_that_the_weights_cannot_hold_is_no_error_of_torch(rates):
    weight = nn.Parameter(torch.ones(2))
    weight.sum().backward()
    assert refusal(descend, torch.optim.SGD([weight], **rates)) == "the weights would not be finite"
    descend(torch.optim.SGD([weight], 0.5))
    assert weight.tolist() == [0.5, 0.5]


def test_place_and_remedy_are_added_and_only_to_what_is_not_finite():
    def fails(error: Exception, untrained: bool) -> None:
        with blamed("epoch 2, ", "lower --lr"), placed("step 3: ", untrained):
            raise error

    assert refusal(fails, NotFinite("the loss is not finite"), False) == "epoch 2, step 3: the loss is not finite; lower --lr"
    told = refusal(fails, NotFinite("the loss is not finite"), True)
    assert told.startswith("epoch 2, step 3: the loss is not finite; nothing had been trained before it: check ")
    with pytest.raises(ValueError, match="^other$"):
        fails(ValueError("other"), False)
