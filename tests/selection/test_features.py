"""features.py: features of files in the published layout by the formula, the cache beside them, and errors."""
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet, resnet18, resnet50

from hybridrepair.base import version
from hybridrepair.base.errors import UserError
from hybridrepair.images.augment import Normalise
from hybridrepair.selection.extractor import encoder
from hybridrepair.selection.features import extract
from mymodels import moco

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
NORMALISE = Normalise(MEAN, STD)
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))


def shallow() -> ResNet:
    """Half of a resnet18, so that tests take half the time."""
    return ResNet(BasicBlock, [1, 1, 1, 1])


def encoder_and_predictor(make: Callable[[], ResNet] = shallow, channels: int = 3) -> tuple[nn.Module, nn.Module]:
    """A torchvision ResNet with the published projector, and the predictor, 16 wide to 8 features; no number is special."""
    encoder = make()
    encoder.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    encoder.fc = nn.Sequential(nn.Linear(encoder.fc.in_features, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
                               nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8, affine=False))
    predictor = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8, bias=False))
    for module in (*encoder.modules(), *predictor.modules()):
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.1)
                nn.init.normal_(module.bias, 0, 0.1)
    return encoder.eval(), predictor.eval()


def publish(path: Path, encoder: nn.Module, predictor: nn.Module, prefix: str = "module.") -> Path:
    """`path`, with a checkpoint as the published code writes it, of a momentum encoder with other weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"base_encoder": encoder.state_dict(), "predictor": predictor.state_dict(),
             "momentum_encoder": {name: 2 * value for name, value in encoder.state_dict().items()}}
    weights = {f"{prefix}{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
    torch.save({"epoch": 300, "arch": "resnet50", "state_dict": weights, "optimizer": {"state": {}, "param_groups": []},
                "scaler": {"scale": 65536.0}}, path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A file that tests copy."""
    torch.manual_seed(1)
    return publish(tmp_path_factory.mktemp("published") / "checkpoint.pth.tar", *encoder_and_predictor())


@pytest.fixture
def path(tmp_path, published) -> Path:
    return Path(shutil.copy(published, tmp_path))


@pytest.fixture
def cached(path) -> tuple[Path, Tensor]:
    """The cache that one extraction leaves, and the features."""
    found = extract(encoder(path, "signs"), NORMALISE, IMAGES, 9)
    cache, = path.parent.glob("features_*.npy")
    return cache, found


# --- the formula

@pytest.mark.parametrize("make, prefix", [(resnet18, "module."), (shallow, ""), (resnet50, "module.")])
@torch.no_grad()
def test_features_are_the_normalised_prediction_of_the_base_encoder(tmp_path, make, prefix):
    network, predictor = encoder_and_predictor(make)
    path = publish(tmp_path / "file", network, predictor, prefix)
    x = (IMAGES.numpy().transpose(0, 3, 1, 2) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    expected = F.normalize(predictor(network(torch.from_numpy(x).float())), dim=1)
    found = extract(encoder(path, "signs"), NORMALISE, IMAGES, 9)
    assert found.shape == (9, 8) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (expected.std(0) > 0.01).all()  # the images differ


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])  # of 4, the last batch is one image
def test_features_do_not_depend_on_the_batch_size(path, cached, batch_size):
    cache, expected = cached
    cache.unlink()
    torch.testing.assert_close(extract(encoder(path, "signs"), NORMALISE, IMAGES, batch_size), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("most, sizes", [(100, [4, 4, 1]), (3, [3, 3, 3])])
def test_larger_images_go_fewer_at_a_time(path, most, sizes):
    images, seen = IMAGES.repeat(1, 4, 4, 1), []  # 64 pixels a side, 4 times as many as at 32
    one = replace(encoder(path, "signs"), batch=most)

    def network() -> nn.Module:
        model = encoder(path, "signs").network()
        model.register_forward_pre_hook(lambda model, inputs: seen.append(len(inputs[0])))
        return model

    extract(replace(one, network=network), NORMALISE, images, 16)
    assert seen == sizes


# --- the cache

def test_features_are_computed_once(path, cached, monkeypatch):
    monkeypatch.setattr(moco, "load", None)
    again = extract(encoder(path, "signs"), NORMALISE, IMAGES, 2)
    assert again.equal(cached[1]) and again.dtype == torch.float32
    assert [*path.parent.glob("features_*")] == [cached[0]]


def other_weights(path: Path) -> None:
    content = torch.load(path)
    content["state_dict"]["module.predictor.3.weight"][0] *= -1
    torch.save(content, path)


@pytest.mark.parametrize("images, normalise, change", [
    (IMAGES, NORMALISE, other_weights),
    (IMAGES.flip(0), NORMALISE, None),
    (torch.where(torch.arange(9).view(9, 1, 1, 1) == 4, 255 - IMAGES, IMAGES), NORMALISE, None),
    (IMAGES.view(9, 8, 32, 3), NORMALISE, None),
    (IMAGES, Normalise([0.4, 0.5, 0.4], STD), None),
    (IMAGES, Normalise(MEAN, [0.2, 0.25, 0.2]), None),
], ids=["weights", "order", "one image", "shape", "mean", "std"])
def test_features_of_anything_else_are_computed_anew(path, cached, tmp_path, images, normalise, change):
    if change:
        change(path)
    alone = Path(shutil.copy(path, (tmp_path / "alone").mkdir() or tmp_path / "alone"))
    found = extract(encoder(path, "signs"), normalise, images, 9)
    assert not torch.allclose(found, cached[1], atol=1e-3) and found.equal(extract(encoder(alone, "signs"), normalise, images, 9))


def test_features_of_another_version_of_the_code_are_computed_anew(path, cached, monkeypatch):
    monkeypatch.setattr(version, "CODE", 2)
    extract(encoder(path, "signs"), NORMALISE, IMAGES, 9)
    assert len([*path.parent.glob("features_*")]) == 2


def cut(keep: float):
    return lambda path, array: path.write_bytes(path.read_bytes()[:int(keep * path.stat().st_size)])


def array_of(change):
    return lambda path, array: np.save(path, change(array))


def as_archive(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez(file, array)


def last_bit(path: Path, array: np.ndarray) -> None:
    """Change the last bit of the first number, which leaves all lengths as they are."""
    content = bytearray(path.read_bytes())
    content[content.index(array[0, 0].tobytes())] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [
    last_bit, cut(0), cut(0.1), cut(0.6), cut(0.999), lambda path, array: path.write_text("features"), as_archive,
    lambda path, array: np.save(path, np.array([{}, []], dtype=object), allow_pickle=True),
    array_of(lambda array: array[:8]), array_of(np.float64), array_of(np.ravel), array_of(np.zeros_like),
    array_of(lambda array: np.where(array == array[3, 3], np.float32("nan"), array)),
], ids=["last bit", "empty", "no header", "half", "last byte", "text", "archive", "objects", "fewer", "double", "flat", "zeros", "nan"])
def test_a_damaged_cache_is_replaced(path, cached, damage):
    cache, expected = cached
    damage(cache, expected.numpy())
    torch.testing.assert_close(extract(encoder(path, "signs"), NORMALISE, IMAGES, 9), expected, rtol=0, atol=0)
    assert np.array_equal(np.load(cache), expected) and len([*path.parent.iterdir()]) == 2


def test_where_no_cache_can_be_written_features_are_given_and_a_line_says_so(path, cached, capsys):
    cache, expected = cached
    cache.unlink()
    cache.mkdir()
    assert extract(encoder(path, "signs"), NORMALISE, IMAGES, 9).equal(expected)
    assert f"not kept for the next time: {cache} cannot be written" in capsys.readouterr().out
    assert {*path.parent.iterdir()} == {path, cache}


# --- errors

def test_images_of_other_channels_are_refused_and_leave_no_cache(tmp_path):
    path = publish(tmp_path / "file", *encoder_and_predictor(channels=1))
    with pytest.raises(UserError, match="reads images of 1 channels, and these have 3"):
        extract(encoder(path, "signs"), NORMALISE, IMAGES, 4)
    assert extract(encoder(path, "signs"), Normalise([0.5], [0.2]), IMAGES[..., :1], 4).shape == (9, 8)
    assert len([*tmp_path.iterdir()]) == 2
