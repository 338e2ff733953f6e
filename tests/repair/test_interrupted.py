"""Repairs that were interrupted or killed, and go on."""
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import hybridrepair.run.course
from hybridrepair.base.states import states_of
from hybridrepair.training import baseline
from small import FLAGS, SHALLOW, baselines, refused, rows, run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stage", ["baseline", "repair"])
def test_an_interrupted_run_leaves_nothing_half_written_and_the_next_gives_the_same(field, stage, monkeypatch):
    run("--save_path", "whole")
    if stage == "baseline":
        baselines()[0].unlink()
    module = baseline if stage == "baseline" else hybridrepair.run.course
    genuine = module.finetune

    def stops(*args, **kwargs):
        yield next(genuine(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "finetune", stops)
    with pytest.raises(KeyboardInterrupt):
        run("--save_path", "cut")
    monkeypatch.setattr(module, "finetune", genuine)
    assert not Path("cut/results.csv").exists()
    assert stage == "repair" or not baselines()
    assert not list(field.rglob("*.tmp"))
    run("--save_path", "cut")
    whole, cut = rows("whole")[0], rows("cut")[0]
    assert [whole[name] for name in ("acc_before", "acc_after")] == [cut[name] for name in ("acc_before", "acc_after")]


KILLED = f"""
import os, signal, sys
import repair
from mymodels import mobilenet
mobilenet.BLOCKS = {SHALLOW}
from hybridrepair.run import output
from hybridrepair.training import passes
name, last, calls = sys.argv.pop(1), int(sys.argv.pop(1)), []
module = output if name == "write_selected" else passes
genuine = getattr(module, name)
def deadly(*args, **more):
    calls.append(1)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(*args, **more)
setattr(module, name, deadly)
repair.main(repair.parse_args())
"""


@pytest.fixture
def killed(python):
    """A function that runs repair.py until the n-th call of a function, at which it kills itself."""
    def killed(name: str, call: int, *flags: str) -> None:
        done = subprocess.run([python, "-c", KILLED, name, str(call), *FLAGS, *flags], env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == -signal.SIGKILL
    return killed


def test_without_an_unlabelled_image_left_a_killed_repair_goes_on_too(field, killed, capsys):
    killed("smoothed_loss", 6, "--solution", "SSLRandom", "--p_budget", "100")  # in the second epoch, of supervised passes alone
    run("--solution", "SSLRandom", "--p_budget", "100")
    assert "going on after epoch 1" in capsys.readouterr().out and rows()[0]["n_unlabelled"] == "0"


def test_other_data_make_another_run_and_a_damaged_state_is_named_and_replaced_by_force(field, killed, capsys):
    flags = ["--solution", "random"]
    killed("write_selected", 1, *flags)
    (state,) = Path("save/small_MobileNet").rglob("repair.partial.t7")
    labels = np.load("data/small/labels.npy")
    np.save("data/small/labels.npy", np.where(np.arange(len(labels)) == 230, (labels + 1) % 4, labels))  # of T2
    run(*flags)
    assert "going on" not in capsys.readouterr().out and state.exists() and len(rows()) == 1
    np.save("data/small/labels.npy", labels)
    for each in states_of(state):
        each.write_bytes(each.read_bytes()[:1000])
    assert "cannot be read" in refused(capsys, *flags)
    run(*flags, "--force")
    assert len(rows()) == 2 and not state.exists()
