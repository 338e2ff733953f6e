"""interim.py: each result is computed once for its settings, and anew where its file is damaged or of others."""
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hybridrepair.base.interim import Interim

SETTINGS = {"seed": "10", "data": "0f"}


class Result(NamedTuple):
    values: Tensor
    number: float | None


def result(number: int = 1) -> Result:
    return Result(torch.arange(5) + number, None if number == 2 else number / 3)


def unasked() -> Result:
    raise AssertionError("it is known")


@pytest.fixture
def path(tmp_path) -> Path:
    """A file with two results."""
    kept = Interim(tmp_path / "a.partial.t7", SETTINGS)
    for number in (1, 2):
        assert kept.of(f"result {number}", Result, lambda: result(number)).values.equal(result(number).values)  # noqa: B023
    assert kept.seconds == 0
    return tmp_path / "a.partial.t7"


def test_results_are_found_again_with_the_seconds_that_they_took(path, capsys):
    again = Interim(path, SETTINGS)
    assert capsys.readouterr().out == f"going on with what {path} has\n"
    for number in (2, 1):
        found = again.of(f"result {number}", Result, unasked)
        assert type(found) is Result and found.values.equal(result(number).values) and found.number == result(number).number
    assert again.seconds > 0
    again.of("result 3", Result, lambda: result(3))
    assert Interim(path, SETTINGS).of("result 3", Result, unasked).values.equal(result(3).values)
    assert Interim(path, SETTINGS).of("result 1", Result, unasked).values.equal(result(1).values)


@pytest.mark.parametrize("size", [0, 1, 0.5, -1])
def test_a_damaged_file_counts_as_none(path, size, capsys):
    whole = path.read_bytes()
    path.write_bytes(whole[:int(size * len(whole)) if size == 0.5 else size])
    anew = Interim(path, SETTINGS)
    assert anew.of("result 1", Result, lambda: result(7)).values.equal(result(7).values)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path} cannot be read: it is damaged") and line.endswith("; begun anew")
    assert Interim(path, SETTINGS).of("result 1", Result, unasked).values.equal(result(7).values)


def test_a_file_of_other_settings_counts_as_none(path):
    assert Interim(path, SETTINGS | {"seed": "11"}).of("result 1", Result, lambda: result(7)).values.equal(result(7).values)


def test_when_closed_it_keeps_no_more_and_the_file_stays(path):
    kept = Interim(path, SETTINGS)
    kept.close()
    for name in ("result 1", "result 3"):
        assert kept.of(name, Result, lambda: result(7)).values.equal(result(7).values)
    again = Interim(path, SETTINGS)
    assert again.of("result 1", Result, unasked).values.equal(result(1).values)
    assert again.of("result 3", Result, lambda: result(8)).values.equal(result(8).values)


def test_without_a_path_nothing_is_kept(tmp_path):
    for number in (1, 2):
        assert Interim().of("result", Result, lambda: result(number)).values.equal(result(number).values)  # noqa: B023
    assert not list(tmp_path.iterdir())
