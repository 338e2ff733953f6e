"""extractor.py: what --fe names, how a pretrained network sees images, and what it must give."""
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hybridrepair.base.errors import UserError
from hybridrepair.images.augment import Normalise
from hybridrepair.selection import features
from hybridrepair.selection.extractor import MOCO, extractor_of, features_of, timm_network

NORMALISE = Normalise([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
BUILDER = """
import torch
class Corner(torch.nn.Module):
    size, mean, std = 8, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0)
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor({scale}))
    def forward(self, x):
        assert not torch.is_grad_enabled() and not self.training
        return self.scale * {output}
def build():
    return Corner()
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(output: str = "x[:, :, :2, :2].flatten(1)", scale: float = 1.0, **edits: str) -> str:
    text = BUILDER.format(output=output, scale=scale)
    for old, new in edits.items():
        text = text.replace(old, new)
    Path("mine.py").write_text(text)
    return "mine.py:build"


def extracted(fe: str, images: torch.Tensor = IMAGES, batch_size: int = 4) -> torch.Tensor:
    return features.extract(extractor_of(fe, "signs"), NORMALISE, images, batch_size)


# --- what --fe names

@pytest.mark.parametrize("fe, name", [
    ("mocov3", "check_point/signs/ckpt_pretrained_mocov3/checkpoint.pth.tar"), ("other/file.pth", "other/file.pth"), (".", "."),
])
def test_a_missing_encoder_names_the_call_that_trains_one(fe, name):
    with pytest.raises(UserError) as caught:
        extractor_of(fe, "signs")
    message = str(caught.value)
    assert f"no feature extractor {name};" in message and "DATASET=signs PRETRAIN_FE=1 sh train.sh" in message
    assert "--fe model2test" in message and "\n" not in message


def test_an_encoder_is_found_by_its_name_and_by_its_path():
    path = Path("check_point/signs/ckpt_pretrained_mocov3/checkpoint.pth.tar")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    other = Path("other.pth.tar")
    other.write_bytes(b"others")
    assert extractor_of(MOCO, "signs").folder == path.parent
    assert extractor_of(str(path), "signs").name == extractor_of(MOCO, "signs").name != extractor_of("other.pth.tar", "signs").name


def test_the_model_under_repair_is_no_extractor():
    assert extractor_of("model2test", "signs") is None


# --- a pretrained network as it is

def test_a_network_sees_images_in_its_own_size_and_normalisation():
    pixels = F.interpolate(IMAGES.permute(0, 3, 1, 2).float() / 255, (8, 8), mode="bilinear", antialias=True)
    expected = (pixels - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(1, 3, 1, 1)
    expected = F.normalize(expected[:, :, :2, :2].flatten(1), dim=1)
    torch.testing.assert_close(extracted(written()), expected, rtol=0, atol=1e-5)


def test_one_channel_is_seen_as_grey():
    grey = IMAGES[..., :1]
    torch.testing.assert_close(extracted(written(), grey), extracted(written(), grey.expand(-1, -1, -1, 3).contiguous()))


def test_features_are_kept_for_the_same_weights_and_preparation_alone():
    first = extracted(written())
    assert len(list(Path("check_point/signs/features").glob("*.npy"))) == 1
    assert extracted(written()).equal(first) and len(list(Path("check_point/signs/features").glob("*.npy"))) == 1
    assert not extracted(written("x[:, :, 2:4, :2].flatten(1)")).allclose(first)  # the same weights, other code
    assert not extracted(written(scale=-1.0)).allclose(first)
    assert not extracted(written(**{"0.25, 0.5": "0.5, 0.25"})).allclose(first)
    assert len(list(Path("check_point/signs/features").glob("*.npy"))) == 4


def test_a_map_is_averaged_over_space_and_of_a_pair_the_features_are_read():
    values = torch.tensor([[[[3.0, 5.0]], [[1.0, 5.0]]]])  # means 4 and 3
    torch.testing.assert_close(features_of(values), torch.tensor([[0.8, 0.6]]))
    torch.testing.assert_close(features_of((torch.zeros(1, 9), torch.tensor([[4.0, 3.0]]))), torch.tensor([[0.8, 0.6]]))


@pytest.mark.parametrize("edits, message", [
    ({"return Corner()": "return 3"}, "gave a int, not a torch module"),
    ({"return Corner()": "raise OSError('no weights')"}, "cannot build its network \\(OSError: no weights\\)"),
    ({"return Corner()": "import nowhere"}, "No module named 'nowhere'\\); install what it imports"),
    ({"size, mean": "size, other"}, None),
    ({"= 8,": "= 4,"}, "tells size 4"),
    ({"1.0)\n    def": "0.0)\n    def"}, "std above 0"),
    ({"(0.5, 0.5, 0.5)": "(0.5,)"}, "three numbers each"),
    ({"(0.5, 0.5, 0.5)": "'abc'"}, "three numbers each"),
])
def test_a_network_that_cannot_be_used_is_one_sentence(edits, message):
    fe = written(**edits)
    if message is None:  # ImageNet's mean instead
        assert extractor_of(fe, "signs")
        return
    with pytest.raises(UserError, match=message):
        extractor_of(fe, "signs")


@pytest.mark.parametrize("edits, message", [
    ({"self.scale *": "torch.nn.functional.linear(x.flatten(1), torch.zeros(3, 7)) +"}, "of 3 x 8 x 8 in float32 .*shapes"),
    ({"return Corner()": "return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(150528, 3)).bfloat16()"}, "in float32")])
def test_a_network_that_cannot_take_the_images_is_one_sentence_and_leaves_no_file(edits, message):
    with pytest.raises(UserError, match=message):
        extracted(written(**edits))
    assert not list(Path().glob("**/*.npy"))


def test_a_network_in_half_precision_or_with_a_state_of_its_own_gives_the_features_of_its_weights():
    assert extracted(written(scale=0.5, **{"return Corner()": "return Corner().bfloat16()"})).equal(extracted(written(scale=0.5)))
    assert extracted(written(**{"build():": "build():\n    global Corner\n    class Own(Corner):\n        def get_extra_state(self):\n"
                                            "            return {'a': 1}\n    return Own()"})).equal(extracted(written()))


def test_images_of_two_channels_are_refused():
    with pytest.raises(UserError, match="three channels, and these have two; use --fe model2test"):
        extracted(written(), IMAGES[..., :2])


@pytest.mark.parametrize("output, message", [
    ("x.flatten(1).sum(1)", "gave \\[4\\]"), ("x.long()[:, 0, 0]", "gave \\[4, 8\\]"),
    ("x.flatten(1) * float('nan')", "are not finite")])
def test_output_that_holds_no_features_is_one_sentence_and_leaves_no_file(output, message):
    with pytest.raises(UserError, match=message):
        extracted(written(output, **{"self.scale *": ""}))
    assert not list(Path().glob("**/*.npy"))


def test_timm_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        timm_network("resnet18")
