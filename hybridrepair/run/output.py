"""What a run leaves behind: a row in results.csv, and a folder with run.json, selected.csv, the repaired model, plots and a report.

    <save_path>/results.csv                        a row for each run
    <save_path>/0_hybrid_1_10_<settings>/          model number, solution, budget in percent, seed, digest of the settings
"""
import platform
import resource
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from hybridrepair.annotation import spreadsheet
from hybridrepair.annotation.spreadsheet import protected
from hybridrepair.base import checkpoint
from hybridrepair.base.rows import read_rows, write_rows
from hybridrepair.base.text import text_of
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.images.identity import identity_of
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.settings import save_path_of
from hybridrepair.selection.clustering import NOISE
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.strategies import Selection
from hybridrepair.selection.uncertainty import VIEWS

IDENTITY = ("dataset", "model", "model_number", "solution", "p_budget", "seed", "settings")
NAMES = ("dataset", "model")  # of those, what a user names, and a spreadsheet may take for a formula
STAGES = ("load", "select", "finetune", "measure")
COLUMNS = (*IDENTITY, "n_annotated", "n_propagated", "propagation_acc", "tau", "n_unlabelled", "acc_raw", "acc_before",
           "acc_after", "acc_smoothest", "acc_best", "fixed", "broken", "judged_on", "annotated_wrong", "tau_auto", "tau_avg",
           "n_known", "unsmoothness_before", "unsmoothness_after", "guess_acc_trusted_before", "guess_acc_trusted_after",
           "guess_acc_propagated_before", "guess_acc_propagated_after", *(f"seconds_{stage}" for stage in STAGES), "seconds_total",
           "versions", "device", "run")
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def short(value: object) -> str:
    """A number with up to 6 significant digits and no trailing zeros, True as 1, None as nothing, else its text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def exact(value: object) -> str:
    """As `short`, but a number that has more digits with all of them: what tells two runs apart."""
    text = short(value)
    return repr(value) if isinstance(value, float) and float(text) != value else text


def accuracy_text(percent: float) -> str:
    """Rounded to 2 decimals, without trailing zeros: 83.8."""
    return f"{percent:.2f}".rstrip("0").rstrip(".")


def headline(before: float | None, after: float | None, part: str = "T2") -> str:
    """The last line of a repair, from accuracies in percent on a part, None where nothing is labelled."""
    if before is None or after is None:
        return "repaired; there are no labelled images to report accuracy on"
    return f"{part} Acc before/after repair: {accuracy_text(before)}/{accuracy_text(after)}"


def versions() -> str:
    return " ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def peak_memory() -> int:
    """Bytes of main memory that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Run:
    """Where the results of a scenario go, and which run they are of."""

    def __init__(self, scenario: Scenario):
        args = scenario.args
        settings = " ".join(f"{name}={exact(value)}" for name, value in scenario.settings.items())
        values = (args.dataset, args.model2test_arch, args.model_number, args.solution, args.p_budget, scenario.seed, settings)
        self.identity = {name: exact(value) for name, value in zip(IDENTITY, values)}
        self.save_path = save_path_of(args)
        self.results = self.save_path / "results.csv"
        told = [self.identity[name] for name in ("model_number", "solution", "p_budget", "seed")]
        self.folder = self.save_path / "_".join([*told, checkpoint.digest(" ".join(self.identity.values()).encode())[:8]])
        self.state = self.folder / "repair.partial.t7"  # of a run that is not finished

    def find(self) -> dict[str, str] | None:
        """The row of this run in results.csv, None if it is not there."""
        return next((row for row in read_rows(self.results) if self._is(row)), None)

    def write_row(self, row: dict) -> None:
        """Add the row of this run to results.csv, in place of an earlier one. Safe beside other processes."""
        names = {name: protected(self.identity[name]) for name in NAMES}
        row = self.identity | names | {name: short(value) for name, value in row.items()} | {"run": self.folder.name}
        with checkpoint.locked(self.results):
            rows = [other for other in read_rows(self.results) if not self._is(other)]
            added = dict.fromkeys(name for other in rows for name in other if name not in COLUMNS)  # by the user
            write_rows(self.results, (*COLUMNS, *added), [*rows, row])

    def _is(self, row: dict[str, str]) -> bool:
        return all(row.get(name) in (value, protected(value) if name in NAMES else value) for name, value in self.identity.items())


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


def environment(device: torch.device) -> dict:
    return {"finished": datetime.now(timezone.utc).isoformat(" ", "seconds"), "versions": versions(), "device": device_name(device),
            "views": VIEWS, "peak_memory_bytes": peak_memory(), "command": sys.argv}
