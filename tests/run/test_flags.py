"""flags.py: numbers within their range, mistakes in one sentence, and a device that works."""
import argparse
import re

import pytest
import torch

import pretrain_moco
import repair
import selection
import tables
import train_classifier
from hybridrepair.base.device import device_of
from hybridrepair.run.flags import SEED, Parser, add_machine, number


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


@pytest.mark.parametrize("parse", [train_classifier.parse_args, pretrain_moco.parse_args, selection.parse_args, repair.parse_args])
def test_every_entry_takes_the_same_sizes_and_may_leave_out_damaged_images(parse, capsys):
    usual, asked = parse(["--dataset", "signs"]), parse(["--img_size", "512", "--skip_bad"])
    assert (usual.img_size, usual.skip_bad, asked.img_size, asked.skip_bad) == (None, False, 512, True)
    assert parse(["--img_size", "8"]).img_size == 8
    for size in ("7", "513"):
        with pytest.raises(SystemExit):
            parse(["--img_size", size])
        assert f"{size} is out of range: give a number 8 or more and at most 512" in capsys.readouterr().err


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


def test_a_whole_number_too_long_for_a_float_is_out_of_range():
    with pytest.raises(argparse.ArgumentTypeError, match="out of range"):
        number(int, 0)("9" * 400)


@pytest.mark.parametrize("entry", [train_classifier, pretrain_moco, selection, repair, tables])
def test_help_says_each_default_once_as_a_user_would_write_it(entry, capsys):
    with pytest.raises(SystemExit):
        entry.parse_args(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "(default: " in told and not re.search(r"\(default: (None|\[)|Path\(|\(default: [^()]*\) \(default: ", told)
