"""Networks of others under one contract: torchvision:NAME, timm:NAME or FILE.py:FUNCTION, with features found in what they compute.

Whoever names a function in a file runs its code. A state_dict holds weights alone: what else a network was built with is that of its
source. torchvision builds googlenet and inception_v3 with transform_input=True for weights of its own and with False for others, and no
state_dict tells which; where its weights were fine-tuned, give a FILE.py:FUNCTION that builds the network as it was trained.
"""
import difflib
import inspect
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hybridrepair.base.builders import builder, is_builder
from hybridrepair.base.errors import UserError, reason_of

TORCHVISION, TIMM = "torchvision", "timm"
FORMS = f"{TORCHVISION}:NAME, {TIMM}:NAME, or FILE.py:FUNCTION"


def is_foreign(name: str) -> bool:
    """Whether `name` is of one of the FORMS."""
    return is_builder(name) or name.split(":")[0] in (TORCHVISION, TIMM) and ":" in name


def file_name(name: str) -> str:
    """The name of a model in the names of files: torchvision_resnet50 for torchvision:resnet50, net_build for models/net.py:build."""
    if is_builder(name):
        file, _, function = name.rpartition(":")
        name = f"{Path(file).stem}_{function}"
    return re.sub(r"[^\w.+-]+", "_", name)


def torchvision_names() -> list[str]:
    """The classifiers of torchvision."""
    from torchvision import models  # here, because it is slow to import
    return models.list_models(module=models)


def build(name: str, num_classes: int, in_channels: int, keys: Collection[str] | None = None) -> nn.Module:
    """The network that `name` means, as its source gives it, with random weights. UserError if there is none.

    `keys` are those of the state_dict that it is to hold: whether torchvision's auxiliary outputs are among them differs.
    """
    if is_builder(name):
        return _of_file(name, num_classes)
    source, _, model = name.partition(":")
    if source == TORCHVISION:
        from torchvision import models  # here, because it is slow to import
        if model not in torchvision_names():
            raise UserError(f"torchvision has no classifier {model!r}; {_one_of(model, torchvision_names())}")
        more = {}
        if model in ("googlenet", "inception_v3"):
            more = {"init_weights": True,  # as they do anyway, after a warning
                    "aux_logits": keys is None or any("aux" in key.lower() for key in keys)}
        return models.get_model(model, weights=None, num_classes=num_classes, **more)
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{name} needs the package timm ({reason_of(error)}); pip install timm, or give another "
                        "--model2test_arch") from error
    if not timm.is_model(model):
        raise UserError(f"timm has no model {model!r}; {_one_of(model, timm.list_models())}")
    return timm.create_model(model, pretrained=False, num_classes=num_classes, in_chans=in_channels)


def _of_file(name: str, num_classes: int) -> nn.Module:
    """What the function in a file returns, called with num_classes if it takes an argument. UserError if that is no network."""
    function = builder(name)
    try:
        takes = len(inspect.signature(function).parameters)
        model = function(num_classes) if takes else function()
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{name} fails ({reason_of(error)}); it is called with the number of classes if it takes an argument, and "
                        "must return the network") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returns a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _one_of(name: str, known: list[str]) -> str:
    """The end of a sentence that offers the names most like `name`."""
    return f"give one of {', '.join(difflib.get_close_matches(name, known, 5, 0.3) or known[:5])} ... ({len(known)} in all)"


def logits_of(outputs: Any) -> Tensor:
    """The main logits among what a network returns: a tensor, something with logits, or a tuple with auxiliary outputs behind."""
    if isinstance(outputs, dict) and "logits" in outputs:
        return outputs["logits"]
    outputs = getattr(outputs, "logits", outputs)
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def is_head(layer: nn.Module) -> bool:
    """Whether a layer is linear in the channels of its input: what classifies, if it is the last."""
    return isinstance(layer, nn.Linear) or isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1


def outputs_of(layer: nn.Module) -> int:
    """How many numbers a layer of those that `is_head` knows gives for each image."""
    return layer.out_features if isinstance(layer, nn.Linear) else cast(nn.Conv2d, layer).out_channels


def pooled(x: Tensor, layer: nn.Module) -> Tensor:
    """The mean over places of what a layer reads: [N, D], [N, places, D] or [N, D, H, W], before linear layers [N, H, W, D]."""
    if x.dim() == 4 and not isinstance(layer, nn.Linear):
        return x.mean((2, 3))
    return x.flatten(1, -2).mean(1) if x.dim() > 2 else x


class Featured(nn.Module):
    """A network under this project's contract: images [N, C, H, W] -> logits [N, num_classes], features [N, D].

    Features are the input of its layer `layer`. Its state_dict is that of the network.
    """

    def __init__(self, network: nn.Module, layer: str):
        super().__init__()
        self.network, self.layer = network, layer
        self.seen: Tensor | None = None
        # a method, so that a deep copy keeps what its own layer sees
        network.get_submodule(layer).register_forward_pre_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple) -> None:
        self.seen = pooled(inputs[0], layer)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(self.network(x))
        features, self.seen = self.seen, None
        assert features is not None  # `featured` has seen the layer at work
        return logits, features

    def state_dict(self, *args, **kwargs):  # type: ignore[override]  # of torch's overloads this is the body
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict, *args, **kwargs):
        return self.network.load_state_dict(state_dict, *args, **kwargs)


def featured(network: nn.Module, name: str, num_classes: int, shape: tuple[int, int, int], layer: str | None = None) -> Featured:
    """`network` with the features of `layer`, or of the last layer that gives the classes, or else the last linear one.

    One that gives the classes is linear or a 1x1 convolution, with num_classes outputs. It is found by a forward pass of two black
    images of `shape` (C, H, W), which leaves the network as it was. UserError if the network cannot take such images or be trained on
    them, does not give [N, num_classes], or has no such layer.
    """
    read: dict[str, Any] = {}  # what each layer was given, in the order of execution
    names = {module: each for each, module in network.named_modules()}

    def note(module: nn.Module, inputs: tuple) -> None:
        read.pop(names[module], None)
        read[names[module]] = inputs[0] if inputs else None

    hooks = [module.register_forward_pre_hook(note) for module in names]
    training, buffers = network.training, {each: value.clone() for each, value in network.named_buffers()}
    images = torch.zeros(2, *shape)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = logits_of(network.eval()(images))
            for hook in hooks:
                hook.remove()
            logits_of(network.train()(images))  # auxiliary outputs may need larger images
            for each, value in buffers.items():
                network.get_buffer(each).copy_(value)
    except Exception as error:  # a network raises anything where it cannot take its input
        raise UserError(f"{name} cannot take images of {' x '.join(map(str, shape))} (channels, height, width; {reason_of(error)}); "
                        "convert the dataset to the size that the network is made for, or build one for this size") from error
    network.train(training)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"{name} gives {found} for two images, no logits [2, {num_classes}]; build a classifier")
    if logits.shape[1] != num_classes:
        raise UserError(f"{name} gives {logits.shape[1]} classes, but the dataset has {num_classes}; build it for {num_classes}")
    modules = dict(network.named_modules())
    heads = [each for each in read if is_head(modules[each]) and outputs_of(modules[each]) == num_classes]
    others = [each for each in read if isinstance(modules[each], nn.Linear) and each not in heads]
    candidates = others + heads  # each in the order of execution
    if layer is None:
        if not candidates:
            raise UserError(f"no linear layer was found in {name}; name the one whose input are the features by --feature_layer")
        layer = candidates[-1]
    if not isinstance(read.get(layer), Tensor) or read[layer].dim() < 2:
        offered = [*difflib.get_close_matches(layer, [each for each in read if each], 3), *candidates[:-4:-1]]
        why = "is not called with a tensor" if layer in modules else "does not exist"
        raise UserError(f"--feature_layer {layer} {why} in {name}; give, for example, {', '.join(dict.fromkeys(offered))}")
    return Featured(network, layer)
