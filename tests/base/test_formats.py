"""formats.py: checkpoints of others are read without running anything, and written again as they were found."""
import argparse
import re
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hybridrepair.base import formats
from hybridrepair.base.errors import UserError


def refusal(function, *args) -> str:
    """The message of the UserError that function(*args) raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def model() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)))


def bare(weights: dict) -> dict:
    return weights


def wrapped(entry: str, **others):
    return lambda weights: {"epoch": 3, entry: weights, **others}


def prefixed(prefix: str):
    return lambda weights: OrderedDict((prefix + name, value) for name, value in weights.items())


def half(weights: dict) -> dict:
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


FORMATS = {"bare": bare, "net": wrapped("net", acc=81.5), "state_dict": wrapped("state_dict", optimizer={"lr": [0.1]}),
           "model": wrapped("model", classes=("a", "b", "c", "d")), "parallel": prefixed("module."), "compiled": prefixed("_orig_mod."),
           "both": prefixed("module._orig_mod."), "half": half}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".t7"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_repaired_is_written_in_the_format_of_what_was_read(tmp_path, name, suffix):
    source = model()
    path, new = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    torch.save(FORMATS[name](source.state_dict()), path)
    found, ours = formats.read(path), model()
    formats.fit(ours, found, "net")
    for key, value in source.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        for value in ours.parameters():
            value += 1
    formats.write(new, found, ours, acc=90.0, epoch=2, settings={"a": 1})
    expected = FORMATS[name](ours.state_dict()) | ({"acc": 90.0, "epoch": 2} if name == "net" else {})
    assert same(torch.load(new, weights_only=True), expected)
    again = model()
    formats.fit(again, formats.read(new), "net")
    torch.testing.assert_close(again.conv.weight, ours.conv.weight, rtol=1e-3, atol=1e-3)


def test_a_moving_average_of_the_weights_becomes_the_repaired_weights_and_other_tensors_stay(tmp_path):
    source, ours = model(), model()
    average = {f"module.{name}": value + 5 for name, value in source.state_dict().items()}
    statistics = {"mean": torch.tensor([0.5])}
    torch.save({"state_dict": source.state_dict(), "state_dict_ema": average, "statistics": statistics}, tmp_path / "a.pt")
    formats.write(tmp_path / "b.pt", formats.read(tmp_path / "a.pt"), ours)
    new = torch.load(tmp_path / "b.pt", weights_only=True)
    assert same(new["state_dict_ema"], prefixed("module.")(ours.state_dict())) and same(new["state_dict"], dict(ours.state_dict()))
    assert same(new["statistics"], statistics)


def test_a_file_without_batch_norm_s_counts_is_written_without_them(tmp_path):
    source, ours = model().state_dict(), model()
    del source["bn.num_batches_tracked"]
    torch.save({"state_dict": source, "state_dict_ema": dict(source)}, tmp_path / "a.pt")
    found = formats.read(tmp_path / "a.pt")
    formats.fit(ours, found, "net")
    with torch.no_grad():
        ours.conv.bias += 1
    formats.write(tmp_path / "b.pt", found, ours)
    new = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(new["state_dict"]) == list(new["state_dict_ema"]) == list(source)
    assert new["state_dict"]["conv.bias"].equal(ours.conv.bias) and new["state_dict_ema"]["conv.bias"].equal(ours.conv.bias)


def same(one, other) -> bool:
    """Whether two nested dicts have the same entries in the same order, tensors of the same type and values."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    return one.dtype == other.dtype and one.equal(other) if isinstance(one, Tensor) else one == other


def test_a_network_that_has_a_part_called_module_keeps_its_names(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    source, ours = Holder(), Holder()
    torch.save(source.state_dict(), tmp_path / "a.pt")
    formats.fit(ours, formats.read(tmp_path / "a.pt"), "net")
    assert ours.module.weight.equal(source.module.weight)


def test_safetensors_are_read_and_written_with_their_types_and_what_they_say_of_themselves(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    source, path, new = model(), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    safetensors.save_file(half(source.state_dict()), path, {"class_names": '["cat", "dog"]', "format": "pt"})
    found, ours = formats.read(path), model()
    formats.fit(ours, found, "net")
    assert found.class_names == ["cat", "dog"]
    torch.testing.assert_close(ours.conv.weight, source.conv.weight, rtol=1e-3, atol=1e-3)
    formats.write(new, found, ours, acc=1.0)
    assert same(safetensors.load_file(new), safetensors.load_file(path)) and formats.read(new).metadata == found.metadata
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in refusal(formats.read, path)
    assert "does not exist" in refusal(formats.read, tmp_path / "none.safetensors")


def test_safetensors_that_is_missing_is_told_with_what_installs_it(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert "pip install safetensors" in refusal(formats.read, tmp_path / "a.safetensors")


@pytest.mark.parametrize("content, held", [
    (model(), r"torch\.nn\.modules\.container\.Sequential"), ({"net": {}, "args": argparse.Namespace(a=1)}, r"argparse\.Namespace")])
def test_a_file_that_holds_more_than_plain_values_is_refused_with_how_to_save_it(tmp_path, content, held):
    torch.save(content, tmp_path / "a.pt")
    message = refusal(formats.read, tmp_path / "a.pt")
    assert re.search(f"cannot be read without running code: it holds {held}, .*model.state_dict\\(\\), PATH", message), message


@pytest.mark.parametrize("content", [{"net": 3}, {"state_dict": {"conv.weight": 3}}, {"weights": {}}, {0: torch.ones(1)}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert "is no state_dict, and has none in its entry 'net', 'state_dict', 'model'" in refusal(formats.read, tmp_path / "a.pt")


# --- classes

def found(**others) -> formats.Checkpoint:
    return formats.Checkpoint(Path("a.pt"), {"net": {}, **others}, "net", {})


@pytest.mark.parametrize("others", [
    {"classes": ["cat", "dog"]}, {"class_names": ("cat", "dog")}, {"class_to_idx": {"dog": 1, "cat": 0}}, {"classes": "cat, dog"},
    {"class_names": '["cat", "dog"]'}, {"classes": None, "class_to_idx": '{"dog": 1, "cat": 0}'},
    {"classes": {1: "dog", 0: "cat"}}, {"class_names": '{"1": "dog", "0": "cat"}'}])
def test_names_of_classes_are_found_and_their_order_is_checked(others):
    assert found(**others).class_names == ["cat", "dog"]
    formats.check_classes(found(**others), ["cat", "dog"])
    assert "class 0 is 'cat' in checkpoint a.pt, but 'dog' in the dataset" in refusal(
        formats.check_classes, found(**others), ["dog", "cat"])
    assert "2 classes" in refusal(formats.check_classes, found(**others), ["cat", "dog", "bird"])


def test_numbers_from_ten_on_are_in_their_order_and_names_may_be_numbers():
    assert found(classes={str(n): f"c{n}" for n in reversed(range(12))}).class_names == [f"c{n}" for n in range(12)]
    assert found(class_to_idx={"7": 1, "9": 0}).class_names == ["9", "7"]


def test_classes_are_not_checked_where_one_side_has_no_names():
    formats.check_classes(found(), ["cat", "dog"])
    formats.check_classes(found(classes=["cat", "dog"]), ["0", "1"])  # the dataset's are numbered
    assert "class 0 is '1'" in refusal(formats.check_classes, found(classes=[1, 0]), ["0", "1"])


def test_an_entry_that_does_not_number_the_classes_is_refused():
    assert "does not number the classes in its entry 'class_to_idx'" in refusal(
        lambda: found(class_to_idx={"cat": 0, "dog": "one"}).class_names)
    assert found(classes="[" * 3000).class_names == ["[" * 3000]
