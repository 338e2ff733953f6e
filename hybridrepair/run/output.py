"""What a run leaves behind: a folder with run.json, selected.csv, the repaired model, plots and a report, and a row in results.csv.

    <save_path>/results.csv                        a row for each run, which its run.json holds too
    <save_path>/0_hybrid_1_10_<settings>/          model number, solution, budget in percent, seed, digest of the settings
"""
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from hybridrepair.annotation import spreadsheet
from hybridrepair.annotation.spreadsheet import protected
from hybridrepair.base import processes, provenance, states
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.rows import write_rows
from hybridrepair.base.text import text_of
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.identity import identity_of
from hybridrepair.report.page import RECORD
from hybridrepair.run import table
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.settings import save_path_of
from hybridrepair.selection.clustering import NOISE
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.solutions import Selection
from hybridrepair.selection.uncertainty import VIEWS


def accuracy_text(percent: float) -> str:
    """Rounded to 2 decimals, without trailing zeros: 83.8."""
    return f"{percent:.2f}".rstrip("0").rstrip(".")


def headline(before: float | None, after: float | None, part: str = "T2") -> str:
    """The last line of a repair, from accuracies in percent on a part, None where nothing is labelled."""
    if before is None or after is None:
        return "repaired; there are no labelled images to report accuracy on"
    return f"{part} Acc before/after repair: {accuracy_text(before)}/{accuracy_text(after)}"


class Run:
    """Where the results of a scenario go, and which run they are of."""

    def __init__(self, scenario: Scenario):
        self.identity = table.identity_of(vars(scenario.args), scenario.settings)
        self.save_path = save_path_of(scenario.args)
        self.results = self.save_path / table.NAME
        self.folder = self.save_path / table.name_of(self.identity)
        self.state = self.folder / "repair.partial.t7"  # of a run that is not finished
        self.interim = self.folder / "selection.partial.t7"  # what such a run has computed before it trains
        self.model = self.folder / f"{scenario.checkpoint_path.stem}_repaired{scenario.checkpoint_path.suffix}"

    def find(self) -> table.Row | None:
        """The row of this run where it is finished: as its folder has it, else results.csv; None where neither has it."""
        return processes.led(lambda: table.find(self.folder, self.identity))

    def headline_of(self, row: table.Row, part: str) -> str:
        """The headline of this run once it is finished, from its row. UserError where a spreadsheet has left no numbers in it."""
        try:
            before, after = (float(row[name]) if row[name] else None for name in ("acc_before", "acc_after"))
        except (KeyError, ValueError) as error:
            raise UserError(f"{self.results} tells no accuracy of {self.folder.name} that is a number ({reason_of(error)}); correct "
                            "it, or do the run again by --force") from error
        return headline(before, after, part)

    def enter(self) -> None:
        """See to it that results.csv has the row of this run; where that fails, a line says so, since the folder has it."""
        processes.led(self._enter)  # with its errors: others wait for what the first process says

    def _enter(self) -> None:
        with spared(str(self.results), f"python tables.py --rebuild {shlex.quote(str(self.save_path))} makes it"):
            table.enter(self.results, run=self.folder.name)

    def clean(self) -> None:
        """Remove what was kept of this run until it was finished, its last state first; not what it keeps where it is done again."""
        states.remove(self.state)
        if processes.led(lambda: self._is_older(self.interim)):
            states.remove(self.interim)

    def cut_off(self) -> bool:
        """Whether a run that has its row ended before it left all else: its last state is still there."""
        return processes.led(lambda: self._is_older(self.state))

    def _is_older(self, path: Path) -> bool:
        """Whether a file is there, and was before the record of the finished run."""
        record = self.folder / RECORD
        return path.exists() and record.exists() and path.stat().st_mtime_ns <= record.stat().st_mtime_ns


@contextmanager
def spared(what: str, remedy: str) -> Iterator[None]:
    """A block that leaves `what` of a finished repair; where it fails, one line on stderr says so, and all else goes on."""
    try:
        yield
    except Exception as error:  # whatever it is: the repair is worth more
        print(f"{what} could not be written ({reason_of(error)}); {remedy}", file=sys.stderr)


def answered(path: Path) -> bool:
    """Whether a selected.csv has a label already."""
    return path.exists() and any(row.get("label", "").strip() for _, row in spreadsheet.read(path, "selection"))


def write_selected(path: Path, pool: Pool, selection: Selection, answers: np.ndarray | None = None) -> None:
    """Write selected.csv, in the order of choice; the column label is empty without the annotator's answers int64 [B].

    index counts in images.npy; id and digest are those of images.identity; region is empty for an image that stands for itself alone;
    unsmoothness is there where the solution computes it; classes are names. Texts are protected from what a spreadsheet does to them.
    """
    names = pool.dataset.class_names
    predicted = pool.probs.argmax(1).cpu().numpy()
    unsmoothness = pool.unsmoothness.cpu().numpy() if pool.looked_at_views else None
    rows = []
    for order, (image, region) in enumerate(zip(selection.annotated, selection.region)):
        index = int(pool.pool_index[image])
        identity = identity_of(pool.dataset, index)
        rows.append({"index": index, "file": protected(text_of(pool.dataset.file(index))), "id": protected(identity.id),
                     "digest": protected(identity.digest), "region": "" if region == NOISE else region,
                     "unsmoothness": "" if unsmoothness is None else f"{unsmoothness[image]:.6f}",
                     "predicted class": protected(names[predicted[image]]),
                     "label": "" if answers is None else protected(names[answers[order]])})
    write_rows(path, ("index", "file", "id", "digest", "region", "unsmoothness", "predicted class", "label"), rows)


def right(pool: Pool, labels: np.ndarray, where: np.ndarray) -> float | None:
    """How many percent of the labels int64 [N] of pool images bool [N] are true; None where no truth is known."""
    truth = pool.dataset.labels[pool.pool_index]
    judged = where & (truth != UNKNOWN)
    return 100 * float((labels == truth)[judged].mean()) if judged.any() else None


def propagation(pool: Pool, selection: Selection, labels: np.ndarray) -> tuple[int, float | None]:
    """How many images took another's label, and how many percent of those labels are true; None where no truth is known."""
    return int(selection.propagated.sum()), right(pool, labels, selection.propagated)


def environment(device: torch.device, args) -> dict:
    """When, where, by what and by which command a result was made."""
    return {"finished": datetime.now(timezone.utc).isoformat(" ", "seconds"), **provenance.of(device, args), "views": VIEWS,
            "peak_memory_bytes": provenance.peak_memory()}
