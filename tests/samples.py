"""Small networks and images that tests of trainings share."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.images.augment import Normalise
from hybridrepair.training import passes
from hybridrepair.training.passes import BATCH, Labelled

PLAIN = Normalise([0.0] * 3, [1 / 255] * 3)  # model input = grey levels
NORMALISE = Normalise([0.5] * 3, [0.25] * 3)
SIDE = 8
CENTRE = SIDE // 2  # a pixel that neither flip and crop nor the clean view takes from elsewhere, where an image is flat
CLASSES = 3


class Table(nn.Module):
    """Reads the number of an image off its centre and looks its logits up: whatever is trained shows in its row."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits, self.seen = nn.Parameter(logits.clone()), []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(x.detach())
        number = numbers_of(x)
        return self.logits[number], F.one_hot(number, len(self.logits)).float()


class Small(nn.Module):
    """Convolution, batch norm, linear layer, in float64: rounding by batch size stays out of sight."""

    def __init__(self):
        super().__init__()
        self.norm1, self.conv, self.norm2 = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4, momentum=0.3)
        self.linear = nn.Linear(36, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.norm2(self.conv(self.norm1(x.to(self.linear.weight.dtype))))).flatten(1)
        return self.linear(features), features


class Drawing(Small):
    """With dropout."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(F.dropout(x, 0.3, self.training))


def flat(numbers) -> Tensor:
    """Images uint8 [N, SIDE, SIDE, 3] that show nothing but a number below 256."""
    return torch.as_tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, SIDE, SIDE, 3).contiguous()


def numbers_of(inputs: Tensor) -> Tensor:
    """What images show at their centre, int64 [N]."""
    return inputs[:, 0, CENTRE, CENTRE].round().long()


def noise(n: int, seed: int = 0) -> Labelled:
    """Random images with labels that follow from their brightest channel, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=n)
    images = rng.integers(0, 156, (n, SIDE, SIDE, 3))
    images[np.arange(n), :, :, labels] += 60
    return Labelled(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))


def none() -> Labelled:
    return Labelled(flat([]), torch.empty(0, dtype=torch.int64))


def sgd(model: nn.Module, lr: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def record_steps(monkeypatch) -> list[tuple]:
    """What ssl_pass gives to each step from here on, (inputs, labels, views, known, share, perm, lam_ul), in place of the step.

    Inputs are those of labelled images."""
    taken = []

    def record(model, optimizer, images, labels, known, share, perm, lam_ul, micro_batch) -> Tensor:
        taken.append((images[:BATCH].clone(), labels, images[BATCH:].clone(), known, share, perm, lam_ul))
        return torch.tensor(float(len(taken)))

    monkeypatch.setattr(passes, "ssl_step", record)
    return taken
