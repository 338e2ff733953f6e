"""errors.py: how an entry script ends."""
import io
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT
from hybridrepair.base.errors import UserError, run


def raising(error: BaseException):
    def main(*args):
        raise error
    return main


@pytest.mark.parametrize("error, status, message", [
    (UserError("thing x is wrong; give y"), 2, "error: thing x is wrong; give y\n"),
    (PermissionError(13, "Permission denied", "out/x.csv"), 2, "error: out/x.csv cannot be used (Permission denied); "),
    (OSError(28, "No space left on device"), 2, "error: a file cannot be used (No space left on device); "),
    (OSError("no number"), 2, "error: a file cannot be used (no number); "),
    (MemoryError(), 2, "error: the memory does not suffice (MemoryError); a smaller --batch_size or --micro_batch takes less"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "error: the memory does not suffice (RuntimeError: CUDA out of"),
    (BrokenPipeError(32, "Broken pipe"), 2, "error: a file cannot be used (Broken pipe); "),  # not that of the output
    (KeyboardInterrupt(), 130, "interrupted; there was nothing to be saved, give the same command again\n"),
])
def test_what_a_user_can_cause_ends_in_one_sentence_and_a_status(capsys, error, status, message):
    with pytest.raises(SystemExit) as stop:
        run(raising(error))
    out, err = capsys.readouterr()
    assert stop.value.code == status and out == "" and err.startswith(message) and err.count("\n") == 1


def test_memory_that_torch_and_numpy_do_not_get_is_told(capsys):
    for allocate in (lambda: torch.empty(10 ** 15), lambda: np.empty(10 ** 15)):
        with pytest.raises(SystemExit) as stop:
            run(allocate)
        assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: the memory does not suffice (")


def test_whoever_reads_no_further_is_told_nothing(python):
    code = "from hybridrepair.base.errors import run\nrun(lambda: [print('x' * 100, flush=True) for _ in range(10 ** 5)])"
    shell = f"{shlex.quote(python)} -c {shlex.quote(code)}; echo $? >&2"
    done = subprocess.run(["sh", "-c", f"{{ {shell}; }} | head -n 1"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == 100 * "x" + "\n" and done.stderr == "141\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x"), RuntimeError("a bug")])
def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user(error):
    with pytest.raises(type(error)):
        run(raising(error))


def test_arguments_reach_main_and_a_good_end_is_silent(capsys):
    seen = []
    assert run(lambda *args: seen.append(args), 1, "b") is None
    assert seen == [(1, "b")] and capsys.readouterr() == ("", "")


def test_what_the_terminal_cannot_show_is_printed_as_an_escape(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    run(lambda: print("caf\u00e9", os.fsdecode(b"caf\xe9"), flush=True))
    assert out.getvalue() == b"caf\\xe9 caf\\udce9\n"
