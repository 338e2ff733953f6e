"""ShuffleNet with two groups in its form for 32x32 images: a 1x1 stem that keeps the size, three stages that halve it.

Source: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR 2018,
Figure 2 and Table 1 (g = 2). It differs from the paper where the published checkpoints do: the stem, a ReLU after the
depthwise convolution too, and a bottleneck of a quarter of the channels that the convolutions put out, so that in a block
of stride 2 the channels of the shortcut do not count.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mymodels.depthwise import Depthwise
from mymodels.folding import normed

GROUPS = 2
STEM = 24
STAGES = ((200, 4), (400, 8), (800, 4))  # output channels, number of blocks


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Channel i of group g becomes channel i * groups + g: [N, C, H, W] -> the same shape, in channels_last layout.

    torch's channel_shuffle leaves that layout when it computes gradients, and every convolution after it would convert.
    """
    x = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))  # [N, H, W, groups, C / groups]
    return x.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


class Block(nn.Module):
    """ShuffleNet unit: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, and a shortcut around them.

    [N, C, H, W] -> [N, out, H / stride, W / stride]. With stride 1 the shortcut is the input, added; with stride 2 it is
    the average-pooled input, concatenated.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        convolved = out_channels - in_channels if stride == 2 else out_channels
        mid = convolved // 4
        self.groups = 1 if in_channels == STEM else GROUPS  # the stem has too few channels to group (paper, 3.2)
        self.conv1 = nn.Conv2d(in_channels, mid, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = Depthwise(mid, stride)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, convolved, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(convolved)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(normed(self.conv1, self.bn1, x))
        out = shuffle_channels(out, self.groups)
        out = F.relu_(normed(self.conv2, self.bn2, out))
        out = normed(self.conv3, self.bn3, out)
        if self.stride == 1:
            return F.relu_(out + x)
        return F.relu_(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))


def stage(in_channels: int, out_channels: int, n_blocks: int) -> nn.Sequential:
    """Blocks in a row, of which the first halves the size."""
    first = Block(in_channels, out_channels, stride=2)
    return nn.Sequential(first, *[Block(out_channels, out_channels, stride=1) for _ in range(n_blocks - 1)])


class ShuffleNetG2(nn.Module):
    """ShuffleNet v1 with two groups: images [N, C, H, W] -> logits [N, num_classes], features [N, 800]."""

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__()
        (width1, n1), (width2, n2), (width3, n3) = STAGES
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = stage(STEM, width1, n1)
        self.layer2 = stage(width1, width2, n2)
        self.layer3 = stage(width2, width3, n3)
        self.linear = nn.Linear(width3, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu_(normed(self.conv1, self.bn1, x))
        features = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
        return self.linear(features), features
