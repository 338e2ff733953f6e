"""ResNet-18 in its ImageNet form, as torchvision builds it: 7x7 stem of stride 2, max-pool, four stages of two basic blocks.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Table 1.
"""
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    """torchvision's resnet18 with its features: images [N, C, H, W] -> logits [N, num_classes], features [N, 512]."""

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        if in_channels != 3:  # torchvision's stem is for RGB; this is the same convolution and initialisation
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features = x.mean((2, 3))
        return self.fc(features), features
