"""augment.py beside PIL: every operation, the way AugMix puts them together, flip and crop, and normalisation."""
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hybridrepair.images import augment
from hybridrepair.images.augment import N_TABLE, OPERATIONS, Normalise, augmix, flip_and_crop, views_of
from hybridrepair.images.randomness import key

SHAPES = [(32, 32, 3), (8, 8, 1), (12, 20, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pictures(height: int, width: int, channels: int) -> np.ndarray:
    """Six images uint8 [6, H, W, C]: noise, dim noise, few levels, a slope, shapes, and one flat colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    slope = (x * 151 + y * 97) / (width + height)
    shapes = 220 * ((x - width / 3) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2) + 30 * (x > width / 2)
    noise = rng.integers(0, 256, (3, height, width, channels))
    drawn = np.stack([slope, shapes, np.full_like(x, 93)])[..., None] + 11 * np.arange(channels)
    images = np.concatenate([noise[:1], 40 + noise[1:2] // 3, noise[2:] // 60 * 60, drawn])
    return images.clip(0, 255).astype(np.uint8)


def to_levels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def to_images(levels: Tensor) -> np.ndarray:
    assert (levels == levels.round()).all() and 0 <= levels.min() and levels.max() <= 255
    return levels.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def by_pil(image: np.ndarray, operation: str, level: float, sign: int) -> np.ndarray:
    """An operation of AugMix as its published code calls PIL: image uint8 [H, W, C] of 1 or 3 channels."""
    height, width, channels = image.shape
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)

    def affine(*coefficients: float) -> Image.Image:
        return picture.transform(picture.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR)

    result = {
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "posterize": lambda: ImageOps.posterize(picture, 4 - int(level * 4 / 10)),
        "solarize": lambda: ImageOps.solarize(picture, 256 - int(level * 256 / 10)),
        "rotate": lambda: picture.rotate(sign * int(level * 30 / 10), resample=Image.Resampling.BILINEAR),
        "shear_x": lambda: affine(1, sign * level * 0.3 / 10, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, sign * level * 0.3 / 10, 1, 0),
        "translate_x": lambda: affine(1, 0, sign * int(level * width / 3 / 10), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, sign * int(level * height / 3 / 10)),
    }[operation]()
    return np.asarray(result).reshape(image.shape)


def by_us(images: np.ndarray, operation: str, level: float, sign: int) -> np.ndarray:
    levels, n = to_levels(images), len(images)
    number, level = torch.full((n,), OPERATIONS.index(operation)), torch.full((n,), level, dtype=torch.float64)
    if OPERATIONS.index(operation) < N_TABLE:
        return to_images(augment.look_up(levels, augment.tables(levels, number, level)))
    sign = torch.full((n,), sign, dtype=torch.float64)
    return to_images(augment.warp(levels, augment.affine(number, level, sign, *images.shape[1:3])))


def assert_same_pixels(ours: np.ndarray, theirs: np.ndarray, equal: float = 0.99, close: float = 0.999) -> None:
    """Geometric operations: where float32 rounds otherwise, a pixel may be one grey level off."""
    gap = np.abs(ours.astype(int) - theirs)
    assert (gap == 0).mean() >= equal and (gap <= 1).mean() >= close, f"{(gap > 0).mean():%} off, by up to {gap.max()}"


# operations

@every_shape
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_equal_those_of_pil(operation, shape):
    images = pictures(*shape)
    for level in np.linspace(0.1, 3, 9):
        for sign in (-1, 1):
            theirs = np.stack([by_pil(image, operation, level, sign) for image in images])
            ours = by_us(images, operation, level, sign)
            if OPERATIONS.index(operation) < N_TABLE:
                assert (ours == theirs).all()
            else:
                assert_same_pixels(ours, theirs)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_keeps_any_number_of_bits(bits):
    levels = np.arange(256, dtype=np.uint8)[None]
    table = augment.posterize_table(torch.tensor([bits]))
    assert (table[0].numpy() == np.asarray(ImageOps.posterize(Image.fromarray(levels), bits))).all()


def test_table_operations_equal_the_recorded_ones(oracle):
    with np.load(oracle / "h_augmix_ops.npz", allow_pickle=False) as arrays:
        recorded = {name: arrays[name] for name in arrays}
    levels = to_levels(recorded["images"])
    counts = augment.histogram(levels)

    def output(table: Tensor) -> np.ndarray:
        return to_images(augment.look_up(levels, table))

    assert (output(augment.autocontrast_table(counts)) == recorded["autocontrast"]).all()
    assert (output(augment.equalize_table(counts)) == recorded["equalize"]).all()
    for bits, expected in zip(recorded["posterize_bits"], recorded["posterize"]):
        assert (output(augment.posterize_table(torch.full((5,), bits))) == expected).all()
    for threshold, expected in zip(recorded["solarize_thr"], recorded["solarize"]):
        assert (output(augment.solarize_table(torch.full((5,), threshold))) == expected).all()


def test_geometric_operations_equal_the_recorded_ones(oracle):
    with np.load(oracle / "h_augmix_ops.npz", allow_pickle=False) as arrays:
        recorded = {name: arrays[name] for name in arrays}
    levels = to_levels(recorded["images"])
    matrices = {"rotate": augment.rotation(torch.from_numpy(recorded["rotate_deg"]).double(), 32, 32)}
    for name, row, column in (("shear_x", 0, 1), ("shear_y", 1, 0), ("translate_x", 0, 2), ("translate_y", 1, 2)):
        amounts = torch.from_numpy(recorded[f"{name.split('_')[0]}_level"])
        matrices[name] = torch.eye(2, 3, dtype=torch.float64).repeat(len(amounts), 1, 1)
        matrices[name][:, row, column] = amounts.double()
    for name in matrices:
        for matrix, expected in zip(matrices[name], recorded[name], strict=True):
            # at a shear of 0.2, beyond AugMix's, some sources lie on the border of the image to the last bit
            ours = to_images(augment.warp(levels, matrix.expand(5, 2, 3)))
            assert_same_pixels(ours, expected, equal=0.97, close=0.99)


def test_levels_are_spread_as_recorded(oracle):
    recorded = json.loads((oracle / "h_augmix_levels.json").read_text())["through_reference_1e5"]
    n = 100_000
    level = 0.1 + 2.9 * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(n // 2)

    def matrix(operation: str) -> np.ndarray:
        return augment.affine(torch.full((n,), OPERATIONS.index(operation)), level, sign, 32, 32).numpy()

    def shares(values: np.ndarray) -> dict[str, float]:
        return {str(int(value)): count / n for value, count in zip(*np.unique(values, return_counts=True))}

    rotated = matrix("rotate")
    amounts = {"rotate": np.degrees(np.arctan2(rotated[:, 1, 0], rotated[:, 0, 0])).round(),
               "translate_x": matrix("translate_x")[:, 0, 2], "translate_y": matrix("translate_y")[:, 1, 2]}
    for name, values in amounts.items():
        assert shares(values) == pytest.approx(recorded[name], abs=0.004)
    for name, values in (("shear_x", matrix("shear_x")[:, 0, 1]), ("shear_y", matrix("shear_y")[:, 1, 0])):
        low, high, smallest, positive = recorded[name]
        assert (values.min(), values.max(), abs(values).min()) == pytest.approx((low, high, smallest), abs=1e-5)
        assert (values > 0).mean() == pytest.approx(positive, abs=0.004)

    level, flat = level[::100], torch.zeros(n // 100, 1, 1, 1)

    def table(operation: str) -> Tensor:
        return augment.tables(flat, torch.full((len(level),), OPERATIONS.index(operation)), level)[:, 0]

    bits = np.log2([len(row.unique()) for row in table("posterize")])
    assert [(bits == each).mean() for each in (3, 4)] == pytest.approx([*recorded["posterize"].values()], abs=0.004)
    threshold = (table("solarize") == torch.arange(256)).sum(1).double()
    assert [threshold.min(), threshold.max(), threshold.mean()] == pytest.approx(recorded["solarize"], abs=0.2)


def test_an_operation_leaves_the_images_of_the_other_kind_as_they_are():
    # on a GPU both kinds of operations go over all images
    levels = to_levels(pictures(12, 20, 3))
    level, sign = torch.full((6,), 2.0, dtype=torch.float64), torch.full((6,), -1.0, dtype=torch.float64)
    for operation in (-1, *range(N_TABLE)):
        matrix = augment.affine(torch.full((6,), operation), level, sign, 12, 20)
        assert augment.warp(levels, matrix).equal(levels)
    for operation in (-1, *range(N_TABLE, len(OPERATIONS))):
        table = augment.tables(levels, torch.full((6,), operation), level)
        assert augment.look_up(levels, table).equal(levels)


# AugMix

def draws_of(*views: tuple) -> Tensor:
    """The numbers in [0, 1) that draw these (depth, weight, (operation, level, sign), ...), as [views, 1, 11]."""
    rows = []
    for depth, weight, *steps in views:
        row = [(depth - 0.5) / 3, weight]
        for operation, level, sign in steps:
            row += [(OPERATIONS.index(operation) + 0.5) / len(OPERATIONS), (level - 0.1) / 2.9, (sign + 1.5) / 3]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)[:, None]


def test_a_view_applies_as_many_operations_as_its_depth_one_after_the_other(monkeypatch):
    chain = (("solarize", 2.01, 1), ("translate_x", 2.95, -1), ("autocontrast", 1.0, 1))
    monkeypatch.setattr(augment, "uniform", lambda *_: draws_of((1, 0.25, *chain), (2, 0.5, *chain), (3, 0.75, *chain)))
    image = pictures(32, 32, 3)[1]
    augmented, weight = augmix(torch.from_numpy(image)[None], 0, torch.tensor([0]), views=3)
    expected = image
    for view, step in enumerate(chain):
        expected = by_pil(expected, *step)
        assert (to_images(augmented[view])[0] == expected).all()
    assert weight.tolist() == [[0.25], [0.5], [0.75]]


def test_depth_operation_level_sign_and_weight_are_drawn_uniformly(monkeypatch):
    n, drawn, signs = 4000, [], []  # drawn: operations and levels of the table part, then the geometric, step by step

    def tables(part, operation, level, original=augment.tables):
        drawn.append((operation, level))
        return original(part, operation, level)

    def affine(operation, level, sign, height, width, original=augment.affine):
        drawn.append((operation, level))
        signs.append(sign)
        return original(operation, level, sign, height, width)

    monkeypatch.setattr(augment, "tables", tables)
    monkeypatch.setattr(augment, "affine", affine)
    _, weight = augmix(torch.zeros(n // 2, 8, 8, 1, dtype=torch.uint8), key(0, "test"), torch.arange(n // 2), views=2)
    by_step = [len(drawn[step][0]) + len(drawn[step + 1][0]) for step in (0, 2, 4)]
    assert by_step == pytest.approx([n, n * 2 / 3, n / 3], abs=5 * (n * 2 / 9) ** 0.5)
    operation, level = (torch.cat(part) for part in zip(*drawn))
    assert np.bincount(operation) == pytest.approx(np.full(9, 2 * n / 9), abs=5 * (2 * n / 9) ** 0.5)
    for values, low, high in ((level, 0.1, 3), (weight.flatten(), 0, 1)):
        counts = np.histogram(values, bins=10, range=(low, high))[0]
        assert counts.sum() == len(values)
        assert counts == pytest.approx(np.full(10, len(values) / 10), abs=5 * (len(values) / 10) ** 0.5)
    sign = torch.cat(signs)
    assert (sign.abs() == 1).all() and sign.mean().item() == pytest.approx(0, abs=5 / len(sign) ** 0.5)


@every_shape
def test_views_depend_on_the_image_index_and_key_and_not_on_the_batch(shape):
    images, index = torch.from_numpy(pictures(*shape)), torch.arange(100, 106)
    augmented, weight = augmix(images, 7, index, views=4)
    assert augmented.shape == (4, 6, shape[2], *shape[:2]) and weight.shape == (4, 6)

    def assert_same(part: Tensor, views: int = 4) -> None:
        again, same_weight = augmix(images[part], 7, index[part], views)
        assert again.equal(augmented[:views, part]) and same_weight.equal(weight[:views, part])

    for part in torch.arange(6).split(1):
        assert_same(part)
    assert_same(torch.arange(2, 5))
    assert_same(torch.tensor([5, 0, 3, 3, 1]))
    assert_same(torch.arange(6), views=2)
    for other in (augmix(images, 8, index, views=4), augmix(images, 7, index + 1, views=4)):
        assert (other[1] != weight).all() and not other[0].equal(augmented)


def test_views_of_one_image_differ():
    image = torch.from_numpy(pictures(32, 32, 3)[:1])
    augmented, weight = augmix(image, 7, torch.tensor([3]), views=8)
    assert len(weight.unique()) == 8 and len(augmented.unique(dim=0)) > 4


def test_channels_of_a_grey_image_are_augmented_alike():
    grey = torch.from_numpy(pictures(12, 20, 1))
    one, _ = augmix(grey, 7, torch.arange(6), views=4)
    three, _ = augmix(grey.repeat(1, 1, 1, 3), 7, torch.arange(6), views=4)
    assert three.equal(one.repeat(1, 1, 3, 1, 1))


def test_images_are_left_as_they_were():
    images = torch.from_numpy(pictures(8, 8, 1))
    augmix(images, 7, torch.arange(6))
    views_of(images, Normalise([0.5], [0.5]), 7, torch.arange(6))
    flip_and_crop(images, 7, torch.arange(6))
    assert (images.numpy() == pictures(8, 8, 1)).all()


@every_shape
def test_views_of_puts_the_clean_images_first_and_mixes_normalised_images(shape):
    images, index = torch.from_numpy(pictures(*shape)), torch.arange(6)
    normalise = Normalise([0.4, 0.5, 0.6][:shape[2]], [0.2, 0.25, 0.3][:shape[2]])
    inputs = views_of(images, normalise, 7, index, views=3)
    assert inputs.shape == (4 * 6, shape[2], *shape[:2]) and inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    clean = normalise(images)
    assert inputs[:6].equal(clean)
    augmented, weight = augmix(images, 7, index, views=3)
    for view in range(3):
        for i in range(6):
            m = weight[view, i].item()
            expected = (1 - m) * clean[i] + m * normalise.levels(augmented[view, i:i + 1])[0]
            torch.testing.assert_close(inputs[(1 + view) * 6 + i], expected, rtol=0, atol=1e-5)


# normalisation

def test_normalise_subtracts_the_mean_and_divides_by_the_std_of_each_channel():
    images = torch.tensor([[[[0, 51, 255], [255, 102, 51]]]], dtype=torch.uint8)  # one image of 1 x 2 pixels
    inputs = Normalise(mean=[0, 0.2, 0.5], std=[1, 0.4, 0.25])(images)
    assert inputs.shape == (1, 3, 1, 2) and inputs.dtype == torch.float32
    assert inputs.flatten().tolist() == pytest.approx([0, 1, 0, 0.5, 2, -1.2], abs=1e-6)


def test_normalise_equals_torchvisions_in_either_layout():
    from torchvision.transforms.functional import normalize
    images = torch.from_numpy(pictures(12, 20, 3))
    mean, std = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
    expected = normalize(images.permute(0, 3, 1, 2) / 255, mean, std)
    normalise = Normalise(mean, std)
    for inputs in (normalise(images), normalise.levels(images.permute(0, 3, 1, 2).contiguous())):
        torch.testing.assert_close(inputs, expected, rtol=1e-5, atol=1e-5)
        assert inputs.is_contiguous(memory_format=torch.channels_last)


# flip and crop

def crops(image: np.ndarray) -> dict[bytes, tuple[bool, int, int]]:
    """All flips and crops of an image [H, W, C], padded by an eighth of its size: pixels -> (flipped, down, right)."""
    height, width, _ = image.shape
    y, x = height // 8, width // 8
    found = {}
    for flipped in (False, True):
        padded = np.pad(image[:, ::-1] if flipped else image, ((y, y), (x, x), (0, 0)))
        for down in range(2 * y + 1):
            for right in range(2 * x + 1):
                found[padded[down:down + height, right:right + width].tobytes()] = flipped, down, right
    return found


@pytest.mark.parametrize("shape, n", [((8, 8, 1), 3000), ((32, 32, 3), 100), ((16, 24, 3), 200)], ids=str)
def test_every_image_is_flipped_or_not_and_cropped_somewhere(shape, n):
    image = np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)
    known = crops(image)
    assert len(known) == 2 * (2 * (shape[0] // 8) + 1) * (2 * (shape[1] // 8) + 1)
    results = flip_and_crop(torch.from_numpy(image).repeat(n, 1, 1, 1), key(0, "test"), torch.arange(n))
    assert results.dtype == torch.uint8
    drawn = np.array([known[result.numpy().tobytes()] for result in results])  # a KeyError is a wrong crop
    for column, choices in enumerate((2, 2 * (shape[0] // 8) + 1, 2 * (shape[1] // 8) + 1)):
        counts = np.bincount(drawn[:, column], minlength=choices)
        assert counts == pytest.approx(np.full(choices, n / choices), abs=5 * (n / choices) ** 0.5)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 5 / n ** 0.5


def test_flip_and_crop_depends_on_the_image_index_and_key_and_not_on_the_batch():
    images, index = torch.from_numpy(pictures(32, 32, 3)), torch.arange(6)
    whole = flip_and_crop(images, 3, index)
    part = torch.tensor([4, 0, 2])
    assert flip_and_crop(images[part], 3, part).equal(whole[part])
    assert flip_and_crop(images[1:2], 3, index[1:2]).equal(whole[1:2])
    assert not flip_and_crop(images, 4, index).equal(whole) and not flip_and_crop(images, 3, index + 6).equal(whole)


def test_flip_and_crop_leaves_the_images_outside_the_mask_as_they_are():
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (40, 8, 8, 3)).astype(np.uint8))
    index, where = torch.arange(40), torch.arange(40) % 2 == 0
    whole = flip_and_crop(images, 3, index)
    some = flip_and_crop(images, 3, index, where)
    assert some[where].equal(whole[where]) and some[~where].equal(images[~where])
    assert (whole != images).flatten(1).any(1).sum() > 30
