"""states.py: of two states the newest whole one is gone on from, and one that does not fit is named."""
import random
from pathlib import Path

import pytest
import torch

from conftest import refusal
from hybridrepair.base import states
from hybridrepair.base.errors import UserError
from hybridrepair.base.seals import MARK
from hybridrepair.base.states import Kept, read_state, states_of

SETTINGS = {"seed": 10, "data": "0f", "lr": 0.1}
DAMAGES = {
    "truncated": lambda content: content[:len(content) // 2], "cut at its end": lambda content: content[:-1],
    "empty": lambda content: b"", "longer": lambda content: content + b"\0", "of zeros": lambda content: bytes(len(content)),
    "without its seal": lambda content: content[:content.rindex(MARK)], "a bit flipped": lambda content: flipped(content, 12345)}


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def weights(number: int) -> dict:
    return {"model": {"weight": torch.full((30, 30), float(number))}, "number": number}


@pytest.fixture
def path(tmp_path) -> Path:
    """The file of a training that has written three states."""
    kept = Kept(tmp_path / "a.partial.t7", SETTINGS, 0)
    assert kept.state is None
    for number in (1, 2, 3):
        kept.save(lambda: weights(number))  # noqa: B023
    return kept.path


def damage(path: Path, how: str = "a bit flipped") -> None:
    path.write_bytes(DAMAGES[how](path.read_bytes()))


def test_the_newest_state_and_the_one_before_it_are_kept_and_both_removed(path):
    newest, before = states_of(path)
    assert sorted(path.parent.iterdir()) == [newest, before]
    assert [read_state(each)["number"] for each in (newest, before)] == [3, 2]
    kept = Kept(path, SETTINGS, 0)
    assert kept.state is not None and kept.state["number"] == 3 and kept.state["model"]["weight"].equal(weights(3)["model"]["weight"])
    kept.remove()
    assert not list(path.parent.iterdir())
    kept.remove()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_state_gives_way_to_the_one_before_it_which_a_line_tells(path, how, capsys):
    damage(path, how)
    kept = Kept(path, SETTINGS, 0)
    assert kept.state is not None and kept.state["number"] == 2
    told = capsys.readouterr().out
    assert f"{path} cannot be read: it is damaged" in told and "going on from the state before it" in told and told.count("\n") == 1


def test_a_damaged_state_does_not_become_the_one_before(path):
    damage(path)
    kept = Kept(path, SETTINGS, 0)
    for number in (4, 5):
        kept.save(lambda: weights(number))  # noqa: B023
        assert [read_state(each)["number"] for each in states_of(path)] == [number, {4: 2, 5: 4}[number]]


def test_two_damaged_states_are_named_and_force_begins_anew_which_a_line_tells(path, capsys):
    for each in states_of(path):
        damage(each, "truncated")
    message = refusal(Kept, path, SETTINGS, 0)
    assert str(path) in message and "--force" in message and len(list(path.parent.iterdir())) == 2
    assert Kept(path, SETTINGS, 0, force=True).state is None
    told = capsys.readouterr().out
    assert f"{path} cannot be read" in told and told.endswith("; begun anew\n") and told.count("\n") == 1


def test_killed_between_two_names_the_state_before_is_the_newest(path, capsys):
    path.unlink()
    kept = Kept(path, SETTINGS, 0)
    assert kept.state is not None and kept.state["number"] == 2 and capsys.readouterr().out == ""


@pytest.mark.parametrize("change, told", [
    ({"seed": 11}, "seed 10 instead of 11"), ({"data": "1e"}, "data 0f instead of 1e"), ({"code": 2}, "code not given instead of 2"),
    ({"seed": 11, "lr": 1}, "seed 10 instead of 11, lr 0.1 instead of 1")])
@pytest.mark.parametrize("missing", [None, "newest", "damaged"])
def test_a_state_of_other_settings_is_named_with_what_differs(path, change, told, missing, capsys):
    found = states_of(path)[missing is not None]
    if missing == "newest":
        path.unlink()
    if missing == "damaged":
        damage(path)
    message = refusal(Kept, path, SETTINGS | change, 0)
    assert f"{found} exists and was made with {told};" in message and "--force" in message
    assert found.exists() and capsys.readouterr().out == ""
    assert Kept(path, SETTINGS | change, 0, force=True).state is None
    assert f"made with {told}; begun anew" in capsys.readouterr().out
    kept = Kept(path, SETTINGS, 0, force=True)
    assert kept.state is not None  # force replaces others, and goes on from its own


def test_a_state_without_settings_is_named(tmp_path):
    Kept(tmp_path / "a.t7", [1], 0).save(dict)  # type: ignore[arg-type]
    assert "made with unknown settings" in refusal(Kept, tmp_path / "a.t7", SETTINGS, 0)


def test_states_of_a_finished_training_are_forgotten_and_no_others(path):
    states.forget(path, SETTINGS | {"seed": 11})
    assert all(each.exists() for each in states_of(path))
    damage(path)
    states.forget(path, SETTINGS)
    assert path.exists() and not states_of(path)[1].exists()
    states.forget(path.with_name("none"), SETTINGS)


def flip(path: Path, bits: list[int]) -> None:
    content = path.read_bytes()
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(UserError, match="cannot be read"):
            read_state(path)


def test_a_flipped_bit_anywhere_is_found(path):
    bits, size = random.Random(1), 8 * path.stat().st_size
    flip(path, [0, size - 1, *(bits.randrange(size) for _ in range(100))])


@pytest.mark.long
def test_a_flipped_bit_in_every_byte_is_found(path):
    flip(path, [8 * byte + byte % 8 for byte in range(path.stat().st_size)])


@pytest.mark.long
def test_a_state_cut_anywhere_is_found(path):
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match="cannot be read"):
            read_state(path)
