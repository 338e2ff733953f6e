"""The networks that can be under repair.

To add one, write its file, and name its class in MODELS below. It is called with (num_classes, in_channels=3), and its
forward takes images [N, C, H, W] (float, normalised, contiguous or channels_last, any H and W from 8 up) and returns
`(logits [N, num_classes], features [N, D])`, where features are the input of the last linear layer. No softmax: the losses
and the scores of this project start from logits. The tests of tests/mymodels/test_mymodels.py then cover it by themselves.
"""
from collections.abc import Callable

from torch import nn

from hybridrepair.base.errors import UserError
from mymodels.mobilenet import MobileNet
from mymodels.resnet import resnet18
from mymodels.shufflenet import ShuffleNetG2

MODELS: dict[str, Callable[..., nn.Module]] = {
    "MobileNet": MobileNet,
    "resnet18": resnet18,
    "ShuffleNetG2": ShuffleNetG2,
}


def create(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The model called `name`, freshly initialised. UserError if there is none."""
    if name not in MODELS:
        raise UserError(f"model {name} is unknown; give one of {', '.join(MODELS)}")
    return MODELS[name](num_classes, in_channels)
