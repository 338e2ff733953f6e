"""checkpoint.py: files are written whole or not at all, and what is no checkpoint of the model is refused."""
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError


def refusal(function, *args) -> str:
    """The message of the UserError that function(*args) raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load_weights(model: nn.Module, path: Path) -> dict:
    return checkpoint.fit(model, checkpoint.load(path), path)


def linear(inputs: int = 3) -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(inputs, 4, 3), bn=nn.BatchNorm2d(4)))


# writing

def test_what_cannot_lie_beside_a_file_lies_elsewhere_and_is_found_where_it_is(tmp_path, monkeypatch):
    there, path = tmp_path / "bought", tmp_path / "bought" / "new" / "a.t7"
    assert checkpoint.beside(path, tmp_path / "save") == path
    there.mkdir()
    monkeypatch.setattr(checkpoint.os, "access", lambda folder, mode: Path(folder) != there)
    assert checkpoint.beside(path, tmp_path / "save") == tmp_path / "save" / "a.t7"
    path.parent.mkdir()
    path.touch()
    assert checkpoint.beside(path, tmp_path / "save") == path


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "model.t7"
    checkpoint.save(path, {"epoch": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(path, {"epoch": 2, "what": lambda: None})
    assert checkpoint.load(path) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


# reading

@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_without_batch_norm_s_counts_are_those_of_a_model_whose_counts_stay(prefix):
    source, ours = linear(), linear()
    ours(torch.randn(2, 3, 8, 8))
    weights = {prefix + name: value for name, value in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(weights) == 6
    checkpoint.fit_weights(ours, weights, "old.pth")
    assert ours.conv.weight.equal(source.conv.weight) and ours.bn.running_mean.equal(source.bn.running_mean)
    assert ours.bn.num_batches_tracked == 1


def test_a_round_trip_gives_equal_weights_and_the_other_entries(tmp_path):
    model, copy = linear(), linear()
    model(torch.randn(2, 3, 8, 8))  # moves the running statistics
    entries = {"acc": 81.5, "epoch": 7, "seen": [1, 2]}
    checkpoint.save(tmp_path / "model.t7", {"net": checkpoint.weights_of(model)} | entries)
    assert load_weights(copy, tmp_path / "model.t7") == entries
    assert all(value.equal(copy.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_prefix_of_dataparallel_is_dropped(tmp_path):
    model, copy = linear(), linear()
    torch.save({"net": nn.DataParallel(model).state_dict()}, tmp_path / "model.t7")
    load_weights(copy, tmp_path / "model.t7")
    assert all(value.equal(copy.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_missing_file_is_refused(tmp_path):
    assert "does not exist" in refusal(checkpoint.load, tmp_path / "none.t7")
    assert "does not exist" in refusal(checkpoint.load, tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "model.t7"
    checkpoint.save(path, {"net": linear().state_dict()})
    content = path.read_bytes()
    path.write_bytes(content[:keep if isinstance(keep, int) else int(keep * len(content))])
    assert "cannot be read" in refusal(checkpoint.load, path)


@pytest.mark.parametrize("name", ["data.pkl", "data/0"])
def test_a_flipped_bit_is_told_which_torch_itself_takes_for_a_weight(tmp_path, name):
    path = tmp_path / "model.t7"
    checkpoint.save(path, {"net": linear().state_dict()})
    content = bytearray(path.read_bytes())
    content[content.index(name.encode()) + 200] ^= 1
    path.write_bytes(content)
    assert f"{name} does not have its checksum" in refusal(checkpoint.load, path)


class Trap:
    """A pickle that writes a file when it is read the ordinary way."""
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(content: dict, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, pickled])
def test_a_pickled_object_is_refused_and_nothing_of_it_is_executed(tmp_path, save):
    save({"net": Trap(tmp_path / "executed")}, tmp_path / "model.t7")
    assert "cannot be read" in refusal(checkpoint.load, tmp_path / "model.t7")
    assert not (tmp_path / "executed").exists()


def test_a_file_without_checksums_and_one_of_old_versions_are_read(tmp_path):
    path, content = tmp_path / "model.t7", {"net": linear().state_dict()}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert checkpoint.load(path)["net"].keys() == content["net"].keys()
    checkpoint.save(path, content)
    with zipfile.ZipFile(path) as archive:
        sums = {each.CRC for each in archive.infolist()}
    whole = path.read_bytes()
    for each in sums:
        whole = whole.replace(struct.pack("<I", each), bytes(4))
    path.write_bytes(whole)
    assert checkpoint.load(path)["net"]["conv.weight"].equal(content["net"]["conv.weight"])


def test_an_archive_that_is_compressed_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "model.t7"
    checkpoint.save(path, {"net": {"a": torch.zeros(10 ** 6)}})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    assert path.stat().st_size < 20_000 and "is compressed" in refusal(checkpoint.load, path)


@pytest.mark.parametrize("value, why", [
    (torch.full((4,), float("nan")), "not finite"), (torch.full((4,), float("-inf")), "not finite"),
    (torch.full((4,), 1e300, dtype=torch.float64), "not finite"), (torch.ones(4).to_sparse(), "is sparse"),
    (torch.ones(4, dtype=torch.complex64), "complex"), (torch.empty(4, device="meta"), "without numbers")])
def test_weights_that_nothing_can_be_computed_with_are_refused_with_their_name(tmp_path, value, why):
    model = linear()
    torch.save({"net": linear().state_dict() | {"bn.weight": value}}, tmp_path / "model.t7")
    message = refusal(load_weights, model, tmp_path / "model.t7")
    assert "model.t7 cannot be used: bn.weight" in message and why in message and model.bn.weight.isfinite().all()


def test_a_mask_of_the_network_s_own_may_be_infinite():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))

    checkpoint.fit_weights(Masked(), Masked().state_dict(), "a.pt")


def test_a_tensor_that_repeats_a_few_numbers_without_end_is_refused():
    assert "more than the file holds" in checkpoint.unusable(torch.ones(1).expand(10 ** 6, 10 ** 6))
    assert checkpoint.unusable(torch.ones(1).expand(100)) == ""


def test_a_weight_under_two_names_is_refused():
    weights = linear().state_dict()
    both = {f"module.{name}": value for name, value in weights.items()} | {"conv.bias": weights["conv.bias"] + 1}
    assert "conv.bias is there twice" in refusal(checkpoint.fit_weights, linear(), both, "a.pt")


def test_a_message_does_not_advise_to_run_the_code_in_a_file(tmp_path):
    (tmp_path / "model.t7").write_bytes(pickle.dumps([1, 2], 4))
    assert "weights_only" not in (message := refusal(checkpoint.load, tmp_path / "model.t7")) and "Unsupported operand" in message


def test_a_file_of_another_kind_is_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.arange(3))
    assert "cannot be read" in refusal(checkpoint.load, tmp_path / "array.npy")


@pytest.mark.parametrize("content, kind", [([1, 2], "list"), (torch.ones(2), "Tensor")])
def test_what_is_no_dict_is_refused(tmp_path, content, kind):
    torch.save(content, tmp_path / "model.t7")
    assert f"a {kind}, not a dict" in refusal(checkpoint.load, tmp_path / "model.t7")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"net": 3}, {"net": {"conv.weight": 3}},
                                     {"net": {0: torch.ones(1)}}])
def test_a_checkpoint_without_a_state_dict_in_net_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.t7")
    assert "no state_dict in its entry 'net'" in refusal(load_weights, linear(), tmp_path / "model.t7")


@pytest.mark.parametrize("change, complaint", [
    (lambda net: net | {"fc.weight": torch.ones(2)}, r"fc\.weight is foreign;"),
    (lambda net: {name: net[name] for name in net if name != "bn.weight"}, r"bn\.weight is missing;"),
    (lambda net: net | {"conv.bias": torch.ones(5)}, r"conv\.bias is \(5,\), not \(4,\);"),
    (lambda net: linear(inputs=1).state_dict(), r"conv\.weight is \(4, 1, 3, 3\), not \(4, 3, 3, 3\);"),
    (lambda net: {}, r"conv\.weight is missing and 5 more;"),
])
def test_weights_of_another_model_are_refused_and_the_model_stays_as_it_is(tmp_path, change, complaint):
    model = linear()
    before = checkpoint.weights_of(model)
    torch.save({"net": change(dict(linear().state_dict()))}, tmp_path / "model.t7")
    assert re.search(complaint, refusal(load_weights, model, tmp_path / "model.t7"))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_weights_of_are_a_copy_in_the_default_layout():
    model = linear().to(memory_format=torch.channels_last)
    weights = checkpoint.weights_of(model)
    assert weights["conv.weight"].is_contiguous() and not model.conv.weight.is_contiguous()
    assert weights["conv.weight"].equal(model.conv.weight.detach()) and not weights["conv.weight"].requires_grad
    with torch.no_grad():
        model.conv.bias += 1
    assert (model.conv.bias - weights["conv.bias"]).tolist() == pytest.approx([1] * 4)


def test_settings_that_hold_tensors_are_other_settings(tmp_path):
    checkpoint.save(tmp_path / "a.t7", {"settings": {"lr": torch.ones(2)}})
    assert "instead of 0.1" in refusal(checkpoint.made_with, tmp_path / "a.t7", {"lr": 0.1})
