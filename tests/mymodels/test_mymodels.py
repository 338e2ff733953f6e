"""Every model of the registry keeps the contract of forward; the published ones have the published keys and outputs."""
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base.errors import UserError
from mymodels import MODELS, create
from mymodels.depthwise import Depthwise
from mymodels.folding import normed
from mymodels.pointwise import Pointwise
from mymodels.shufflenet import shuffle_channels

N_PARAMETERS = {"MobileNet": 3_217_226, "resnet18": 11_181_642, "ShuffleNetG2": 887_582}  # for 10 classes
every_model = pytest.mark.parametrize("name", MODELS)
every_published_model = pytest.mark.parametrize("name", N_PARAMETERS)


def images(n: int, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0))


def last_linear(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def deterministic_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict under which the reference outputs were recorded (rand_*; see the README beside them)."""
    weights = {}
    for i, (key, value) in enumerate(model.state_dict().items()):
        z = np.random.RandomState(1000 + i).standard_normal(value.numel()).reshape(value.shape)
        if key.endswith("num_batches_tracked"):
            z = np.zeros(value.shape)
        elif key.endswith("running_var"):
            z = 0.5 + np.abs(z)
        elif value.dim() >= 2:
            z = z * np.sqrt(2 / np.prod(value.shape[1:]))
        elif key.endswith(".weight"):
            z = 1 + 0.1 * z
        else:
            z = 0.1 * z
        weights[key] = torch.as_tensor(z, dtype=value.dtype)
    return weights


@every_model
@pytest.mark.parametrize("height, width", [(8, 8), (16, 16), (32, 32), (33, 17)])
@pytest.mark.parametrize("num_classes, channels", [(10, 3), (43, 1)])
@torch.no_grad()
def test_forward_returns_logits_and_the_input_of_the_last_linear_layer(name, height, width, num_classes, channels):
    model = create(name, num_classes, channels).eval()
    logits, features = model(images(2, channels, height, width))
    assert logits.shape == (2, num_classes)
    assert features.shape == (2, last_linear(model).in_features)
    torch.testing.assert_close(last_linear(model)(features), logits)


@every_model
def test_training_works_from_8_pixels_up(name):
    logits, _ = create(name, num_classes=10)(images(4, height=8, width=8))
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert logits.isfinite().all()


@every_model
@torch.no_grad()
def test_channels_last_gives_the_same_outputs(name):
    model = create(name, num_classes=10).double().eval()
    x = images(3, height=33, width=17).double()
    expected = model(x)
    # layout of the images alone, then of the weights too
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(model(x), expected)


@every_model
def test_gradient_reaches_every_parameter(name):
    model = create(name, num_classes=10)
    F.cross_entropy(model(images(8))[0], torch.arange(8)).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_model
@torch.no_grad()
def test_state_dict_round_trip_gives_the_same_outputs(name):
    model, copy = create(name, num_classes=10), create(name, num_classes=10)
    model(images(8))  # moves the running statistics
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy.eval()(images(2)), model.eval()(images(2)), rtol=0, atol=0)


@every_model
def test_initial_weights_follow_the_seed(name):
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(create(name, 10).parameters())

    assert weights(1).equal(weights(1)) and not weights(1).equal(weights(2))


@every_published_model
def test_number_of_parameters_is_the_published_one(name):
    assert sum(p.numel() for p in create(name, num_classes=10).parameters()) == N_PARAMETERS[name]


@pytest.mark.parametrize("name, key, shape", [
    ("MobileNet", "conv1.weight", (32, 3, 3, 3)),
    ("MobileNet", "layers.0.conv1.weight", (32, 1, 3, 3)),
    ("MobileNet", "layers.12.bn2.running_var", (1024,)),
    ("MobileNet", "linear.weight", (10, 1024)),
    ("resnet18", "conv1.weight", (64, 3, 7, 7)),
    ("resnet18", "layer4.0.downsample.0.weight", (512, 256, 1, 1)),
    ("resnet18", "fc.weight", (10, 512)),
    ("ShuffleNetG2", "layer1.0.conv1.weight", (44, 24, 1, 1)),
    ("ShuffleNetG2", "layer1.0.conv3.weight", (176, 22, 1, 1)),
    ("ShuffleNetG2", "layer2.7.conv1.weight", (100, 200, 1, 1)),
    ("ShuffleNetG2", "linear.weight", (10, 800)),
])
def test_keys_are_the_published_ones(name, key, shape):
    assert create(name, num_classes=10).state_dict()[key].shape == shape


def test_stem_of_resnet18_for_other_channels_differs_in_its_input_alone():
    rgb, grey = create("resnet18", 10).conv1, create("resnet18", 10, in_channels=1).conv1
    assert (grey.in_channels, grey.bias) == (1, None)
    assert (grey.out_channels, grey.kernel_size, grey.stride, grey.padding) == (64, (7, 7), (2, 2), (3, 3))
    assert grey.weight.std().item() == pytest.approx(rgb.weight.std().item(), rel=0.1)


def test_shuffle_interleaves_the_groups_and_keeps_pixels_in_place():
    x = torch.arange(6)[None, :, None, None] * 100 + torch.arange(6).view(1, 1, 2, 3)
    shuffled = shuffle_channels(x, 2)
    assert (shuffled[0, :, 0, 0] / 100).tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled[0, 1].tolist() == [[300, 301, 302], [303, 304, 305]]
    assert shuffle_channels(x.contiguous(memory_format=torch.channels_last), 2).equal(shuffled)
    assert shuffle_channels(x, 1).equal(x)


def whole_numbers(*shape: int) -> Tensor:
    """float32 of -3 to 3: sums of their products are exact, in whatever order."""
    return torch.randint(-3, 4, shape).float()


def require_same(ours: nn.Conv2d, plain: nn.Conv2d, height: int, width: int, layout: torch.memory_format) -> None:
    """Both layers give the same output and gradients, in `layout`."""
    weight, x = whole_numbers(*plain.weight.shape), whole_numbers(5, 6, height, width)
    results = []
    for layer in (ours, plain):
        layer.load_state_dict({"weight": weight})
        inputs = x.contiguous(memory_format=layout).requires_grad_()
        output = layer.to(memory_format=layout)(inputs)
        torch.manual_seed(1)
        output.backward(whole_numbers(*output.shape))
        with torch.no_grad():
            unpadded = layer(inputs)
        results.append((output, inputs.grad, layer.weight.grad, unpadded))
        if layout == torch.channels_last:
            assert output.is_contiguous(memory_format=layout) and unpadded.is_contiguous(memory_format=layout)
    for value, expected in zip(*results):
        assert value.shape == expected.shape and value.equal(expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 2), (3, 3), (4, 4), (1, 5), (4, 2)])
def test_depthwise_is_torchs_convolution_in_output_and_gradients(height, width, stride, layout):
    require_same(Depthwise(6, stride), nn.Conv2d(6, 6, 3, stride, padding=1, groups=6, bias=False), height, width, layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 2), (4, 3)])
def test_pointwise_is_torchs_convolution_in_output_and_gradients(height, width, layout):
    require_same(Pointwise(6, 8), nn.Conv2d(6, 8, 1, bias=False), height, width, layout)


def test_pointwise_is_folded_and_computes_at_the_precision_asked_for():
    layer, norm = Pointwise(6, 8), nn.BatchNorm2d(8).eval()
    norm.running_mean.copy_(whole_numbers(8))
    norm.running_var.copy_(1 + whole_numbers(8) ** 2)
    x = whole_numbers(5, 6, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(normed(layer, norm, x), norm(layer(x)))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).equal(nn.Conv2d.forward(layer, x)) and layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 2), (1, 5), (4, 2)])
def test_depthwise_never_trains_on_a_side_that_the_slow_kernel_takes(height, width, stride, monkeypatch):
    seen, forward = [], nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: seen.append(x) or forward(self, x))
    Depthwise(6, stride)(whole_numbers(5, 6, height, width))
    assert len(seen) == 1 and min(seen[0].shape[2:]) == 3


def test_unknown_name_raises_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match="VGG") as error:
        create("VGG", num_classes=10)
    assert all(name in str(error.value) for name in MODELS)


@every_published_model
@pytest.mark.parametrize("num_classes", [10, 43])
def test_state_dict_is_the_published_one_in_keys_order_shapes_and_types(oracle, name, num_classes):
    expected = json.loads((oracle / "i_models.json").read_text())[f"{name}_C{num_classes}"]
    model = create(name, num_classes)
    state = [[key, list(value.shape), str(value.dtype)] for key, value in model.state_dict().items()]
    assert state == [[key, shape, f"torch.{dtype}"] for key, shape, dtype in expected["state_dict"]]
    assert sum(p.numel() for p in model.parameters()) == expected["params"]


@every_published_model
@torch.no_grad()
def test_outputs_are_those_of_the_published_model(oracle, name):
    with np.load(oracle / f"i_{name}_C10.npz", allow_pickle=False) as arrays:
        expected = {key: torch.from_numpy(arrays[key]) for key in arrays if arrays[key].ndim}
    model = create(name, num_classes=10)
    model.load_state_dict(deterministic_weights(model))
    logits, features = model.eval()(expected["x"])
    # MobileNet's are below 1 here; the others grow to 160, where float32 resolves 1e-5
    tolerance = dict(rtol=0, atol=1e-6) if name == "MobileNet" else dict(rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(logits, expected["rand_eval_logits"], **tolerance)
    torch.testing.assert_close(features, expected["rand_eval_features"], **tolerance)
    logits, _ = model.train()(expected["x_train"])
    torch.testing.assert_close(logits, expected["rand_train_logits"], rtol=0, atol=1e-4)
    running_mean = expected["rand_train_first_running_mean_after"]
    torch.testing.assert_close(model.bn1.running_mean, running_mean, rtol=0, atol=1e-6)


@every_published_model
@torch.no_grad()
def test_outputs_in_double_precision_are_those_of_the_published_model(oracle, name):
    with np.load(oracle / f"i_{name}_C10.npz", allow_pickle=False) as arrays:
        expected = {key: torch.from_numpy(arrays[key]) for key in arrays if arrays[key].ndim}
    model = create(name, num_classes=10)
    model.load_state_dict(deterministic_weights(model))
    model.double().to(memory_format=torch.channels_last)
    logits, _ = model.eval()(expected["x"].double())
    torch.testing.assert_close(logits, expected["rand_eval_logits_f64"], rtol=0, atol=1e-10)
    logits, _ = model.train()(expected["x_train"].double())
    torch.testing.assert_close(logits, expected["rand_train_logits_f64"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", list(MODELS))
def test_evaluation_without_gradients_folds_batch_norm_and_gives_the_same(name):
    model = create(name, num_classes=10)
    model.load_state_dict(deterministic_weights(model))
    model.double().eval()
    x = images(3).double()
    with torch.no_grad():
        folded = model(x)
    for one, other in zip(folded, model(x)):
        torch.testing.assert_close(one, other.detach(), rtol=1e-10, atol=1e-10)


def test_batch_norm_that_is_trained_is_not_folded():
    model = create("MobileNet", num_classes=10).train()
    before = model.bn1.running_mean.clone()
    with torch.no_grad():
        model(images(3))
    assert not model.bn1.running_mean.equal(before)
