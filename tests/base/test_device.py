"""device.py: a device that works or is refused, and the networks on it in lower precision or compiled."""
import copy
import os
from argparse import Namespace

import pytest
import torch
from torch import nn

from conftest import refusal
from hybridrepair.base import processes
from hybridrepair.base.device import compiles, device_among, device_of, on_machine, seeded
from hybridrepair.base.errors import UserError
from hybridrepair.run.flags import Parser, add_machine


def parser() -> Parser:
    made = Parser("Does a thing.")
    add_machine(made)
    return made


@pytest.mark.parametrize("name", ["nonsense", "", "cuda:99", "cpu:x"])
def test_a_device_that_does_not_work_is_refused_in_one_line_that_names_it(name):
    with pytest.raises(UserError) as refusal:
        device_of(name)
    message = str(refusal.value)
    assert message.startswith(f"device {name} cannot be used (") and "\n" not in message and "--device cpu" in message


def test_of_a_long_complaint_of_torch_the_first_line_is_given(monkeypatch):
    def fail(*args, **more):
        raise RuntimeError("CUDA error: out of memory.\nCompile with TORCH_USE_CUDA_DSA ...")

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(UserError, match=r"device cpu cannot be used \(CUDA error: out of memory\); "):
        device_of("cpu")


@pytest.mark.parametrize("name", ["meta", "hpu"])
def test_a_device_that_has_a_name_but_does_not_compute_is_refused_in_one_sentence(name):
    with pytest.raises(UserError, match=f"device {name} cannot be used .*; give --device cpu"):
        device_of(name)


def test_cuda_is_told_to_repeat_itself(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch, "zeros", lambda *args, zeros=torch.zeros, **more: zeros(1))  # as if there were one
    assert device_of("cuda").type == "cuda"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


def test_a_device_without_float64_is_refused_in_one_sentence(monkeypatch):
    def fail(*args, dtype=None, **more):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the framework has none. Please use float32.")
        return torch.ones(1)

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(UserError, match=r"device mps cannot be used \(Cannot convert a MPS Tensor to float64 .*; give --device cpu"):
        device_of("mps")


# the networks on the machine

class Pair(torch.nn.Module):
    """Gives logits and features, as models under repair do."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(16, 3)

    def forward(self, x):
        return self.linear(x), x * self.linear.weight[0]


def placed(*flags: str) -> Pair:
    torch.manual_seed(0)
    return on_machine(Pair(), parser().parse_args(list(flags)), torch.device("cpu"))


def test_lower_precision_rounds_and_gives_float32():
    x = torch.randn(5, 16)
    exact, rounded = placed()(x), placed("--precision", "bfloat16")(x)
    assert all(part.dtype == torch.float32 for part in (*exact, *rounded))
    assert not exact[0].equal(rounded[0])
    assert rounded[0].allclose(exact[0], atol=0.05) and rounded[0].equal(rounded[0].bfloat16().float())


def test_a_copy_computes_with_its_own_weights_at_the_same_precision():
    model, x = placed("--precision", "bfloat16"), torch.randn(5, 16)
    twin = copy.deepcopy(model)
    assert twin(x)[0].equal(model(x)[0])
    with torch.no_grad():
        twin.linear.bias += 1
    assert twin(x)[0].allclose(model(x)[0] + 1, atol=0.05) and not twin(x)[0].equal(model(x)[0])


def test_gradients_and_weights_stay_float32_at_lower_precision():
    model = placed("--precision", "bfloat16")
    model(torch.randn(5, 16))[0].sum().backward()
    assert model.linear.weight.dtype == model.linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kernel, stride, padding, side", [(3, 2, 1, (1, 1)), (3, 2, 1, (4, 1)), (3, 3, 1, (2, 2)), (5, 4, 2, (2, 3)),
                                                           (7, 4, 2, (3, 3))])
def test_a_convolution_of_maps_narrower_than_its_stride_has_no_gradient_of_whatever_the_memory_held(kernel, stride, padding, side):
    torch.manual_seed(0)
    exact = nn.Conv2d(64, 128, kernel, stride, padding, bias=False)
    rounded = on_machine(nn.Sequential(copy.deepcopy(exact)), parser().parse_args(["--precision", "bfloat16"]), torch.device("cpu"))
    twin, x = copy.deepcopy(rounded), torch.randn(64, 64, *side)
    exact(x).square().sum().backward()
    for model in (rounded, twin) * 3:
        model.zero_grad()
        freed = [torch.full_like(exact.weight, torch.nan) for _ in range(4)]
        del freed
        model(x).square().sum().backward()
        assert model[0].weight.grad.allclose(exact.weight.grad, rtol=0.1, atol=0.1)


def test_other_convolutions_compute_in_bfloat16_and_one_with_a_forward_of_its_own_keeps_that():
    layers = nn.ModuleList([nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, stride=2)])
    layers[2].forward = lambda x: x
    net = nn.Sequential(layers[0])
    net.layers = layers
    net = on_machine(net, parser().parse_args(["--precision", "bfloat16"]), torch.device("cpu"))
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layers[0](input=x).dtype == layers[1](x).dtype == torch.bfloat16
    assert layers[2](x) is x


def test_compiled_networks_compute_the_same(monkeypatch):
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, compile=torch.nn.Module.compile: compile(self, backend=backend))
    x = torch.randn(5, 16)
    assert placed("--compile")(x)[0].equal(placed()(x)[0]) and len(calls) == 1
    twin = copy.deepcopy(placed("--compile"))
    assert twin(x)[0].equal(placed()(x)[0]) and twin.state_dict().keys() == placed().state_dict().keys()


def test_draws_repeat_for_a_seed_of_64_bits_and_leave_the_generators_as_they_were():
    devices = [torch.device("cpu")] + [torch.device("cuda", 0)] * torch.cuda.is_available()
    for device in devices:
        torch.manual_seed(1)
        expected = torch.rand(4, device=device)
        torch.manual_seed(1)
        found = []
        for seed in (2 ** 64 - 1, 2 ** 64 - 1, 3):
            with seeded(seed, device):
                found.append(torch.rand(4, device=device))
        assert found[0].equal(found[1]) and not found[0].equal(found[2]) and torch.rand(4, device=device).equal(expected)


def test_each_of_several_processes_takes_the_gpu_of_its_number_on_its_machine(monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(processes, "_size", 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert device_among(torch.device("cuda")) == torch.device("cuda", 1) and taken == [torch.device("cuda", 1)]
    assert device_among(torch.device("cpu")) == torch.device("cpu")
    assert capsys.readouterr().out == ("4 processes on 2 machines share the work, by nccl\n"
                                       "4 processes on 2 machines share the work, by gloo\n")
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match="each process takes a GPU of its own, and this machine has 2"):
            device_among(torch.device(name))
    assert "device meta cannot be used (several processes compute on CUDA or on the CPU)" in refusal(device_of, "meta")


def test_networks_are_compiled_where_asked_for_but_not_by_several_processes(monkeypatch):
    asked, other = Namespace(compile=True), Namespace(compile=False)
    assert compiles(asked) and not compiles(other)
    monkeypatch.setattr(processes, "_size", 2)
    assert not compiles(asked)
