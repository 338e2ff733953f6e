"""sources.py: networks of others give logits and features, and stay the networks they are."""
import copy
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import regnet

from hybridrepair.base.device import on_machine
from hybridrepair.base.errors import UserError
from mymodels import create, sources
from mymodels.sources import featured, file_name, logits_of, pooled

SIZE = (32, 32)
FILE = '''
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, num_classes))

def four():
    return build(4)

def fails(num_classes):
    raise ValueError("no such thing")

def function(num_classes):
    return lambda x: x
'''


@pytest.fixture
def file(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FILE)
    return "net.py"


def refusal(function, *args, **more) -> str:
    """The message of the UserError that the call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def weightless(monkeypatch):
    """Networks of shapes alone: the layout of RegNets is computed, and needs numbers."""
    of = regnet.BlockParams.from_init_params.__func__

    def computed(cls, *args, **more):
        with torch.device("cpu"):
            return of(cls, *args, **more)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(computed))
    with torch.device("meta"):
        yield


def families() -> list[str]:
    """A classifier of each of torchvision's families; all of them where HYBRIDREPAIR_ALL_MODELS is set, which takes a minute."""
    names = sources.torchvision_names()
    if os.environ.get("HYBRIDREPAIR_ALL_MODELS"):
        return names
    return list({models.get_model_builder(name).__module__: name for name in reversed(names)}.values())


# --- torchvision

@pytest.mark.parametrize("name", families())
@torch.no_grad()
def test_classifiers_of_torchvision_give_logits_and_the_input_of_what_gives_the_classes(monkeypatch, name):
    side = 299 if name == "inception_v3" else 224
    with weightless(monkeypatch):
        model, x = create(f"torchvision:{name}", 7, size=(side, side)), torch.zeros(2, 3, side, side)
        logits, features = model.eval()(x)
    assert logits.shape == (2, 7)
    head = model.network.get_submodule(model.layer)
    assert features.shape == (2, head.weight.shape[1]) and len(head.weight) == 7


@torch.no_grad()
def test_logits_are_those_of_the_network_and_the_head_makes_them_of_the_features():
    model = create("torchvision:mobilenet_v3_small", 5, size=SIZE).eval()
    x = torch.randn(3, 3, *SIZE)
    logits, features = model(x)
    assert logits.equal(model.network(x)) and list(model.state_dict()) == list(models.mobilenet_v3_small(num_classes=5).state_dict())
    torch.testing.assert_close(model.network.classifier[3](features), logits)


@torch.no_grad()
def test_a_head_of_1x1_convolutions_is_found_and_its_input_pooled():
    model = create("torchvision:squeezenet1_1", 5, size=(64, 64)).eval()
    x = torch.randn(2, 3, 64, 64)
    assert model.layer == "classifier.1"
    torch.testing.assert_close(model(x)[1], model.network.features(x).mean((2, 3)))


def test_auxiliary_outputs_are_left_out_and_built_where_the_weights_have_them():
    whole = create("torchvision:googlenet", 4, size=SIZE)
    plain = [key for key in whole.state_dict() if "aux" not in key]
    assert len(plain) < len(whole.state_dict())
    assert list(create("torchvision:googlenet", 4, size=SIZE, keys=plain).state_dict()) == plain
    logits, features = whole.train()(torch.randn(2, 3, *SIZE))
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert features.shape == (2, 1024) and whole.network.fc.weight.grad.any() and whole.network.aux1.fc2.weight.grad is None


def test_looking_for_features_leaves_weights_statistics_mode_and_randomness_as_they_were():
    def network() -> nn.Module:
        torch.manual_seed(1)
        return models.mobilenet_v3_small(num_classes=4)

    before, state = network().state_dict(), torch.get_rng_state()
    model = featured(network(), "net", 4, (3, *SIZE))
    assert torch.get_rng_state().equal(state) and model.training and model.network.training
    assert all(value.equal(model.state_dict()[key]) for key, value in before.items())


# --- the contract

def test_a_copy_sees_with_its_own_layers_and_its_state_is_that_of_the_network(file):
    model = create(f"{file}:build", 3, size=SIZE)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.network[0].weight.zero_()
        twin.network[0].bias.fill_(2.0)
    x = torch.randn(2, 3, *SIZE)
    assert twin(x)[1].tolist() == [[2.0] * 5] * 2 and not model(x)[1].equal(twin(x)[1])
    assert list(model.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    model.load_state_dict(twin.state_dict())
    assert model(x)[1].equal(twin(x)[1])


def test_it_computes_at_the_precision_and_in_the_layout_of_the_machine(file):
    model = create(f"{file}:build", 3, size=SIZE)
    plain = copy.deepcopy(model)
    on_machine(model, SimpleNamespace(precision="bfloat16", compile=False), torch.device("cpu"))
    x = torch.randn(2, 3, *SIZE)
    for outputs, expected in zip(copy.deepcopy(model)(x), plain(x)):
        assert outputs.dtype == torch.float32 and not outputs.equal(expected)
        torch.testing.assert_close(outputs, expected, rtol=0.05, atol=0.05)


def test_it_can_be_compiled(file):
    model = create(f"{file}:build", 3, size=SIZE)
    x = torch.randn(2, 3, *SIZE)
    expected = model(x)
    model.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        for outputs, each in zip(model(x), expected):
            torch.testing.assert_close(outputs, each)


class Two(nn.Module):
    """Linear layers that are executed in another order than they are defined in."""

    def __init__(self, outputs=None):
        super().__init__()
        self.last, self.first, self.unused = nn.Linear(6, 4), nn.Linear(3, 6), nn.Linear(2, 4)
        self.outputs = outputs or (lambda logits: logits)

    def forward(self, x: Tensor):
        return self.outputs(self.last(self.first(x.mean((2, 3)))))


@pytest.mark.parametrize("outputs", [
    lambda logits: (logits, logits + 1), lambda logits: {"logits": logits}, lambda logits: SimpleNamespace(logits=logits),
    lambda logits: models.GoogLeNetOutputs(logits, logits + 1, None)])
def test_main_logits_are_taken_from_what_a_network_returns(outputs):
    logits = torch.randn(2, 3)
    assert logits_of(outputs(logits)).equal(logits) and featured(Two(outputs), "net", 4, (3, 8, 8)).layer == "last"


def test_the_last_linear_layer_is_the_last_in_execution_and_another_can_be_named():
    x, two = torch.randn(2, 3, 8, 8), Two()
    for layer, expected in ((None, two.first(x.mean((2, 3)))), ("first", x.mean((2, 3)))):
        assert featured(copy.deepcopy(two), "net", 4, (3, 8, 8), layer)(x)[1].equal(expected)


class Weighted(nn.Module):
    """Logits that a layer behind the head weighs."""

    def __init__(self):
        super().__init__()
        self.head, self.conf = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(x.mean((2, 3)))
        return logits * self.conf(logits).sigmoid()


class Parted(nn.Module):
    """Logits of two layers, none of which gives them all."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.three = nn.Linear(3, 6), nn.Linear(6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.mean((2, 3)))
        return torch.cat([self.one(x), self.three(x)], 1)


def test_features_are_those_of_the_last_layer_that_gives_the_classes_or_else_of_the_last_linear_one():
    assert featured(Weighted(), "net", 4, (3, 8, 8)).layer == "head" and featured(Parted(), "net", 4, (3, 8, 8)).layer == "three"


def test_what_a_layer_reads_is_pooled_over_places():
    tokens, maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[[1.0, 2.0]], [[5.0, 6.0]]]])  # [1, 2, 2], [1, 2, 1, 2]
    linear, other = nn.Linear(2, 2), nn.Identity()
    assert pooled(tokens, linear).tolist() == [[2, 3]] and pooled(maps, linear).tolist() == [[3, 4]]
    assert pooled(maps, other).tolist() == [[1.5, 5.5]] and pooled(tokens[0], other).equal(tokens[0])


# --- the other sources

def test_a_function_in_a_file_is_called_with_the_number_of_classes_if_it_takes_an_argument(file):
    for function in ("build", "four"):
        assert create(f"{file}:{function}", 4, size=SIZE)(torch.zeros(2, 3, *SIZE))[0].shape == (2, 4)


@torch.no_grad()
def test_a_model_of_timm_gives_logits_and_features():
    pytest.importorskip("timm")
    model = create("timm:resnet18", 4, in_channels=1, size=SIZE).eval()
    logits, features = model(torch.randn(2, 1, *SIZE))
    torch.testing.assert_close(model.network.fc(features), logits)
    assert features.shape == (2, 512) and model.state_dict()["conv1.weight"].shape == (64, 1, 7, 7)
    assert "resnet18" in refusal(create, "timm:resnet_18", 4)


def test_timm_that_is_missing_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert "pip install timm" in refusal(create, "timm:resnet18", 4)


# --- refusals

@pytest.mark.parametrize("function, parts", [
    ("four", ["gives 4 classes", "the dataset has 5"]), ("fails", ["fails (ValueError: no such thing)"]),
    ("function", ["returns a function", "torch.nn.Module"]), ("none", ["no function 'none'"])])
def test_a_function_that_makes_no_such_network_is_told(file, function, parts):
    message = refusal(create, f"{file}:{function}", 5, size=SIZE)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("name, size, parts", [
    ("torchvision:resnet81", (32, 32), ["no classifier 'resnet81'", "resnet18"]),
    ("torchvision:vit_b_32", (32, 32), ["cannot take images of 3 x 32 x 32", "Expected 224"]),
    ("torchvision:inception_v3", (224, 224), ["cannot take images of 3 x 224 x 224"])])  # its auxiliary outputs, in training
def test_a_model_of_torchvision_that_is_not_there_or_takes_no_such_images_is_told(monkeypatch, name, size, parts):
    with weightless(monkeypatch):
        message = refusal(create, name, 5, size=size)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("layer, parts", [
    ("lats", ["--feature_layer lats does not exist", "last"]), ("unused", ["unused is not called", "last, first"]),
    ("network", ["does not exist"])])
def test_a_wrong_feature_layer_is_told_with_some_to_choose_from(layer, parts):
    message = refusal(featured, Two(), "net", 4, (3, 8, 8), layer)
    assert all(part in message for part in parts), message


def test_a_network_that_classifies_nothing_or_has_no_linear_layer_is_told():
    assert "gives [2, 3, 6, 6] for two images" in refusal(featured, nn.Conv2d(3, 3, 3), "net", 3, (3, 8, 8))
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "--feature_layer" in refusal(featured, pool, "net", 3, (3, 8, 8))
    assert featured(pool, "net", 3, (3, 8, 8), "0")(torch.ones(2, 3, 8, 8))[1].shape == (2, 3)


def test_features_of_our_own_networks_cannot_be_named():
    assert "leave it out" in refusal(create, "MobileNet", 4, feature_layer="linear")


# --- names of files

@pytest.mark.parametrize("name, expected", [
    ("MobileNet", "MobileNet"), ("torchvision:resnet50", "torchvision_resnet50"), ("timm:vit_tiny.in1k", "timm_vit_tiny.in1k"),
    ("timm:hub/a b", "timm_hub_a_b"), ("path/to/net.py:build", "net_build"), ("/x/my net.py:build", "my_net_build")])
def test_names_of_models_in_names_of_files(name, expected):
    assert file_name(name) == expected
