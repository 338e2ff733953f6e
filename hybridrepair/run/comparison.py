"""Runs of results.csv compared: one DataFrame of runs, one of the cells of the table, and the table as text or plot.

A cell belongs to a row (a solution, or BEFORE, with its settings) and a scene (what is repaired: a value of each of FACETS).
"""
import math
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hybridrepair.annotation.spreadsheet import protected
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.base.text import line_of
from hybridrepair.run.flags import number
from hybridrepair.run.table import COLUMNS, IDENTITY
from hybridrepair.run.table import read as read_table
from hybridrepair.selection.solutions import SOLUTIONS
from hybridrepair.training.passes import BATCH
from hybridrepair.training.statistics import STATISTICS_BATCH

METRICS = {
    "acc_after": "T2 accuracy (%) after the last epoch",
    "acc_smoothest": "T2 accuracy (%) after the epoch with the smoothest pool",
    "acc_best": "T2 accuracy (%) after the best epoch, an upper bound: that epoch is chosen on test labels",
    "gain": "T2 accuracy after the last epoch minus that before repair (percentage points)",
}
RESULTS = COLUMNS[len(IDENTITY):COLUMNS.index("broken") + 1]  # equal in all rows of one run
NUMBERS = {"model_number": number(int, 0, 2), "p_budget": number(float, 0, 100, above=True), "seed": number(int, 0)} | {
    name: number(float, 0, 100 if "acc" in name else math.inf) for name in RESULTS}
NEVER_EMPTY = ("dataset", "model", "model_number", "solution", "p_budget", "seed", "acc_before", "acc_after")
FACETS: dict[str, Callable[[Any], str]] = {  # and how they are shown; weights and data are empty where there is only one of a name
    "dataset": str, "model": str, "model_number": "ABC".__getitem__, "weights": lambda text: text and f"weights={text}",
    "data": lambda text: text and f"data={text}",
    "p_budget": "{:g} %".format}
CELL = [*FACETS, "solution", "settings"]  # what tells cells apart; settings are pairs of name and text
BEFORE = "before"
# settings of what "before" is, beside the images per pass where these cut the batches of its own fine-tuning
MAKE_BEFORE = ("retrain_lr", "retrain_weightdecay", "retrain_epoch", "estimated_statistics", "precision", "no_replay", "builder",
               "code")
MISSING = "–"
BOLD = "\x02{}\x03"  # control signs that SIGNS translate
SIGNS = {
    "markdown": str.maketrans({sign: "\\" + sign for sign in r"\`*_[]<>|~"} | {"\x02": "**", "\x03": "**"}),
    "latex": str.maketrans({sign: "\\" + sign for sign in "&%$#_{}"} | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--",
        "\x02": r"\textbf{", "\x03": "}"}),
}


# --- reading

def read_runs(paths: list[Path]) -> pd.DataFrame:
    """The runs in these files and in all results.csv in these folders, each once. UserError if they cannot be read."""
    found: dict[tuple, dict] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give a results.csv or a folder of runs")
        for file in sorted(path.rglob("results.csv")) if path.is_dir() else [path]:
            for run in read(file):
                twin = found.setdefault(tuple(run[name] for name in (*CELL, "seed")), run)
                differ = ", ".join(name for name in RESULTS if run[name] != twin[name])
                if differ:
                    raise UserError(f"{twin['origin']} and {run['origin']} are one run, but differ in {differ}; remove one")
    if not found:
        told = ", ".join(map(str, paths))
        raise UserError(f"no results.csv with a finished run in {told}; give one, or its folder, or make it again from the folders of "
                        "runs by --rebuild")
    runs = pd.DataFrame(list(found.values())).astype(dict.fromkeys(RESULTS, float))
    model = ["dataset", "model", "model_number"]
    replay = runs["settings"].map(lambda settings: dict(settings).get("no_replay", ""))  # which the digest of data follows
    for name, of in (("weights", model), ("data", [*model, replay])):
        runs[name] = runs[name].where(runs.groupby(of)[name].transform("nunique") > 1, "")
    # annotators answer for each seed in a file of its own, which makes no other row unless a seed has several
    by_files = {"labels": "file", "labelled": "file"}
    asked = runs["settings"].map(lambda settings: tuple((name, by_files.get(name, text)) for name, text in settings))
    files = runs.assign(asked=asked).groupby([*FACETS, "solution", "asked", "seed"])["settings"].transform("nunique") > 1
    return runs.assign(settings=runs["settings"].where(files, asked))


def read(path: Path) -> list[dict]:
    """The runs in one results.csv. UserError if it is something else, or has a damaged row."""
    try:
        columns, rows, _, fault = read_table(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)}); give a results.csv of repair.py") from error
    if fault:
        raise UserError(f"{path} {fault}; repair it, or make it again by python tables.py --rebuild {path.parent}")
    missing = [name for name in RESULTS if columns and name not in columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; give a results.csv of repair.py")
    accuracies = ("judged_on", "acc_before", "acc_after")
    judged = [(i, row) for i, row in enumerate(rows, 1) if any(row.get(name) != "" for name in accuracies)]
    if len(judged) < len(rows):
        print(f"left out of {path}: {len(rows) - len(judged)} runs that had no labelled images to report accuracy on", file=sys.stderr)
    return [run_of(row, f"{path} row {i}") for i, row in judged]


def run_of(row: dict[str, str], origin: str) -> dict:
    """A row with its numbers and settings parsed. UserError if a cell is missing, or not what its column says."""
    def damage(what: str) -> UserError:
        return UserError(f"{origin} {what}; repair or remove it")

    empty = [name for name in NEVER_EMPTY if not row[name]]
    if empty:
        raise damage(f"has nothing as {', '.join(empty)}")
    values = {}
    for name, parse in NUMBERS.items():
        try:
            values[name] = parse(row[name]) if row[name] else None
        except (ValueError, ArgumentTypeError) as error:
            raise damage(f"has no number in its range as {name} ({error})") from error
    pairs = [pair.partition("=") for pair in re.split(r"\s+(?=\w+=)", row["settings"].strip()) if pair]
    if not all(sign for _, sign, _ in pairs):
        raise damage(f"has settings without = ({row['settings']})")
    settings = {name: text for name, _, text in sorted(pairs)}
    judged = row.get("judged_on") or "T2"
    row = {name: line_of(text) for name, text in row.items()}  # what is no sign would end a line of the table, or pass for BOLD
    return {"device": "", "versions": "", "seconds_total": ""} | row | values | {
        "dataset": row["dataset"] if judged == "T2" else f"{row['dataset']} ({judged})",
        "weights": settings.pop("weights", ""), "data": settings.pop("data", ""), "settings": tuple(settings.items()), "origin": origin}


# --- averaging

def table_of(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The cells of all rows and scenes: mean, sample standard deviation and mean gain over the n runs that have the metric.

    Rows come in order, those of the accuracy before repair first, and within them scenes.
    """
    after = runs.assign(gain=runs["acc_after" if metric == "gain" else metric] - runs["acc_before"])
    after["value"] = after[metric]
    makes = runs["settings"].map(start_of)
    before = runs.assign(solution=BEFORE, value=runs["acc_before"], gain=0.0, settings=makes)
    points = pd.concat([before.drop_duplicates([*CELL, "value"]), after])  # once, however many runs start there
    names = names_of(sorted({*zip(points["solution"], points["settings"])}, key=order_of))
    rows = pd.DataFrame({"row": range(len(names)), "name": list(names.values()), "solution": [row[0] for row in names],
                         "settings": [row[1] for row in names]})
    # fmean and stdev are exact: with "mean" and "std", means that end in a half at the third decimal are rounded by chance
    cells = points.dropna(subset="value").groupby(CELL, sort=False).agg(
        mean=("value", fmean), sd=("value", lambda values: stdev(values) if len(values) > 1 else math.nan),
        gain=("gain", fmean), n=("value", "size"))
    every = rows.merge(runs[[*FACETS]].drop_duplicates().sort_values([*FACETS]), how="cross")
    return every.merge(cells, how="left", on=CELL).fillna({"n": 0}).astype({"n": int})


def start_of(settings: tuple) -> tuple:
    """Those of the pairs (name, text) of a run's settings that make the model which the repair starts from."""
    largest = STATISTICS_BATCH if "estimated_statistics" in dict(settings) else BATCH
    return tuple((name, text) for name, text in settings if name in MAKE_BEFORE or name == "micro_batch" and int(text) < largest)


def order_of(row: tuple) -> tuple:
    """BEFORE, then solutions in the order of SOLUTIONS, unknown ones last; settings by name and number."""
    def of_text(text: str) -> tuple[float, str]:
        try:
            return float(text), text
        except ValueError:
            return math.inf, text

    solution, settings = row
    return [BEFORE, *SOLUTIONS, solution].index(solution), solution, [(name, of_text(text)) for name, text in settings]


def names_of(rows: list[tuple]) -> dict[tuple, str]:
    """What to call each row: its solution, and those of its settings that the solution's rows do not share."""
    names = {}
    for solution, settings in rows:
        variants = [dict(other) for each, other in rows if each == solution]
        told = [f"{name}={text}" for name, text in settings if any(each.get(name) != text for each in variants)]
        names[solution, settings] = f"{solution} ({', '.join(told)})" if told else solution
    return names


# --- showing

def shown(facets: Iterable[str], values: Iterable) -> str:
    """The values of facets as one text."""
    return ", ".join(filter(None, (FACETS[facet](value) for facet, value in zip(facets, values))))


def text_of(cell: Any, metric: str) -> str:
    """A cell as it is shown, in BOLD where it is the best."""
    if not cell.n:
        return MISSING
    spread = f" ± {cell.sd:.2f}" if cell.n > 1 else ""
    if cell.solution == BEFORE:
        return f"{cell.mean:.2f}{spread}"
    gain = f"{round(cell.gain, 2) + 0:+.2f}".replace("-", "−")  # + 0: no -0.00
    value, more = (gain, "") if metric == "gain" else (f"{cell.mean:.2f}", f"{gain}, ")
    return f"{(BOLD if cell.best else '{}').format(value + spread)} ({more}n={cell.n})"


def grid(table: pd.DataFrame, metric: str, blocks: list[str], columns: list[str]) -> pd.DataFrame:
    """The cells as texts: a line for each row in each combination of what makes blocks, and what names it in the first columns."""
    seen = table["mean"].map("{:.2f}".format).astype(float)  # the best is so as it is shown
    top = seen.where(table["solution"] != BEFORE).groupby([table[facet] for facet in FACETS]).transform("max")
    cells = table.assign(text=[text_of(cell, metric) for cell in table.assign(best=seen == top).itertuples()])
    # not pivot, which knows levels by name: p_budget can be in both where nothing differs
    wide = cells.set_index([*blocks, "row", "name", *columns])["text"].unstack([*range(-len(columns), 0)])
    wide = wide.droplevel("row").sort_index(axis="columns").fillna(MISSING)
    heads = [shown(columns, key) or metric for key in zip(*map(wide.columns.get_level_values, range(len(columns))))]
    for level, facet in enumerate(blocks):
        wide = wide.rename(index=FACETS[facet], level=level)
    return wide.reset_index(allow_duplicates=True).set_axis([*blocks, "solution", *heads], axis="columns")


def written(cells: pd.DataFrame, names: int, caption: str, form: str) -> str:
    """The grid in Markdown, or in LaTeX for booktabs; its first `names` columns hold names, the others numbers."""
    cells = cells.map(lambda text: text.translate(SIGNS[form])).rename(columns=lambda head: head.translate(SIGNS[form]))
    caption, numbers = caption.translate(SIGNS[form]), cells.shape[1] - names
    if form == "markdown":
        rule = [":--"] * names + ["--:"] * numbers
        return "".join(f"| {' | '.join(line)} |\n" for line in (cells.columns, rule, *cells.to_numpy())) + f"\n{caption}\n"
    size = cells.iloc[:, names - 1].nunique()  # lines of a block; a rule goes before each block but the first
    cells.iloc[size::size, 0] = "\\midrule\n" + cells.iloc[size::size, 0]
    text = cells.style.hide(axis="index").to_latex(
        hrules=True, column_format="l" * names + "r" * numbers, position_float="centering", caption=caption)
    return text.replace("\n", "  % \\usepackage{booktabs}\n", 1)


def long_csv(table: pd.DataFrame, metric: str) -> str:
    """A line for each cell, whatever makes blocks and columns elsewhere."""
    lines = table.assign(metric=[metric if solution != BEFORE else "acc_before" for solution in table["solution"]],
                         solution=table["name"])
    for name in ("dataset", "model", "weights", "data", "solution"):
        lines[name] = lines[name].map(protected)
    return lines.to_csv(columns=[*FACETS, "solution", "metric", "mean", "sd", "gain", "n"], index=False, float_format="%.6g",
                        lineterminator="\n")


def caption_of(runs: pd.DataFrame, metric: str) -> str:
    """What the numbers are, and of which runs."""
    gain = "" if metric == "gain" else "gain over before, "
    return (f"{METRICS[metric]}: mean ± standard deviation over seeds ({gain}n seeds), best of each column in bold, "
            f"{MISSING} missing; {BEFORE}: T2 accuracy (%) before repair. {origin_of(runs)}")


def origin_of(runs: pd.DataFrame) -> str:
    """What all runs share, how many they are, and where they ran if not in one place."""
    shared, first = [facet for facet in FACETS if runs[facet].nunique() == 1], runs.iloc[0]
    settings = ["=".join(pair) for pair in first["settings"] if all(pair in each for each in runs["settings"])]
    told = [", ".join(filter(None, [shown(shared, first[shared]), *settings])),
            f"Runs: {len(runs)}, seeds: {', '.join(map(str, sorted(runs['seed'].unique())))}"]
    for name in ("device", "versions"):
        if runs[name].nunique() > 1:
            told.append(f"{name.capitalize()}: {' / '.join(sorted(runs[name].unique()))}")
    return ". ".join(filter(None, told)) + "."


def plot(table: pd.DataFrame, metric: str) -> Figure:
    """The metric over the budget: a panel for each model under repair, a line for each row."""
    lines: dict[tuple, Any] = {}
    models = table[table["n"] > 0].groupby([facet for facet in FACETS if facet != "p_budget"])
    starts = table.loc[table["solution"] == BEFORE, "row"].nunique()
    across = math.ceil(math.sqrt(len(models)))
    down = math.ceil(len(models) / across)
    legend = 1 + 0.085 * table["name"].str.len().max()  # inches
    figure = Figure(figsize=(4 * across + legend, 3.5 * down), layout="constrained")
    for place, (model, cells) in enumerate(models, 1):
        panel = figure.add_subplot(down, across, place, xlabel="budget (%)",
                                   ylabel="gain (percentage points)" if metric == "gain" else f"{metric} (%)")
        panel.set_title(shown(FACETS, model), parse_math=False)  # a name may contain a $
        lines_of_cells: Any = cells.groupby(["row", "name"])
        for (row, name), points in lines_of_cells:
            if row < starts:
                level = 0 if metric == "gain" else fmean(points["mean"])
                lines[row, name] = panel.axhline(level, color="0.5", linestyle=("-.", ":", "--")[(row - starts) % 3])
            else:
                lines[row, name] = panel.errorbar(
                    points["p_budget"], points["mean"], points["sd"].where(points["sd"] > 0), color=f"C{row - starts}",
                    marker="os^Dv"[(row - starts) // 10 % 5], capsize=3)
    order = sorted(lines)
    legend_of_rows = figure.legend([lines[key] for key in order], [name for _, name in order],
                                   loc="outside right", frameon=False)  # type: ignore[call-overload]
    for text in legend_of_rows.get_texts():
        text.set_parse_math(False)
    return figure
