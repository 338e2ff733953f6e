"""arguments.py: numbers within their range, mistakes in one sentence, and a device that works."""
import argparse
import copy

import pytest
import torch

from arguments import SEED, Parser, add_machine, device_of, number, on_machine
from errors import UserError


def parser() -> Parser:
    made = Parser("Does a thing.\n\n    python thing.py --size 3")
    made.add_argument("--size", type=number(int, 1), default=3, help="number of things")
    made.add_argument("--share", type=number(float, 0, 1), default=0.5, help="share of things")
    made.add_argument("--kind", choices=("flat", "round"), help="kind of thing")
    made.add_argument("--name", required=True, help="name of the thing")
    add_machine(made)
    return made


@pytest.mark.parametrize("settings, text, value", [
    ((int, 1), "1", 1), ((int, 0), "0", 0), ((int, 0), "1000000", 1000000), ((int, -2), "-2", -2), ((float, 0), "0", 0),
    ((float, 0), "1e-3", 0.001), ((float, 0, 1), "1", 1), ((float, 0, 1), "0", 0), ((float, 0, 1, True), "1e-9", 1e-9),
])
def test_a_number_from_the_least_to_the_most_is_taken(settings, text, value):
    parsed = number(*settings)(text)
    assert parsed == value and type(parsed) is settings[0]


@pytest.mark.parametrize("settings, text, wanted", [
    ((int, 1), "0", "1 or more"), ((int, 0), "-1", "0 or more"), ((float, 0, 1), "1.001", "0 or more and at most 1"),
    ((float, 0, 1), "-0.001", "0 or more and at most 1"), ((float, 0, float("inf"), True), "0", "above 0"),
    ((float, 0), "nan", "0 or more"), ((float, 0), "inf", "0 or more"), ((float, 0), "1e999", "0 or more"),
    ((float, 0, 1, True), "nan", "above 0 and at most 1"),
])
def test_a_number_out_of_range_is_refused_with_the_range(settings, text, wanted):
    with pytest.raises(argparse.ArgumentTypeError) as refusal:
        number(*settings)(text)
    assert str(refusal.value) == f"{text} is out of range: give a number {wanted}"


@pytest.mark.parametrize("argv, message", [
    (["--size", "0"], "argument --size: 0 is out of range: give a number 1 or more"),
    (["--size", "1.5"], "argument --size: invalid whole number value: '1.5'"),
    (["--share", "half"], "argument --share: invalid number value: 'half'"),
    (["--num_workers", "-1"], "argument --num_workers: -1 is out of range: give a number 0 or more"),
    (["--kind", "square"], "argument --kind: invalid choice: 'square'"),
    (["--size"], "argument --size: expected one argument"),
    (["--colour", "red"], "unrecognized arguments: --colour red"),
    (["--siz", "3"], "unrecognized arguments: --siz 3"),  # no abbreviations: a new flag would change their meaning
    (["more"], "unrecognized arguments: more"),
])
def test_a_mistake_ends_in_one_sentence_and_status_2(capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(["--name", "a", *argv])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: {message}")
    assert error.count("\n") == 1 and error.endswith(" --help\n")


def test_a_flag_that_is_missing_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args([])
    assert stop.value.code == 2 and "required: --name;" in capsys.readouterr().err


def test_help_keeps_the_lines_of_the_docstring_and_names_the_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(["--help"])
    out = capsys.readouterr().out
    assert not stop.value.code and "Does a thing.\n\n    python thing.py --size 3\n" in out
    assert "number of things (default: 3)" in " ".join(out.split())


def test_the_default_device_is_one_that_works():
    args = parser().parse_args(["--name", "a"])
    assert device_of(args.device).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert args.num_workers == 0 and SEED == 10  # the published seed


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


def test_a_whole_number_too_long_for_a_float_is_out_of_range():
    with pytest.raises(argparse.ArgumentTypeError, match="out of range"):
        number(int, 0)("9" * 400)


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
    return on_machine(Pair(), parser().parse_args(["--name", "a", *flags]), torch.device("cpu"))


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
