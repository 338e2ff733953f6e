"""MoCo v3 with a ResNet: contrastive learning of features from images without labels, and its checkpoints.

    extractor = moco.load("check_point/cifar10/ckpt_pretrained_mocov3/checkpoint.pth.tar")
    features = extractor(images)                 # [N, C, H, W] -> [N, dim], of length 1
    untrained = MoCo("resnet18", dim=64).extractor()

Files have the published layout: a dict whose entry `state_dict` holds module.base_encoder.*, module.momentum_encoder.* and
module.predictor.*, so that published files can be read, and ours by the published code.
Source: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, in its ResNet form.
"""
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError
from hybridrepair.base.processes import ALL, Share

ARCHITECTURES = {"resnet18": (BasicBlock, (2, 2, 2, 2)), "resnet50": (Bottleneck, (3, 4, 6, 3))}  # block, blocks per stage
PREFIX = "module."  # of DistributedDataParallel, which the published code trains with
ADVICE = "give a checkpoint of MoCo v3 with a ResNet, or train one with pretrain_moco.py"


def mlp(widths: Sequence[int], last_norm: bool) -> nn.Sequential:
    """Linear layers [N, widths[0]] -> [N, widths[-1]] without bias; batch norm and ReLU between, last_norm at the end."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-2], *([nn.BatchNorm1d(widths[-1], affine=False)] if last_norm else []))


def resnet(block: type, blocks: Sequence[int], head: nn.Module, in_channels: int = 3, small_stem: bool = False) -> ResNet:
    """torchvision's ResNet with `head` in place of its last layer: images [N, in_channels, H, W] -> what the head gives.

    The small stem is a 3x3 convolution that keeps the size, without max-pool, in place of 7x7, stride 2 and max-pool.
    """
    model = ResNet(block, list(blocks), zero_init_residual=True)
    size, stride = (3, 1) if small_stem else (7, 2)
    model.conv1 = nn.Conv2d(in_channels, 64, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small_stem:
        model.maxpool = nn.Identity()
    model.fc = head
    return model


class Extractor(nn.Module):
    """Features of a trained MoCo v3: images float [N, C, H, W] -> normalize(predictor(base_encoder(x))), float [N, dim]."""

    def __init__(self, base_encoder: ResNet, predictor: nn.Sequential):
        super().__init__()
        self.base_encoder, self.predictor = base_encoder, predictor

    def forward(self, x: Tensor) -> Tensor:
        channels = self.base_encoder.conv1.in_channels
        if x.shape[1] != channels:
            raise UserError(f"the feature extractor reads images of {channels} channels, and these have {x.shape[1]}; train "
                            "one on this dataset with pretrain_moco.py")
        return F.normalize(self.predictor(self.base_encoder(x)), dim=1)


class MoCo(nn.Module):
    """Base encoder and predictor, which learn, and the momentum encoder, which follows the base encoder."""

    def __init__(self, arch: str = "resnet50", dim: int = 64, mlp_dim: int = 4096, temperature: float = 1.0,
                 small_stem: bool = False, in_channels: int = 3):
        super().__init__()
        block, blocks = ARCHITECTURES[arch]
        self.temperature = temperature
        projector = mlp((512 * block.expansion, mlp_dim, dim), last_norm=True)
        self.base_encoder = resnet(block, blocks, projector, in_channels, small_stem)
        self.momentum_encoder = copy.deepcopy(self.base_encoder).requires_grad_(False)
        self.predictor = mlp((dim, mlp_dim, dim), last_norm=False)

    def extractor(self) -> Extractor:
        """The feature extractor as it is now: it shares the weights, and whether it trains."""
        return Extractor(self.base_encoder, self.predictor)

    def contrastive_loss(self, q: Tensor, k: Tensor, rows: slice = ALL) -> Tensor:
        """InfoNCE of queries and keys, both [N, dim]: row i of k is the positive of row i of q, the other rows negatives.

        q may be some `rows` of the queries alone.
        Scaled by 2 T, as published, so that the temperature T leaves the size of the gradient alone.
        """
        logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / self.temperature
        return F.cross_entropy(logits, torch.arange(len(k), device=q.device)[rows]) * (2 * self.temperature)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the weights of the momentum encoder towards the base encoder's: theirs * momentum + its * (1 - momentum)."""
        for slow, fast in zip(self.momentum_encoder.parameters(), self.base_encoder.parameters()):
            slow.mul_(momentum).add_(fast, alpha=1 - momentum)

    def forward(self, x1: Tensor, x2: Tensor, momentum: float, share: Share | None = None) -> Tensor:
        """The symmetric loss of two views of the same images, each [N, C, H, W]; each view has batch statistics of its own.

        The images may be a share of more, whose keys are gathered from the processes that have them.
        """
        share = share or Share(len(x1), ALL, 1)
        q1, q2 = self.predictor(self.base_encoder(x1)), self.predictor(self.base_encoder(x2))
        with torch.no_grad():
            self.follow(momentum)
            k1, k2 = share.joined(self.momentum_encoder(x1)), share.joined(self.momentum_encoder(x2))
        return self.contrastive_loss(q1, k2, share.rows) + self.contrastive_loss(q2, k1, share.rows)


def published(model: MoCo) -> dict[str, Tensor]:
    """The state_dict of a model under the published names, on the CPU."""
    return {PREFIX + name: value for name, value in checkpoint.weights_of(model).items()}


def _mlp_of(weights: dict[str, Tensor], prefix: str) -> nn.Sequential:
    """The MLP whose weights start with `prefix`, of any widths and depth."""
    linear = {int(name.removeprefix(prefix).split(".")[0]): value.shape for name, value in weights.items()
              if name.startswith(prefix) and value.dim() == 2}
    widths = [linear[min(linear)][1], *(linear[place][0] for place in sorted(linear))]
    return mlp(widths, last_norm=f"{prefix}{max(linear) + 1}.running_mean" in weights)


def _extractor_of(weights: dict[str, Tensor]) -> Extractor:
    """The extractor that weights are for, told by their names and shapes; on the meta device, so that no number is drawn."""
    stages = [{name.split(".")[2] for name in weights if name.startswith(f"base_encoder.layer{i}.")} for i in range(1, 5)]
    _, channels, size, _ = weights["base_encoder.conv1.weight"].shape
    if size not in (3, 7) or not all(stages):
        raise ValueError("no ResNet")
    with torch.device("meta"):
        return Extractor(resnet(Bottleneck if "base_encoder.layer1.0.conv3.weight" in weights else BasicBlock,
                                [len(stage) for stage in stages], _mlp_of(weights, "base_encoder.fc."), channels, size == 3),
                         _mlp_of(weights, "predictor."))


def load(path: Path | str) -> Extractor:
    """The feature extractor in a checkpoint of MoCo v3 with a ResNet, in eval mode, on the CPU, float32.

    Depth, stem, channels and the widths of the MLPs follow from the tensors. UserError if it is missing, damaged or foreign.
    """
    weights = checkpoint.load(path).get("state_dict")
    if not isinstance(weights, dict) or not all(isinstance(name, str) and isinstance(value, Tensor)
                                                for name, value in weights.items()):
        raise UserError(f"checkpoint {path} has no state_dict in its entry 'state_dict'; {ADVICE}")
    weights = {name.removeprefix(PREFIX): value for name, value in weights.items()}
    weights = {name: value for name, value in weights.items() if name.startswith(("base_encoder.", "predictor."))}
    try:
        model = _extractor_of(weights)
    except (KeyError, ValueError, IndexError) as error:  # what the look-ups raise where a name or a shape is another
        raise UserError(f"checkpoint {path} does not hold the base_encoder and predictor of a ResNet; {ADVICE}") from error
    expected = model.state_dict()
    wrong = ([f"{name} is missing" for name in expected if name not in weights]
             + [f"{name} is foreign" for name in weights if name not in expected]
             + [f"{name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}" for name in expected
                if name in weights and weights[name].shape != expected[name].shape]
             + [f"{name} {why}" for name, value in weights.items() if (why := checkpoint.unusable(value))])
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"checkpoint {path} does not fit a ResNet of MoCo v3: {wrong[0]}{more}; {ADVICE}")
    model.load_state_dict(weights, assign=True)
    return model.float().requires_grad_(False).eval()
