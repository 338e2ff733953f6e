"""Depthwise 3x3 convolution, as a layer that trains fast on small maps too."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 3  # pixels; below this side oneDNN computes the gradient of the weight 10 to 100 times slower (torch 2.14, AVX2)


class Depthwise(nn.Conv2d):
    """3x3 convolution of each channel by itself, without bias: [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, channels: int, stride: int):
        super().__init__(channels, channels, 3, stride, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if x.is_cuda or min(height, width) >= LEAST or not torch.is_grad_enabled():
            return super().forward(x)
        # black pixels beyond the lower right border are what the convolution sees there anyway
        padded = F.pad(x, (0, max(LEAST - width, 0), 0, max(LEAST - height, 0)))
        rows, columns = (-(-size // self.stride[0]) for size in (height, width))
        return super().forward(padded)[..., :rows, :columns].contiguous(memory_format=torch.channels_last)
