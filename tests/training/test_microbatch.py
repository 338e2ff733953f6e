"""microbatch.py and the passes that use it: a batch in parts is the same step, but for what batch norm sees at a time."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base.device import images_at_once
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.augment import Normalise, views_of
from hybridrepair.training.finetune import Recipe, finetune
from hybridrepair.training.microbatch import counted_once, parts_of, spaced_parts_of, write_views
from hybridrepair.training.passes import BATCH, STEP, Labelled, Unlabelled, micro_batch_of, ssl_step, supervised_pass

NORMALISE = Normalise([0.5] * 3, [0.25] * 3)
CLASSES, SIDE = 3, 8


class Plain(nn.Module):
    """Without batch norm, in float64; it remembers how many images came at a time."""

    def __init__(self, norm: bool = False):
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.conv, self.linear, self.seen = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(36, CLASSES), []
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(len(x))
        features = F.relu(self.conv(self.norm(x.double()))).flatten(1)
        return self.linear(features), features


def noise(n: int, seed: int = 0) -> Labelled:
    rng = np.random.default_rng(seed)
    return Labelled(torch.from_numpy(rng.integers(0, 256, (n, SIDE, SIDE, 3)).astype(np.uint8)),
                    torch.from_numpy(rng.integers(CLASSES, size=n)))


@pytest.mark.parametrize("rows, micro_batch, parts", [
    (640, 640, 1), (641, 640, 2), (640, 13, 50), (64, 13, 5), (3, 2, 1), (5, 2, 2), (1, 13, 1), (64, 1, 32)])
def test_parts_have_at_most_the_rows_asked_for_and_two_at_least(rows, micro_batch, parts):
    assert parts_of(rows, micro_batch) == parts


@pytest.mark.parametrize("rows", [STEP, STEP - BATCH])  # trained on, and guessed
def test_a_part_of_rows_at_equal_distances_holds_as_many_images_as_it_has_room_for(rows):
    assert spaced_parts_of(rows, images_at_once(STEP, 32, 32)) == 1
    for side in range(33, 513):
        size = images_at_once(STEP, side, side)
        parts = spaced_parts_of(rows, size)
        assert parts <= rows // 2
        for part in range(parts):
            held = range(part, rows, parts)
            images = {row % BATCH for row in held}
            assert len(images) == min(len(held), BATCH) and 2 <= len(held) <= max(size, 3), side


def test_the_parts_of_an_ssl_step_hold_different_images():
    """A step of 64 images at 64 pixels, of which 10 parts would hold 32 images each, twice."""
    images = (torch.arange(640) % BATCH).view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).float()
    model, seen = Plain(), []
    model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0][:, 0, 0, 0]))
    ssl_step(model, torch.optim.SGD(model.parameters(), 0.1), images, torch.zeros(BATCH, dtype=torch.int64),
             torch.full((BATCH,), UNKNOWN), 1.0, torch.arange(640), 100.0, 64)
    assert len(seen) == 9 + 11 and all(len(part.unique()) == len(part) for part in seen)


@pytest.mark.parametrize("side, images", [(8, 640), (32, 640), (33, 601), (64, 160), (224, 13), (4096, 1)])
def test_as_many_images_go_at_once_as_take_the_memory_of_a_step_at_32_pixels(side, images):
    assert micro_batch_of(None, side, side) == images_at_once(STEP, side, side) == images
    assert micro_batch_of(7, side, side) == 7


@pytest.mark.parametrize("micro_batch", [3, 13, 64, 639])
def test_an_ssl_step_in_parts_is_the_same_step(micro_batch):
    """Also where parts hold no labelled image at all."""
    whole = Plain()
    parted, images = copy.deepcopy(whole), torch.randn(640, 3, SIDE, SIDE)
    known = torch.where(torch.arange(64) % 3 == 0, torch.arange(64) % CLASSES, UNKNOWN)
    given = images, torch.arange(64) % CLASSES, known, 0.7, torch.randperm(640), 100.0
    losses = [ssl_step(model, torch.optim.SGD(model.parameters(), 0.1), *given, size).item()
              for model, size in ((whole, 640), (parted, micro_batch))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(whole.parameters(), parted.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert whole.seen == [576, 640] and max(parted.seen) <= micro_batch and sum(parted.seen) == 576 + 640


def test_a_supervised_pass_in_parts_is_the_same_pass():
    whole, train, chosen = Plain(), noise(90), noise(20, seed=1)
    parted = copy.deepcopy(whole)
    losses = [supervised_pass(model, torch.optim.SGD(model.parameters(), 0.1), NORMALISE, train, torch.arange(90), chosen, 0.1, 1, 1,
                              micro_batch=size)[0].item() for model, size in ((whole, None), (parted, 10))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and max(parted.seen) <= 10 and whole.seen == [64, 46]
    for one, other in zip(whole.parameters(), parted.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_running_statistics_take_in_the_parts_of_a_batch_with_the_weight_of_the_batch():
    norm, images = nn.BatchNorm2d(2), torch.full((4, 2, 1, 1), 5.0)
    with counted_once(norm, 4):
        for _ in range(4):
            norm(images)
    assert norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean, torch.full((2,), 0.1 * 5.0))
    with counted_once(norm, 1):
        assert norm.momentum == 0.1
    averaging = nn.BatchNorm2d(2, momentum=None)
    with counted_once(averaging, 4):
        assert averaging.momentum is None


@pytest.mark.parametrize("micro_batch", [9, 20, 63, 640])
def test_views_that_are_written_in_parts_are_those_made_at_once(micro_batch):
    images, index = noise(7).images, torch.arange(100, 107)
    out = torch.empty(9 * 7, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    write_views(out, images, NORMALISE, 5, index, micro_batch)
    assert out.equal(views_of(images, NORMALISE, 5, index))


@pytest.mark.parametrize("estimated", [False, True])
def test_fine_tuning_never_sees_more_images_at_a_time_than_asked_for(estimated):
    model, pool = Plain(norm=True), noise(70, seed=2)
    recipe = Recipe(1, batch_size=11, micro_batch=11, estimated_statistics=estimated)
    list(finetune(model, NORMALISE, noise(70), recipe, noise(5, seed=3), pool=pool.images, known=pool.labels,
                  unlabelled=Unlabelled(np.ones(70))))
    assert 9 < max(model.seen) <= 12  # a last image joins its neighbours
