"""The networks that can be under repair.

To add one, write its file, and name its class in MODELS below. It is called with (num_classes, in_channels=3), and its
forward takes images [N, C, H, W] (float, normalised, contiguous or channels_last, any H and W from 8 up) and returns
`(logits [N, num_classes], features [N, D])`, where features are the input of the last linear layer. No softmax: the losses
and the scores of this project start from logits. The tests of tests/mymodels/test_mymodels.py then cover it by themselves.
Networks of others, which need no such file, come from mymodels/sources.py.
"""
from collections.abc import Callable, Collection

from torch import nn

from hybridrepair.base.errors import UserError
from mymodels import sources
from mymodels.mobilenet import MobileNet
from mymodels.shufflenet import ShuffleNetG2


def resnet18(num_classes: int, in_channels: int = 3) -> nn.Module:
    from mymodels.resnet import ResNet18  # here, because torchvision is slow to import and other networks do without
    return ResNet18(num_classes, in_channels)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "MobileNet": MobileNet,
    "resnet18": resnet18,
    "ShuffleNetG2": ShuffleNetG2,
}


def check(name: str) -> None:
    """UserError if `name` is neither in MODELS nor of the form of another source."""
    if name not in MODELS and not sources.is_foreign(name):
        raise UserError(f"model {name} is unknown; give one of {', '.join(MODELS)}, or {sources.FORMS}")


def create(name: str, num_classes: int, in_channels: int = 3, size: tuple[int, int] = (224, 224),
           feature_layer: str | None = None, keys: Collection[str] | None = None) -> nn.Module:
    """The model called `name` for images of `size` (H, W), freshly initialised. UserError if there is none.

    `feature_layer` names the layer whose input are the features of a network of others; without it that is the last linear one.
    `keys` are those of the weights that it is to load, where these are known.
    """
    check(name)
    if name in MODELS:
        if feature_layer:
            raise UserError(f"--feature_layer is for networks of others: the features of {name} are what its linear layer reads; "
                            "leave it out")
        return MODELS[name](num_classes, in_channels)
    network = sources.build(name, num_classes, in_channels, keys)
    return sources.featured(network, name, num_classes, (in_channels, *size), feature_layer)
