"""results.csv: the rows of all runs in a folder. Each run's own folder holds its row too, in run.json, and is asked first.

So the table can be made again from the folders, and no row is lost where processes write it at once without file locks. Rows that
stand in the table alone, of earlier versions or other folders, and columns of the user's stay.
"""
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hybridrepair.annotation.spreadsheet import protected, unprotected
from hybridrepair.base import digests
from hybridrepair.base.files import atomic
from hybridrepair.base.locks import locked
from hybridrepair.base.rows import Rows, rows_in, write_rows
from hybridrepair.base.text import text_of
from hybridrepair.report.page import RECORD, runs_in

NAME = "results.csv"
IDENTITY = ("dataset", "model", "model_number", "solution", "p_budget", "seed", "settings")
NAMES = ("dataset", "model")  # of those, what a user names, and a spreadsheet may take for a formula
STAGES = ("load", "select", "finetune", "measure")
COLUMNS = (*IDENTITY, "n_annotated", "n_propagated", "propagation_acc", "tau", "n_unlabelled", "acc_raw", "acc_before",
           "acc_after", "acc_smoothest", "acc_best", "fixed", "broken", "judged_on", "annotated_wrong", "tau_auto", "tau_avg",
           "n_known", "unsmoothness_before", "unsmoothness_after", "guess_acc_trusted_before", "guess_acc_trusted_after",
           "guess_acc_propagated_before", "guess_acc_propagated_after", "teacher_weight_model",
           "teacher_weight_features", "teacher_acc",
           *(f"seconds_{stage}" for stage in STAGES), "seconds_total", "versions", "device", "run")
SLACK = 2 * 10 ** 9  # nanoseconds by which a filesystem may be wrong on when a file was written
Row = dict[str, str]


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


def identity_of(args: Mapping[str, Any], settings: Mapping[str, Any]) -> Row:
    """What tells a run from others: the columns of IDENTITY, from its flags and the settings that matter to it."""
    told = " ".join(f"{name}={exact(value)}" for name, value in settings.items())
    values = (*(args[name] for name in ("dataset", "model2test_arch", "model_number", "solution", "p_budget", "manualSeed")), told)
    return {name: exact(value) for name, value in zip(IDENTITY, values)}


def name_of(identity: Row) -> str:
    """The name of the folder of a run: model number, solution, budget in percent, seed, and a digest of all that tells it apart."""
    told = [identity[name] for name in ("model_number", "solution", "p_budget", "seed")]
    return "_".join([*told, digests.of(" ".join(identity.values()).encode())[:8]])


def row_of(folder: Path) -> Row | None:
    """The row of the finished run in `folder`; None where there is none, its run.json is damaged, or it is another folder's."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        identity = identity_of(record["args"], record["settings"])
        result = {name: text_of(short(value)) for name, value in record["result"].items()}
        ours = name_of(identity) == folder.name
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # whatever damage makes of it
        return None
    return dict.fromkeys(COLUMNS, "") | identity | result | {"run": folder.name} if ours else None


def read(path: Path) -> Rows:
    """The rows of a results.csv, in whatever form a spreadsheet has left it; none where it does not exist."""
    try:
        found = rows_in(path.read_bytes())
    except FileNotFoundError:
        return Rows([], [], True, "")
    missing = [name for name in IDENTITY if found.columns and name not in found.columns]
    if missing:
        return Rows(found.columns, [], False, found.fault or f"has no column {', '.join(missing)}")
    return found._replace(rows=[row | {name: unprotected(row[name]) for name in NAMES if name in row} for row in found.rows])


def write(path: Path, rows: list[Row]) -> None:
    """Write rows for `read`, the user's columns last."""
    write_rows(path, COLUMNS, [row | {name: protected(row.get(name, "")) for name in NAMES} for row in rows])


def find(folder: Path, identity: Row) -> Row | None:
    """The row of a run: as its folder has it, else results.csv beside that; None where neither has it."""
    return row_of(folder) or next((row for row in read(folder.with_name(NAME)).rows if row.get("run") == folder.name
                                   or all(row.get(name) == text for name, text in identity.items())), None)


def folders_in(path: Path) -> dict[str, int]:
    """The folders of finished runs in a folder, by name, and when each was finished, in nanoseconds."""
    found = {}
    for entry in os.scandir(path):
        try:
            found[entry.name] = os.stat(os.path.join(entry.path, RECORD)).st_mtime_ns
        except OSError:  # no run, or none that is finished
            continue
    return found


def enter(path: Path, all_again: bool = False, run: str | None = None) -> int:
    """Enter into the results.csv `path` what it lacks of the runs beside it, and that of the folder `run` as it is, or all of them
    again; returns how many rows it has.

    It is looked at again after it was written: a run may have ended since its folder was read, and where there are no locks another
    process may have replaced the table.
    """
    with locked(path):
        before, seen = None, dict[str, int]()
        while True:
            written = path.stat().st_mtime_ns if path.exists() else 0
            table, folders = read(path), folders_in(path.parent)
            every = all_again or not table.ours
            known = {row.get("run") for row in table.rows}
            asked = sorted(name for name, time in folders.items() if every or name not in known or time + SLACK >= written
                           or name == run or before and seen.get(name) != time)
            rows = merged(table.rows, filter(None, (row_of(path.parent / name) for name in asked)))
            if (table.ours and rows == table.rows) or (table, rows) == before:
                return len(rows)
            if table.fault:
                set_aside(path, table.fault)
            write(path, rows)
            all_again, before, seen = False, (table, rows), folders


def merged(table: list[Row], runs: Iterable[Row]) -> list[Row]:
    """The rows of a table with those of some runs, each in place of those that are of the same run; the user's columns stay.

    A spreadsheet may have written a row's settings otherwise, but not the name of its folder, which rows of others may lack.
    """
    def made_with(row: Row) -> tuple[str, ...]:
        return tuple(row.get(name, "") for name in IDENTITY)

    new = {row.get("run") or made_with(row): row for row in runs}
    alike = {made_with(row): run for run, row in new.items()}
    rows, placed = list[Row](), set[str | tuple[str, ...]]()
    for old in table:
        run = old["run"] if old.get("run") in new else alike.get(made_with(old))
        if run is None:
            rows.append(old)
        elif run not in placed:
            placed.add(run)
            rows.append({name: text for name, text in old.items() if name not in COLUMNS} | new[run])
    return rows + [row for run, row in new.items() if run not in placed]


def set_aside(path: Path, fault: str) -> None:
    """Keep a copy of a results.csv that is not whole, and say so."""
    content = path.read_bytes()
    kept = path.with_name(f"results_as_found_{digests.of(content)[:8]}.csv")
    with atomic(kept) as temporary:
        temporary.write_bytes(content)
    print(f"{path} {fault}: it is kept as {kept.name}, and made anew from the folders of its runs and the rows that could be read",
          file=sys.stderr)


def rebuild(paths: list[Path]) -> Iterable[str]:
    """Make results.csv again wherever there are runs among and below `paths`; a line for each. UserError for one that has none."""
    tables = sorted({folder.parent / NAME for folder in runs_in(paths)})
    for path in tables:
        n = enter(path, all_again=True)
        left_out = [name for name in sorted(folders_in(path.parent)) if row_of(path.parent / name) is None]
        more = f"; left out, since {RECORD} is damaged or of another folder: {', '.join(left_out)}" if left_out else ""
        yield f"{path}: {n} runs{more}"
