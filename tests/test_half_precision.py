"""results/half_precision.py, and the models that come with the project."""
from pathlib import Path

import pytest
import torch

from conftest import ROOT, results_script
from hybridrepair.base import checkpoint
from mymodels import create

SHIPPED = "check_point/cifar10/ckpt_bias/MobileNet_0_b.t7"
half_precision = results_script("half_precision")


def saved(folder: Path, **changed: object) -> Path:
    """A checkpoint of a small network, with some of its weights or entries changed."""
    weights = checkpoint.weights_of(create("ShuffleNetG2", 10, 3))
    checkpoint.save(folder / "a.t7", {"net": weights, "acc": 81.0, "epoch": 7, "settings": {"lr": 0.1}} | changed)
    return folder / "a.t7"


def test_half_the_bytes_hold_nearly_the_same_network(tmp_path, capsys):
    path = saved(tmp_path)
    before, size = checkpoint.load(path), path.stat().st_size
    half_precision.main(path)
    after = checkpoint.load(path)
    assert path.stat().st_size < 0.6 * size and f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert {name: after[name] for name in ("acc", "epoch", "settings")} == {"acc": 81.0, "epoch": 7, "settings": {"lr": 0.1}}
    assert after["shipped"] and checkpoint.shipped(path)
    networks = [create("ShuffleNetG2", 10, 3).eval() for _ in range(2)]
    for network, content in zip(networks, (before, after)):
        checkpoint.fit(network, content, path)
        assert all(value.dtype == torch.float32 for value in network.parameters())
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (network(images)[0] for network in networks)
    torch.testing.assert_close(one, other, rtol=0.01, atol=0.01)
    half_precision.main(path)  # once more changes nothing
    assert checkpoint.load(path)["net"].keys() == after["net"].keys()
    assert all(value.equal(after["net"][name]) for name, value in checkpoint.load(path)["net"].items())


@pytest.mark.parametrize("net, reason", [
    ({"weight": torch.tensor([1.0, 70_000.0])}, "weight of .* has values that are not finite in half precision"),
    ({"weight": torch.zeros(4_000_000)}, "8,000,000 bytes in half precision, more than 7,000,000"),
    ("none", "has no state_dict"),
])
def test_what_cannot_be_shipped_is_refused_and_stays_as_it_is(tmp_path, net, reason):
    path = saved(tmp_path, net=net)
    before = path.read_bytes()
    with pytest.raises(half_precision.UserError, match=reason):
        half_precision.main(path)
    assert path.read_bytes() == before


def test_the_model_that_comes_with_the_project_is_small_whole_and_says_how_it_was_made():
    path = ROOT / SHIPPED
    assert path.stat().st_size <= 7_000_000 and checkpoint.shipped(path)
    model = create("MobileNet", 10, 3)
    others = checkpoint.fit(model, checkpoint.load(path), path)
    settings = others["settings"]
    assert (settings["dataset"], settings["model"], settings["class_weight"]) == ("cifar10", "MobileNet", 0)
    told = (path.parents[1] / "README.md").read_text()
    for fact in (str(settings["n_epochs"]), f"{others['acc']:.2f}", f"epoch {others['epoch']}"):
        assert fact in told
