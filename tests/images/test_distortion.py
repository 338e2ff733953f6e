"""distortion.py: views as published, drawn per image, whatever the batch."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from hybridrepair.images.augment import Normalise
from hybridrepair.images.distortion import SCALE, TRIES, along, boxes, distort, jitter, luma, pair, resampling, smoothing, turn_hue
from hybridrepair.images.randomness import uniform


def images(n: int, height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8)


def levels(n: int, height: int = 12, width: int = 9) -> torch.Tensor:
    return torch.rand(n, 3, height, width) * 255


def test_a_view_does_not_depend_on_the_batch_it_is_made_in():
    some, index = images(30), torch.arange(100, 130)
    for view in (0, 1):
        whole = distort(some, 7, index, view)
        parts = [distort(some[part], 7, index[part], view) for part in torch.arange(30).split(7)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-3)


def test_views_differ_by_key_image_and_view():
    some, index = images(1).expand(4, -1, -1, -1), torch.arange(4)
    made = [distort(some, key, index + begin, view) for key, begin, view in ((7, 0, 0), (7, 0, 1), (8, 0, 0), (7, 4, 0))]
    made = torch.cat(made).flatten(1)
    assert (torch.cdist(made, made) + 1e9 * torch.eye(len(made)) > 1).all()


@pytest.mark.parametrize("height, width, channels",
                         [(32, 32, 3), (8, 8, 1), (33, 17, 3), (16, 16, 1), (12, 12, 4), (96, 96, 3)])
def test_every_size_and_number_of_channels_gives_finite_levels(height, width, channels):
    some = images(20, height, width, channels)
    for view in (0, 1):
        made = distort(some, 1, torch.arange(20), view)
        assert made.shape == (20, channels, height, width) and made.dtype == torch.float32
        assert made.isfinite().all() and made.min() >= -0.01 and made.max() <= 255.01
    first, second = pair(some, Normalise([0.5] * channels, [0.25] * channels), 1, torch.arange(20))
    torch.testing.assert_close(second, (made / 255 - 0.5) / 0.25, rtol=1e-4, atol=1e-4)
    assert first.is_contiguous(memory_format=torch.channels_last) and first.shape == made.shape


@pytest.mark.parametrize("height, width", [(32, 32), (33, 17), (8, 40)])
def test_crops_lie_in_the_image_and_have_the_published_area_and_ratio(height, width):
    draw = uniform(1, torch.arange(4000)[:, None], torch.arange(2 * TRIES + 2))
    top, left, tall, wide = boxes(draw, height, width).unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()
    if height == width:  # otherwise few candidates fit
        area, ratio = tall * wide / (height * width), wide / tall
        assert SCALE - 0.03 < area.min() < 0.22 and area.max() > 0.95
        assert 0.68 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.48
        assert ratio.log().mean().abs() < 0.01
        assert top[tall == 20].unique().tolist() == list(range(13))  # every place


def test_crops_have_the_area_of_torchvisions():
    draw = uniform(2, torch.arange(3000)[:, None], torch.arange(2 * TRIES + 2))
    ours = boxes(draw, 32, 32)[:, 2:].prod(1).double()
    image = torch.empty(3, 32, 32)
    theirs = [v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(32, (0.2, 1.0)), [image]) for _ in range(3000)]
    theirs = torch.tensor([crop["height"] * crop["width"] for crop in theirs], dtype=torch.float64)
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), rel=0.03)
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


def test_a_stretched_crop_is_torchs_bilinear_one_and_a_mirrored_one_its_mirror_image():
    some = levels(1)
    expected = F.interpolate(some[:, :, 2:9, 3:8], size=(12, 9), mode="bilinear", align_corners=False)
    one = torch.ones(1, dtype=torch.int64)
    for mirror in (False, True):
        columns = resampling(3 * one, 5 * one, torch.tensor([mirror]), 9)
        cropped = along(resampling(2 * one, 7 * one, torch.tensor([False]), 12), some, columns)
        torch.testing.assert_close(cropped, expected.flip(3) if mirror else expected, rtol=0, atol=1e-3)


def test_the_whole_image_as_crop_is_the_image():
    some, zero = levels(2), torch.zeros(2, dtype=torch.int64)
    same = along(resampling(zero, zero + 12, zero > 0, 12), some, resampling(zero, zero + 9, zero > 0, 9))
    assert same.equal(some)


def test_blur_is_a_gaussian_that_keeps_flat_images_and_leaves_alone_at_sigma_0():
    matrix = smoothing(torch.tensor([0.0, 1.0, 2.0]), 21)
    assert matrix[0].equal(torch.eye(21))
    expected = np.exp(-0.5 * (np.arange(21) - 10) ** 2 / np.array([[1.0], [4.0]]))
    np.testing.assert_allclose(matrix[1:, 10], expected / expected.sum(1, keepdims=True), atol=1e-6)
    torch.testing.assert_close(matrix.sum(2), torch.ones(3, 21))


def test_hue_is_torchvisions():
    some = levels(5)
    some[0] = some[0, :1]  # grey stays grey
    for turn in (-0.1, 0.0, 0.05, 0.5):
        expected = v2.functional.adjust_hue(some / 255, turn) * 255
        torch.testing.assert_close(turn_hue(some, torch.full((5,), turn)), expected, rtol=0, atol=1e-2)


def test_jitter_is_torchvisions_one_after_the_other():
    some, factor = levels(3) / 255, torch.tensor([1.3, 0.7, 1.15])
    expected = []
    for image, b, c, s, h in zip(some, factor, factor.flip(0), factor, [0.1, -0.1, 0.05]):
        image = v2.functional.adjust_contrast(v2.functional.adjust_brightness(image, b.item()), c.item())
        expected.append(v2.functional.adjust_hue(v2.functional.adjust_saturation(image, s.item()), h))
    made = jitter(some * 255, factor, factor.flip(0), factor, torch.tensor([0.1, -0.1, 0.05]))
    torch.testing.assert_close(made / 255, torch.stack(expected), rtol=0, atol=2e-3)  # it has 0.2989 in its luma


def test_luma_of_other_than_three_channels_is_their_mean():
    torch.testing.assert_close(luma(torch.tensor([100., 200., 50.]).view(1, 3, 1, 1)).item(), 153.0)
    assert luma(torch.tensor([100., 200.]).view(1, 2, 1, 1)).item() == 150


def test_steps_happen_as_often_as_published():
    n = 4000
    # crop, flip and blur leave it as it is; no jitter clips it, which would change its hue of 10 degrees
    flat = torch.tensor([150, 100, 90], dtype=torch.uint8).expand(n, 8, 8, 3)
    first = distort(flat, 5, torch.arange(n), 0)[:, :, 0, 0]
    tolerance = 4 * (0.25 / n) ** 0.5
    grey = (first.amax(1) - first.amin(1)) < 1e-3
    assert grey.double().mean() == pytest.approx(0.2, abs=tolerance)
    same = (first - flat[:, 0, 0].float()).abs().amax(1) < 1e-2
    assert same[~grey].double().mean() == pytest.approx(0.2, abs=tolerance)  # colours left alone
    assert (first[~grey].argmax(1) == 0).all()  # within 36 degrees of turn red stays largest, and nothing is solarised
    white = torch.full((n, 8, 8, 3), 255, dtype=torch.uint8)  # jitter leaves it above 150, so that solarising shows
    dark = [(distort(white, 5, torch.arange(n), view).amax((1, 2, 3)) < 128).double().mean() for view in (0, 1)]
    assert dark == [0, pytest.approx(0.2, abs=tolerance)]


def test_flip_happens_half_of_the_time():
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8)[None, None, :, None].expand(2000, 32, -1, 3)
    made = distort(ramp, 5, torch.arange(2000), 0)
    assert (made[:, 0, 0, 0] > made[:, 0, 0, -1]).double().mean() == pytest.approx(0.5, abs=0.05)


def test_blur_of_view_0_is_larger_than_that_of_view_1():
    checks = ((torch.arange(224)[:, None] + torch.arange(224)) // 2 % 2 * 255).to(torch.uint8)
    checks = checks[None, :, :, None].expand(30, -1, -1, 1)
    rough = [(distort(checks, 5, torch.arange(30), view).diff(dim=3)).abs().mean() for view in (0, 1)]
    assert rough[0] < 0.8 * rough[1]
