"""models.py: a model of each source is repaired, and its checkpoint takes the place of the old one."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

import repair
from conftest import read_rows, write_small
from hybridrepair.base import errors
from hybridrepair.images.augment import Normalise
from hybridrepair.images.data import load

NET = '''
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))
'''
T2, CLASSES, NAMES = slice(220, 340), 4, ["zero", "one", "two", "three"]


@pytest.fixture
def field(tmp_path, monkeypatch) -> Path:
    """A folder with the dataset `small` and a file that builds a network, as the working directory."""
    write_small(tmp_path / "data")
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arch: str, path: str, *flags: str) -> dict[str, str]:
    """The row of a repair of the checkpoint `path`."""
    repair.main(repair.parse_args(["--dataset", "small", "--data_path", "data", "--fe", "model2test", "--auto_tao", "--u_weight",
                                   "--p_budget", "5", "--retrain_epoch", "1", "--retrain_lr", "0.01", "--device", "cpu",
                                   "--save_path", "out", "--model2test_arch", arch, "--model2test_path", path, *flags]))
    return read_rows(Path("out/results.csv"))[-1]


def refusal(capsys, *given: str) -> str:
    """The one sentence that a repair ends in, with exit status 2."""
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: run(*given))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1
    return message


def own() -> nn.Module:
    names: dict = {}
    exec(NET, names)
    return names["build"](CLASSES)


def torchvisions() -> nn.Module:
    return models.shufflenet_v2_x0_5(num_classes=CLASSES)


def timms() -> nn.Module:
    return pytest.importorskip("timm").create_model("test_resnet", num_classes=CLASSES)


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    """On T2, in percent, computed without this project's networks."""
    dataset = load("small", "data")
    images = Normalise(dataset.mean, dataset.std)(torch.from_numpy(np.array(dataset.images[T2])))
    return 100 * float((network.eval()(images).argmax(1).numpy() == dataset.labels[T2]).mean())


@pytest.mark.parametrize("arch, make, entry, suffix", [
    ("torchvision:shufflenet_v2_x0_5", torchvisions, None, ".pth"), ("timm:test_resnet", timms, "model", ".pt"),
    ("net.py:build", own, "state_dict", ".ckpt")])
def test_a_model_of_each_source_is_repaired_and_loads_where_the_old_one_did(field, arch, make, entry, suffix):
    network = make()
    weights = network.state_dict()
    torch.save(weights if entry is None else {entry: weights, "epoch": 7, "class_names": NAMES}, f"old{suffix}")
    row = run(arch, f"old{suffix}")
    assert row["model"] == arch and float(row["acc_raw"]) == pytest.approx(accuracy(network), abs=1e-3)
    content = torch.load(Path("out", row["run"], f"old_repaired{suffix}"), weights_only=True)
    assert entry is None or {**content, entry: 0} == {entry: 0, "epoch": 7, "class_names": NAMES}
    repaired = make()
    repaired.load_state_dict(content if entry is None else content[entry])
    assert accuracy(repaired) == pytest.approx(float(row["acc_after"]), abs=1e-3)
    assert not all(value.equal(weights[name]) for name, value in repaired.named_parameters())


def test_safetensors_are_repaired_in_their_own_format(field):
    safetensors = pytest.importorskip("safetensors.torch")
    weights = own().half().state_dict()
    safetensors.save_file(weights, "old.safetensors", {"class_to_idx": '{"zero": 0, "one": 1, "two": 2, "three": 3}'})
    row = run("net.py:build", "old.safetensors", "--solution", "badge")
    repaired = safetensors.load_file(Path("out", row["run"], "old_repaired.safetensors"))
    assert {name: value.dtype for name, value in repaired.items()} == {name: value.dtype for name, value in weights.items()}


def test_names_of_folders_and_files_are_safe_for_any_source(field):
    Path("nets").mkdir()
    Path("nets/net.py").write_text(NET)
    folder = Path("check_point/small/ckpt_bias")
    folder.mkdir(parents=True)
    torch.save(own().state_dict(), folder / "net_build_0_b.t7")
    args = repair.parse_args(["--dataset", "small", "--data_path", "data", "--solution", "random", "--p_budget", "5",
                              "--retrain_epoch", "1", "--device", "cpu", "--model2test_arch", "nets/net.py:build"])
    repair.main(args)
    (row,) = read_rows(Path("save/small_net_build/results.csv"))
    assert row["model"] == "nets/net.py:build" and (Path("save/small_net_build") / row["run"] / "net_build_0_b_repaired.t7").is_file()


def test_settings_tell_the_code_the_feature_layer_and_the_parts_of_a_batch_where_there_are_any(field):
    torch.save(own().state_dict(), "old.pt")
    flags = ["--solution", "random"]
    plain = run("net.py:build", "old.pt", *flags)
    assert "micro_batch" not in plain["settings"] and "feature_layer" not in plain["settings"] and "builder=" in plain["settings"]
    assert run("net.py:build", "old.pt", *flags, "--micro_batch", "64") == plain  # no batch has more: the same run
    assert "micro_batch=20" in run("net.py:build", "old.pt", *flags, "--micro_batch", "20")["settings"]
    assert "feature_layer=6" in run("net.py:build", "old.pt", *flags, "--feature_layer", "6")["settings"]
    Path("net.py").write_text(NET.replace("0.1", "0.2"))
    run("net.py:build", "old.pt", *flags)
    assert len(read_rows(Path("out/results.csv"))) == 4


@pytest.mark.parametrize("flags, content, parts", [
    ([], {"net": {}, "classes": ["one", "zero", "two", "three"]}, ["class 0 is 'one' in checkpoint old.pt, but 'zero' in the dataset"]),
    (["--feature_layer", "9"], None, ["--feature_layer 9 does not exist in net.py:build", "8, 6"]),
    ([], {"fc.weight": torch.zeros(2)}, ["old.pt does not fit net.py:build"])])
def test_what_does_not_fit_is_told_before_anything_is_trained(field, capsys, flags, content, parts):
    torch.save(own().state_dict() if content is None else content, "old.pt")
    message = refusal(capsys, "net.py:build", "old.pt", *flags)
    assert all(part in message for part in parts), message
    assert not Path("out/results.csv").exists() and not list(Path().glob("*finetuned*"))


def test_a_model_under_repair_that_is_damaged_or_another_is_named_before_anything_is_written(field, capsys):
    weights, path = own().state_dict(), field / "bought.pth"
    torch.save(weights, path)
    flipped = bytearray(path.read_bytes())
    flipped[flipped.index(weights["0.weight"].numpy().tobytes()) + 100] ^= 1
    whole = path.read_bytes()
    others = {"6.bias has values that are not finite": weights | {"6.bias": torch.tensor([0., float("nan")] * 16)},
              "8.weight is \\(5, 32\\), not \\(4, 32\\)": weights | {"8.weight": torch.zeros(5, 32)},
              "conv.weight is foreign|is missing": {"conv.weight": torch.zeros(3)}}
    found = {"does not have its checksum": bytes(flipped), "is damaged": whole[:len(whole) // 2], "EOFError": b""}
    for why, content in others.items():
        torch.save(content, path)
        found[why] = path.read_bytes()
    for why, content in found.items():
        path.write_bytes(content)
        message = refusal(capsys, "net.py:build", "bought.pth", "--solution", "gini", "--no_replay")
        assert "checkpoint bought.pth" in message and re.search(why, message), message
    assert not list(field.rglob("results.csv")) and not list(field.rglob("*_repaired.pth"))
