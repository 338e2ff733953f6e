"""tracking.py: what trackers are told, by stand-ins for the packages and, where they are installed, by what these have written."""
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from hybridrepair.base.errors import UserError
from hybridrepair.report import tracking
from hybridrepair.report.tracking import Tracking

ROOT = Path(__file__).parents[2]
SETTINGS = {"solution": "hybrid", "lam_ul": 100.0}
EPOCHS = [{"epoch": 1, "acc": 50.0, "loss": 2.0, "ssl_loss": None}, {"epoch": 2, "acc": 60.0, "loss": 1.0, "ssl_loss": None}]
RESULT = {"acc_after": 60.0, "fixed": 3, "tau": None, "device": "cpu"}


class Stand(ModuleType):
    """A stand-in for wandb or trackio, which notes what it is told; it fails at the call named `fails`."""

    def __init__(self, name: str, fails: str = ""):
        super().__init__(name)
        self.told, self.fails = [], fails  # type: ignore[var-annotated]
        self.summary = SimpleNamespace(update=lambda values: self.note("summary", values))
        self.__spec__ = SimpleNamespace()  # type: ignore[assignment]  # it can be found

    def note(self, name: str, *told) -> None:
        print(f"{self.__name__} is proud to {name}")
        if name == self.fails:
            raise RuntimeError("no network\nand more")
        self.told.append((name, *told))

    def init(self, **values):
        self.note("init", values)
        return self

    def log(self, values, step):
        self.note("log", step, values)

    def finish(self):
        self.note("finish")


def follow(names: list[str], folder: Path, epochs: list[dict] = EPOCHS) -> None:
    """A run of which these trackers are told."""
    tracked = Tracking(names, folder, SETTINGS)
    for record in epochs:
        tracked.log(record)
    tracked.finish(RESULT)


def stand(monkeypatch, name: str, fails: str = "") -> Stand:
    module = Stand(name, fails)
    monkeypatch.setitem(sys.modules, name, module)
    return module


START = ("init", {"project": "hybridrepair", "name": "0_hybrid_1_10_ab", "config": SETTINGS})
LOGGED = [("log", 1, {"epoch": 1, "acc": 50.0, "loss": 2.0}), ("log", 2, {"epoch": 2, "acc": 60.0, "loss": 1.0})]


def test_wandb_is_told_settings_epochs_and_result_under_the_name_of_the_folder(monkeypatch, tmp_path, capsys):
    wandb = stand(monkeypatch, "wandb")
    follow(["wandb"], tmp_path / "0_hybrid_1_10_ab")
    assert wandb.told == [START, *LOGGED, ("summary", {"acc_after": 60.0, "fixed": 3, "device": "cpu"}), ("finish",)]
    assert capsys.readouterr().out == ""  # whose last line is the result


def test_trackio_is_told_the_numbers_of_the_result_at_the_last_epoch(monkeypatch, tmp_path):
    trackio = stand(monkeypatch, "trackio")
    follow(["trackio"], tmp_path / "0_hybrid_1_10_ab")
    assert trackio.told == [START, *LOGGED, ("log", 2, {"result/acc_after": 60.0, "result/fixed": 3}), ("finish",)]


@pytest.mark.parametrize("fails, told", [("init", []), ("log", ["init"]), ("finish", ["init", "log", "log", "summary"])])
def test_a_tracker_that_fails_says_so_once_and_the_other_goes_on(monkeypatch, tmp_path, capsys, fails, told):
    wandb, trackio = stand(monkeypatch, "wandb", fails), stand(monkeypatch, "trackio")
    follow(["wandb", "trackio"], tmp_path / "0_hybrid_1_10_ab")
    assert [each[0] for each in wandb.told] == told
    assert [each[0] for each in trackio.told] == ["init", "log", "log", "log", "finish"]
    out, err = capsys.readouterr()
    assert out == "" and [line for line in err.splitlines() if "is proud" not in line] == [
        "wandb failed and is told nothing more (RuntimeError: no network); the run goes on"]


def test_a_run_that_has_no_epoch_leaves_nothing(monkeypatch, tmp_path):
    wandb = stand(monkeypatch, "wandb")
    Tracking(["wandb"], tmp_path / "run", SETTINGS)
    assert wandb.told == []


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_package_that_is_missing_is_named_with_how_to_get_it(monkeypatch, name):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"needs the package {name}; pip install {name}"):
        tracking.require([name])
    tracking.require([])


def test_numbers_are_neither_switches_nor_texts():
    assert tracking.numbers({"a": 1, "b": 2.5, "c": True, "d": None, "e": "1"}) == {"a": 1, "b": 2.5}


def test_tensorboard_has_the_epochs_of_the_last_start_in_the_folder_of_the_run(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    folder = tmp_path / "0_hybrid_1_10_ab"
    interrupted = Tracking(["tensorboard"], folder, SETTINGS)
    interrupted.log(EPOCHS[0] | {"acc": 1.0})
    follow(["tensorboard"], folder)
    assert len(list(folder.iterdir())) == 1
    events = EventAccumulator(str(folder)).Reload()
    assert [(each.step, each.value) for each in events.Scalars("acc")] == [(1, 50.0), (2, 60.0)]
    assert [(each.step, each.value) for each in events.Scalars("result/acc_after")] == [(2, 60.0)]
    assert sorted(events.Tags()["scalars"]) == ["acc", "epoch", "loss", "result/acc_after", "result/fixed"]
    assert "| solution | hybrid |" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()


TRACKED = """
import sys
from pathlib import Path
from hybridrepair.report.tracking import Tracking
tracked = Tracking(["trackio"], Path("0_hybrid_1_10_ab"), {"solution": "hybrid"})
for epoch in (1, 2):
    tracked.log({"epoch": epoch, "acc": 40.0 + 10 * epoch})
tracked.finish({"acc_after": 60.0, "device": "cpu"})
from trackio.sqlite_storage import SQLiteStorage
for each in SQLiteStorage.get_logs("hybridrepair", "0_hybrid_1_10_ab"):
    print(each["step"], each.get("acc"), each.get("result/acc_after"))
"""


def test_trackio_keeps_the_run_here(tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed")
    done = subprocess.run([sys.executable, "-c", TRACKED], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=os.environ | {
        "TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 50.0 None", "2 60.0 None", "2 None 60.0"]
    assert list((tmp_path / "store").glob("*.db"))
