"""Trackers of experiments that follow a run beside its own files: --report_to tensorboard, trackio or wandb.

Each gets the numbers of every epoch, the settings, and at the end the result. None of them changes the run, or can end it.
"""
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hybridrepair.base import processes
from hybridrepair.base.errors import UserError, reason_of

PROJECT = "hybridrepair"  # that runs are filed under where the tracker has projects
Tracker = tuple[Callable[[dict, int], None], Callable[[dict, int], None]]  # log numbers at an epoch; finish with a result


def numbers(values: dict) -> dict[str, float]:
    """The entries that are numbers."""
    return {name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def tensorboard(run: str, folder: Path, settings: dict) -> Tracker:
    """Event files in the run's own folder, in place of those of an earlier start: tensorboard --logdir save/ names it so."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = import_module("torch.utils.tensorboard").SummaryWriter(folder)

    def table(values: dict) -> str:
        return "\n".join(["| name | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in values.items())])

    def log(values: dict, epoch: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()  # a run that is killed has told what it did

    def finish(result: dict, epoch: int) -> None:
        writer.add_text("result", table(result), epoch)
        log({f"result/{name}": value for name, value in numbers(result).items()}, epoch)
        writer.close()

    writer.add_text("settings", table(settings))
    return log, finish


def trackio(run: str, folder: Path, settings: dict) -> Tracker:
    """A run in trackio's local store, which `trackio show` shows; no account or network is needed."""
    module = import_module("trackio")
    module.init(project=PROJECT, name=run, config=settings)

    def finish(result: dict, epoch: int) -> None:
        module.log({f"result/{name}": value for name, value in numbers(result).items()}, step=epoch)  # it has no summary
        module.finish()

    return lambda values, epoch: module.log(values, step=epoch), finish


def wandb(run: str, folder: Path, settings: dict) -> Tracker:
    """A run at wandb, with the result as its summary; WANDB_MODE=offline keeps it here."""
    made = import_module("wandb").init(project=PROJECT, name=run, config=settings)

    def finish(result: dict, epoch: int) -> None:
        made.summary.update(result)
        made.finish()

    return lambda values, epoch: made.log(values, step=epoch), finish


TRACKERS: dict[str, Callable[[str, Path, dict], Tracker]] = {each.__name__: each for each in (tensorboard, trackio, wandb)}


def require(names: list[str]) -> None:
    """UserError where the package of a tracker, which has the tracker's name, is missing."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"--report_to {name} needs the package {name}; pip install {name}, or leave it out")


class Tracking:
    """The trackers of a run, called as its folder is; one that fails says so in a line, and is told nothing more.

    They start with the first epoch, so that a run which is refused before leaves nothing.
    """

    def __init__(self, names: list[str], folder: Path, settings: dict):
        self.names, self.folder, self.settings = [*dict.fromkeys(names if processes.first() else ())], folder, settings
        self.epoch, self.trackers = 0, dict[str, Tracker]()

    def start(self, name: str) -> None:
        self.trackers[name] = TRACKERS[name](self.folder.name, self.folder, self.settings)

    def log(self, record: dict) -> None:
        """Tell the numbers of an epoch."""
        while self.names:
            self._try(name := self.names.pop(0), lambda: self.start(name))
        self.epoch = record["epoch"]
        for name, (log, _) in [*self.trackers.items()]:
            self._try(name, lambda: log(numbers(record), self.epoch))  # noqa: B023

    def finish(self, result: dict) -> None:
        """Tell the result, after which nothing more is told."""
        for name, (_, finish) in [*self.trackers.items()]:
            self._try(name, lambda: finish({key: value for key, value in result.items() if value is not None}, self.epoch))  # noqa: B023

    def _try(self, name: str, call: Callable[[], None]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # what they say of themselves is no result
                call()
        except Exception as error:  # of whatever the package raises: the run matters more
            self.trackers.pop(name, None)
            print(f"{name} failed and is told nothing more ({reason_of(error)}); the run goes on", file=sys.stderr)
