"""MoCo v3: the published layout of files, what is read from them, the loss and the momentum encoder."""
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridrepair.base.errors import UserError
from mymodels import moco
from mymodels.moco import MoCo

TINY = dict(arch="resnet18", dim=16, mlp_dim=32)


def saved(path, model: MoCo, prefix: str = "module.", **more):
    """A checkpoint as the published code writes it."""
    weights = {prefix + name.removeprefix("module."): value for name, value in moco.published(model).items()}
    torch.save({"epoch": 3, "arch": "resnet50", "state_dict": weights, "optimizer": {"state": {}, "param_groups": []},
                "scaler": {"scale": 65536.0}, **more}, path)
    return path


def trained(**settings) -> MoCo:
    """A model whose batch statistics have moved."""
    model = MoCo(**{**TINY, **settings})
    channels = model.base_encoder.conv1.in_channels
    for _ in range(3):
        model(torch.randn(8, channels, 16, 16), torch.randn(8, channels, 16, 16), 0.9)
    return model


def by_hand(model: MoCo, x: torch.Tensor) -> torch.Tensor:
    """The features of a model in eval mode, step by step."""
    encoder = model.eval().base_encoder
    x = encoder.maxpool(F.relu(encoder.bn1(encoder.conv1(x))))
    x = encoder.layer4(encoder.layer3(encoder.layer2(encoder.layer1(x)))).mean((2, 3))
    projector, predictor = encoder.fc, model.predictor
    x = projector[4](F.relu(projector[1](x @ projector[0].weight.T)) @ projector[3].weight.T)
    x = F.relu(predictor[1](x @ predictor[0].weight.T)) @ predictor[3].weight.T
    return x / x.norm(dim=1, keepdim=True)


# --- the layout of files

def test_state_dict_is_the_published_one_in_keys_order_shapes_and_types(oracle):
    expected = json.loads((oracle / "i_moco_state_dict.json").read_text())
    with torch.device("meta"):
        model = MoCo()
    state = [[name, list(value.shape), str(value.dtype).removeprefix("torch.")] for name, value in model.state_dict().items()]
    assert state == expected["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == expected["params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected["trainable"]


def test_the_default_model_has_the_published_number_of_keys_and_parameters():
    with torch.device("meta"):
        model = MoCo()
    assert len(model.state_dict()) == 663 and sum(p.numel() for p in model.parameters()) == 64_866_432
    assert model.state_dict()["predictor.3.weight"].shape == (64, 4096)


@pytest.mark.parametrize("settings", [{}, {"arch": "resnet50"}, {"small_stem": True}, {"in_channels": 1, "dim": 5}])
@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_features_of_a_file_are_the_normalised_predictions_of_its_model(tmp_path, settings, prefix):
    model = trained(**settings)
    before = torch.get_rng_state()
    extractor = moco.load(saved(tmp_path / "checkpoint.pth.tar", model, prefix))
    assert torch.get_rng_state().equal(before)  # what comes after does not depend on a cache of features
    x = torch.randn(5, settings.get("in_channels", 3), 32, 32)
    features = extractor(x)
    assert features.shape == (5, settings.get("dim", 16)) and features.dtype == torch.float32 and not extractor.training
    torch.testing.assert_close(features, by_hand(model, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features, model.extractor()(x), rtol=0, atol=0)
    assert not any(p.requires_grad for p in extractor.parameters())
    assert type(extractor.base_encoder.maxpool) is (nn.Identity if settings.get("small_stem") else nn.MaxPool2d)


@torch.no_grad()
def test_depth_and_width_of_the_mlps_follow_from_the_file(tmp_path):
    model = trained()
    model.base_encoder.fc = moco.mlp((512, 48, 24, 8), last_norm=True)
    model.predictor = moco.mlp((8, 20, 8), last_norm=True)
    x = torch.randn(2, 3, 16, 16)
    expected = F.normalize(model.eval().predictor(model.base_encoder(x)), dim=1)
    torch.testing.assert_close(moco.load(saved(tmp_path / "file", model))(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("change, message", [
    (lambda w: w.pop("module.base_encoder.layer2.0.bn1.weight"), "layer2.0.bn1.weight is missing"),
    (lambda w: w.pop("module.base_encoder.conv1.weight"), "does not hold the base_encoder"),
    (lambda w: w.update({"module.base_encoder.layer1.0.odd": torch.ones(1)}), "layer1.0.odd is foreign"),
    (lambda w: w.update({"module.base_encoder.bn1.weight": torch.ones(3)}), r"bn1.weight is \(3,\), not \(64,\)"),
    (lambda w: w.update({"module.base_encoder.bn1.weight": torch.full((64,), math.nan)}), "not finite"),
    (lambda w: [w.pop(name) for name in list(w) if "layer3" in name], "does not hold the base_encoder"),
    (lambda w: [w.pop(name) for name in list(w) if "predictor" in name], "does not hold the base_encoder"),
    (lambda w: w.update({"module.base_encoder.fc.weight": torch.ones(10, 512)}), "does not hold the base_encoder"),
    (lambda w: w.update({"module.epoch": 3}), "no state_dict in its entry"),
])
def test_a_foreign_file_gives_one_sentence_that_names_it(tmp_path, change, message):
    weights = moco.published(MoCo(**TINY))
    change(weights)
    torch.save({"state_dict": weights}, tmp_path / "file")
    with pytest.raises(UserError, match=message) as error:
        moco.load(tmp_path / "file")
    assert str(tmp_path / "file") in str(error.value) and "pretrain_moco.py" in str(error.value)


def test_a_missing_truncated_or_other_checkpoint_gives_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        moco.load(tmp_path / "none")
    path = saved(tmp_path / "file", MoCo(**TINY))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read"):
        moco.load(path)
    torch.save({"net": {}, "acc": 90.0}, path)
    with pytest.raises(UserError, match="no state_dict in its entry 'state_dict'"):
        moco.load(path)


def test_images_of_other_channels_give_one_sentence():
    with pytest.raises(UserError, match="images of 1 channels, and these have 3"):
        MoCo(**TINY, in_channels=1).extractor().eval()(torch.zeros(2, 3, 16, 16))


# --- the method

def test_contrastive_loss_is_the_cross_entropy_among_keys_times_2_t():
    q, k = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    # cosines [[1, 1], [0, 0]]: every key is as likely
    assert MoCo(**TINY, temperature=0.2).contrastive_loss(q, k).item() == pytest.approx(2 * 0.2 * math.log(2))
    k = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    # cosines [[1, .6], [0, .8]]
    by_row = [math.log(1 + math.exp((0.6 - 1) / 0.5)), math.log(1 + math.exp((0 - 0.8) / 0.5))]
    assert MoCo(**TINY, temperature=0.5).contrastive_loss(q, k).item() == pytest.approx(sum(by_row) / 2 * 2 * 0.5)


def test_loss_is_that_of_each_view_against_the_momentum_encoders_other_view():
    model, x1, x2 = trained(), torch.randn(6, 3, 16, 16), torch.randn(6, 3, 16, 16)
    q1, q2 = (model.predictor(model.base_encoder(x)) for x in (x1, x2))
    k1, k2 = (model.momentum_encoder(x) for x in (x1, x2))
    expected = model.contrastive_loss(q1, k2) + model.contrastive_loss(q2, k1)
    torch.testing.assert_close(model(x1, x2, 1.0), expected)


def test_momentum_encoder_starts_equal_follows_by_the_formula_and_learns_nothing_by_gradient():
    model = MoCo(**TINY)
    fast, slow = (list(encoder.parameters()) for encoder in (model.base_encoder, model.momentum_encoder))
    assert all(a.equal(b) for a, b in zip(fast, slow))
    with torch.no_grad():
        for p in fast:
            p.add_(torch.randn_like(p))
    expected = [0.9 * b + (1 - 0.9) * a for a, b in zip(fast, slow)]
    model(torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16), 0.9).backward()
    for p, value in zip(slow, expected):
        torch.testing.assert_close(p.detach(), value.detach())
    assert all(p.grad is None for p in slow) and all(p.grad is not None for p in (*fast, *model.predictor.parameters()))
