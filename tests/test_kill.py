"""Killed or interrupted at any moment, the same command goes on, and ends to the last byte as if nothing had happened.

Each entry runs in a forked process, which needs no second import of torch, and is killed by itself at a chosen moment, or from
outside after a random time.
"""
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pretrain_moco
import repair
import selection
import train_classifier
from conftest import read_rows, to_the_end
from hybridrepair.annotation import questions
from hybridrepair.base import errors, files, provenance
from hybridrepair.base.files import is_temporary
from hybridrepair.run import output, scenario
from hybridrepair.run.course import Course
from hybridrepair.selection import pool
from hybridrepair.training import contrastive, passes
from mymodels.moco import ARCHITECTURES

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU cannot be forked")
Moment = Callable[[pytest.MonkeyPatch], Any]  # puts in place what kills the process

MODEL = '''
from torch import nn

def build(classes=4):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         nn.Dropout(0.1), nn.Linear(32, classes))
'''
DATA = ["--dataset", "tiny", "--manualSeed", "3", "--device", "cpu"]
REPAIR = [*DATA, "--data_path", "data", "--model2test_arch", "tiny.py:build", "--model_number", "1", "--fe", "model2test",
          "--p_budget", "5"]
# 2 SSL steps in each of 2 epochs, of which each saves a state in its midst and one at its end
COMMANDS: dict[str, tuple[ModuleType, list[str]]] = {
    "train_classifier": (train_classifier, [*DATA, "--data_root", "data", "--model", "tiny.py:build", "--class_weight", "1",
                                            "--n_epochs", "3", "--batch_size", "16", "--lr", "0.1", "--save_every", "0"]),
    "pretrain_moco": (pretrain_moco, [*DATA, "--data_root", "data", "--arch", "resnet18", "--dim", "4", "--mlp_dim", "8",
                                      "--n_images", "32", "--batch_size", "16", "--n_epochs", "3", "--save_every", "0"]),
    "selection": (selection, REPAIR),
    "questions": (selection, [*REPAIR, "--out", "to_label", "--format", "folders", "label-studio"]),
    "questions_again": (selection, [*REPAIR, "--out", "asked", "--format", "folders", "--force"]),
    "repair": (repair, [*REPAIR, "--auto_tao", "--u_weight", "--retrain_epoch", "2", "--retrain_lr", "0.01", "--save_every", "0"]),
}


class Thin(nn.Module):
    """A block of a ResNet that has batch norm alone."""
    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, *more):
        super().__init__()
        self.downsample, self.norm = downsample or nn.Identity(), nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.downsample(x)).relu()


def picture(figure: Figure, file: Any, **more) -> None:
    if isinstance(file, Path):
        file.write_bytes(b"a picture")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """What takes the time of all else: the large ResNets, and drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resnet18", (Thin, (1, 1, 1, 1)))
        patch.setattr(Figure, "savefig", picture)
        provenance.project()  # the commit is asked for once: a later one would be another in what a command leaves
        yield


# --- moments

def die(*args, **more) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at(module: Any, name: str, call: int, fits: Callable[..., bool] = lambda *args, **more: True,
       last: Callable[..., object] = die, after: bool = False) -> Moment:
    """At the n-th call of a function whose arguments fit, or after it; `last` is called then."""
    def put(patch: pytest.MonkeyPatch) -> None:
        genuine, calls = getattr(module, name), []

        def deadly(*args, **more):
            calls.extend([1] if fits(*args, **more) else [])
            here = fits(*args, **more) and len(calls) == call
            if here and not after:
                last(*args, **more)
            made = genuine(*args, **more)
            if here and after:
                last(*args, **more)
            return made

        patch.setattr(module, name, deadly)
    return put


def interrupt(*numbers: int) -> Callable[..., None]:
    """Sends the process signals, one after the other."""
    def send(*args, **more) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
    return send


def of(name: str) -> Callable[[Path], bool]:
    """Whether a path is what a file of that name is written to before it gets it."""
    return lambda path: is_temporary(path.name) and path.name.startswith(f".{name[:24]}.")


def inside(name: str, n: int = 1) -> Moment:
    """While a file of that name is written for the n-th time: half of it is there."""
    def tear(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)
        die()
    return at(files, "sync", n, of(name), tear)


def before(name: str, n: int = 1) -> Moment:
    """When a file is written for the n-th time, and has not got its name yet."""
    return at(os, "replace", n, lambda source, target: Path(target).name == name)


def after(name: str, n: int = 1) -> Moment:
    """When a file has got its name for the n-th time."""
    return at(os, "replace", n, lambda source, target: Path(target).name == name, after=True)


STATE, INTERIM = "repair.partial.t7", "selection.partial.t7"
MODEL_STATE, MOCO_STATE = "tiny_build_1_b.partial.t7", "checkpoint.partial.pth.tar"
MOMENTS: dict[str, dict[str, list[Moment]]] = {
    "repair": {
        "inside_a_state": [inside(STATE, 3)], "before_a_state": [before(STATE, 2)], "between_two_states": [after(f"{STATE}.before", 2)],
        "at_the_end_of_an_epoch": [after(STATE, 2)], "inside_the_selection": [inside("selected.csv")],
        "inside_the_row": [inside("results.csv")], "after_the_row": [after("results.csv")], "inside_the_model": [inside(
            "tiny_build_1_b_repaired.t7")], "twice_in_an_epoch": [at(passes, "ssl_step", 2), at(passes, "ssl_step", 1)],
        "in_the_baseline": [at(passes, "smoothed_loss", 2)], "in_the_supervised_pass": [at(passes, "smoothed_loss", 4)],
        "before_the_report": [before("report.html")], "after_an_interim_result": [after(INTERIM)],
        "inside_an_interim_result": [inside(INTERIM, 2)],
        "before_interim_results_go": [at(Path, "unlink", 1, lambda path, **more: path.name == INTERIM)],
        "twice_in_the_selection": [after(INTERIM), after(INTERIM)]},
    "train_classifier": {
        "at_the_end_of_an_epoch": [after(MODEL_STATE)], "inside_a_state": [inside(MODEL_STATE, 2)],
        "before_a_state": [before(MODEL_STATE, 2)],
        "inside_the_log": [inside("tiny_build_1_seed3.jsonl", 2)], "after_the_log": [after("tiny_build_1_seed3.jsonl", 3)],
        "inside_the_model": [inside("tiny_build_1_b.t7")], "after_the_model": [after("tiny_build_1_b.t7")],
        "twice_in_an_epoch": [at(passes, "smoothed_loss", 6), at(passes, "smoothed_loss", 2)]},
    "pretrain_moco": {
        "twice_in_an_epoch": [at(contrastive, "pair", 4), at(contrastive, "pair", 2)], "at_the_end_of_an_epoch": [after(MOCO_STATE)],
        "inside_a_state": [inside(MOCO_STATE, 2)], "before_a_state": [before(MOCO_STATE, 2)],
        "inside_the_model": [inside("checkpoint.pth.tar")], "after_the_model": [after("checkpoint.pth.tar")]},
    "selection": {
        "inside_the_selection": [inside("selected.csv")], "before_the_selection": [before("selected.csv")],
        "after_the_selection": [after("selected.csv")],
        "twice": [before("selected.csv"), inside("selected.csv")]},
    "questions": {
        "before_the_folder": [at(Path, "rename", 1)], "after_the_folder": [at(Path, "rename", 1, after=True)],
        "inside_the_rows": [inside("to_label.csv")], "inside_the_manifest": [inside("manifest.json")],
        "twice": [at(Path, "rename", 1), at(questions, "sync", 5)]},
    "questions_again": {
        "between_its_files": [at(Path, "rename", 2)], "before_the_manifest": [at(Path, "rename", 5)],
        "after_the_note": [after("manifest.json", 2)], "within_the_old": [at(Path, "unlink", 4)],
        "twice": [at(Path, "rename", 2), at(Path, "rename", 3)]},
}
INT, TERM, NOTHING = signal.SIGINT, signal.SIGTERM, "there was nothing to be saved, give the same command again"
SIGNALS: dict[str, tuple[str, Moment, int, str]] = {  # with the exit status, and the file that is said to be gone on from
    "before_anything_is_kept": ("repair", at(scenario, "regions", 1, last=interrupt(INT)), 130, NOTHING),
    "in_the_write_of_an_interim_result": ("repair", at(files, "sync", 1, of(INTERIM), interrupt(INT)), 130, INTERIM),
    "before_a_state": ("repair", at(pool, "unsmoothness", 1, last=interrupt(TERM)), 143, INTERIM),
    "in_the_baseline": ("repair", at(passes, "smoothed_loss", 2, last=interrupt(TERM)), 143, ".partial.t7"),
    "in_an_ssl_step": ("repair", at(passes, "ssl_step", 3, last=interrupt(INT)), 130, STATE),
    "twice_in_an_ssl_step": ("repair", at(passes, "ssl_step", 2, last=interrupt(INT, TERM)), 143, STATE),
    "in_a_measurement": ("repair", at(Course, "measure", 1, last=interrupt(TERM)), 143, STATE),
    "after_the_last_epoch": ("repair", at(output, "write_selected", 1, last=interrupt(INT)), 130, STATE),
    "in_a_training": ("train_classifier", at(passes, "smoothed_loss", 6, last=interrupt(TERM)), 143, MODEL_STATE),
    "in_the_features": ("pretrain_moco", at(contrastive, "pair", 3, last=interrupt(INT)), 130, MOCO_STATE),
    "in_the_selection": ("selection", at(os, "replace", 1, last=interrupt(TERM)), 143, NOTHING)}
CHOSEN = [(name, moment) for name in MOMENTS for moment in MOMENTS[name]]
ORDINARY = [*(("repair", moment) for moment in ("inside_a_state", "inside_an_interim_result", "before_interim_results_go",
                                                "before_a_state", "at_the_end_of_an_epoch", "inside_the_row", "after_the_row",
                                                "twice_in_an_epoch", "in_the_baseline")),
            ("train_classifier", "after_the_log"), ("pretrain_moco", "before_a_state"), ("selection", "inside_the_selection"),
            ("questions", "before_the_folder"), ("questions_again", "between_its_files")]


# --- runs

def start(name: str, folder: Path, moment: Moment = lambda patch: None) -> int:
    """The process of a command in a folder, which dies at the moment, if that comes."""
    process = os.fork()
    if process:
        return process

    def call() -> None:
        os.chdir(folder)
        sys.stdout = sys.stderr = open(folder / "out.txt", "a")
        entry, flags = COMMANDS[name]
        with pytest.MonkeyPatch.context() as patch:
            args = entry.parse_args(flags)
            moment(patch)
            errors.run(entry.main, args)

    to_the_end(call, 300)


def end_of(process: int) -> int:
    """The exit status, or less than 0 the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def without_time(record: dict) -> dict:
    return {name: value for name, value in record.items() if "seconds" not in name}


def left(folder: Path) -> dict[str, Any]:
    """All that commands have left in a folder, by its path, without what tells of time and memory."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")):
        name = path.relative_to(folder).as_posix()
        if path.name == "run.json":
            run = json.loads(path.read_text())
            found[name] = {"args": run["args"], "settings": run["settings"], "result": without_time(run["result"]),
                           "epochs": [without_time(epoch) for epoch in run["epochs"]]}
        elif path.suffix == ".jsonl":
            found[name] = [without_time(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "results.csv":
            found[name] = [without_time(row) for row in read_rows(path)]
        elif path.name not in ("report.html", "out.txt"):  # the report tells seconds
            found[name] = path.read_bytes()
        else:
            found[name] = path.exists()
    return found


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Path:
    """A folder with handwritten 0s to 3s, a tiny network, what it was trained on, its weights, and questions."""
    folder = tmp_path_factory.mktemp("ready")
    digits = load_digits(n_class=4)
    (folder / "data/tiny").mkdir(parents=True)
    np.save(folder / "data/tiny/images.npy", np.rint(digits.images[:270, :, :, None] * (255 / 16)).astype(np.uint8).repeat(3, axis=3))
    np.save(folder / "data/tiny/labels.npy", digits.target[:270].astype(np.int64))
    (folder / "data/tiny/dataset.json").write_text(json.dumps(
        {"split": {"train": [0, 80], "val": [80, 100], "T2": [100, 140], "pool": [140, 270]}, "classes": list("abcd")}))
    (folder / "tiny.py").write_text(MODEL)
    assert end_of(start("train_classifier", folder)) == 0
    return folder


@pytest.fixture(scope="module")
def undisturbed(ready, tmp_path_factory) -> Callable[[str], tuple[dict, float]]:
    """What a command leaves that nothing disturbs, and its seconds, by its name."""
    known: dict[str, tuple[dict, float]] = {}

    def of(name: str) -> tuple[dict, float]:
        if name not in known:
            folder = begun(name, ready, tmp_path_factory.mktemp(name) / "whole")
            begin = time.perf_counter()
            assert end_of(start(name, folder)) == 0, (folder / "out.txt").read_text()
            known[name] = left(folder), time.perf_counter() - begin
        return known[name]
    return of


def begun(name: str, ready: Path, folder: Path) -> Path:
    """A copy of what a command starts from."""
    shutil.copytree(ready, folder)
    (folder / "out.txt").unlink()
    if name == "train_classifier":
        shutil.rmtree(folder / "check_point")
        shutil.rmtree(folder / "save")
    if name == "questions_again":
        entry, flags = COMMANDS[name]
        assert end_of(start("questions", folder)) == 0
        (folder / "to_label").rename(folder / "asked")
        (folder / "asked/export.json").write_text("[]")
    return folder


def finish(name: str, folder: Path, expected: dict) -> None:
    """Call the command again, which must leave what is expected and nothing else."""
    whole = name == "questions" and (folder / "to_label").exists()  # it came at once, and nothing is written over questions
    assert end_of(start(name, folder)) == (2 if whole else 0), (folder / "out.txt").read_text()
    found = left(folder)
    assert found.keys() == expected.keys()
    assert [path for path in found if found[path] != expected[path]] == []


def killed_at(name: str, moments: list[Moment], ready: Path, undisturbed, folder: Path) -> None:
    expected, _ = undisturbed(name)
    begun(name, ready, folder / "killed")
    for moment in moments:
        assert end_of(start(name, folder / "killed", moment)) == -signal.SIGKILL
    finish(name, folder / "killed", expected)


def killed_after(name: str, moments: int, ready: Path, undisturbed, folder: Path, number: int = signal.SIGKILL) -> None:
    """Send the command a signal at random moments of its time, each time anew; where it ends before, another moment is drawn."""
    expected, seconds = undisturbed(name)
    draw, died = random.Random(13), 0
    for moment in range(5 * moments):
        here = begun(name, ready, folder / str(moment))
        process = start(name, here)
        time.sleep(draw.uniform(0, seconds))
        os.kill(process, number)
        if end_of(process) in (-number, 128 + number):
            died += 1
        else:
            seconds /= 2  # the machine may have been busy when they were measured
        finish(name, here, expected)
        if died == moments:
            return
    raise AssertionError(f"killed {died} times alone")


@pytest.mark.parametrize("name, moment", ORDINARY)
def test_killed_at_a_chosen_moment_a_command_ends_as_if_it_had_not_been(name, moment, ready, undisturbed, tmp_path):
    killed_at(name, MOMENTS[name][moment], ready, undisturbed, tmp_path)


@pytest.mark.parametrize("name, module", [("regions", scenario), ("unsmoothness", pool), ("unsmoothness", scenario)])
def test_what_a_killed_selection_has_computed_is_not_computed_again(name, module, ready, undisturbed, tmp_path):
    expected, _ = undisturbed("repair")
    folder = begun("repair", ready, tmp_path / "killed")
    assert end_of(start("repair", folder, at(passes, "ssl_step", 1))) == -signal.SIGKILL
    (state,) = folder.rglob(STATE)  # of the supervised pass, without which the epochs begin anew
    state.unlink()
    calls = 1 if module is scenario else 3  # the pool is also measured after each of the two epochs
    assert end_of(start("repair", folder, at(module, name, calls))) == 0, (folder / "out.txt").read_text()
    assert left(folder).keys() == expected.keys()


@pytest.mark.long
@pytest.mark.parametrize("name, moment", [each for each in CHOSEN if each not in ORDINARY])
def test_killed_at_any_chosen_moment_a_command_ends_as_if_it_had_not_been(name, moment, ready, undisturbed, tmp_path):
    killed_at(name, MOMENTS[name][moment], ready, undisturbed, tmp_path)


def test_killed_at_random_moments_a_repair_ends_as_if_it_had_not_been(ready, undisturbed, tmp_path):
    killed_after("repair", 2, ready, undisturbed, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_twenty_random_moments_a_command_ends_as_if_it_had_not_been(name, ready, undisturbed, tmp_path):
    killed_after(name, 20, ready, undisturbed, tmp_path)


@pytest.mark.parametrize("moment", SIGNALS)
def test_interrupted_a_command_says_how_it_goes_on_and_ends_as_if_it_had_not_been(moment, ready, undisturbed, tmp_path):
    name, sent, status, said = SIGNALS[moment]
    expected, _ = undisturbed(name)
    folder = begun(name, ready, tmp_path / "interrupted")
    assert end_of(start(name, folder, sent)) == status
    last = (folder / "out.txt").read_text().splitlines()[-1]
    assert last.startswith("interrupted; ") and last.endswith(said) and ("goes on from" in last) == (said != NOTHING)
    finish(name, folder, expected)


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("number", [INT, TERM])
def test_interrupted_at_ten_random_moments_a_command_ends_as_if_it_had_not_been(name, number, ready, undisturbed, tmp_path):
    killed_after(name, 10, ready, undisturbed, tmp_path, number)
