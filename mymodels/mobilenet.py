"""MobileNet in its form for 32x32 images: the stem keeps the size, and four depthwise convolutions halve it.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, Table 1.
"""
import torch.nn.functional as F
from torch import Tensor, nn

from mymodels.depthwise import Depthwise
from mymodels.folding import normed
from mymodels.pointwise import Pointwise

# output channels and stride of the 13 blocks
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class Block(nn.Module):
    """Depthwise-separable convolution, each half with batch norm and ReLU: [N, C, H, W] -> [N, out, H / stride, W / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = Depthwise(in_channels, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = Pointwise(in_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(normed(self.conv1, self.bn1, x))
        return F.relu_(normed(self.conv2, self.bn2, x))


class MobileNet(nn.Module):
    """MobileNet v1 of width 1: images [N, C, H, W] -> logits [N, num_classes], features [N, 1024]."""

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        widths = [32] + [width for width, _ in BLOCKS]
        self.layers = nn.Sequential(*[Block(before, after, stride) for before, (after, stride) in zip(widths, BLOCKS)])
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu_(normed(self.conv1, self.bn1, x))
        features = self.layers(x).mean((2, 3))
        return self.linear(features), features
