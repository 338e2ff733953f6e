"""Tables and plots of finished runs, from one results.csv or many.

    python tables.py                                            all that is in save/, as Markdown
    python tables.py save/ --columns model_number --plot budget.png
    python tables.py a/results.csv b/ --rows dataset --metric gain --format latex --output table.tex
    python tables.py save/ --format csv                         a line for each cell, each number in a column of its own

A cell is the mean over seeds, their standard deviation (n - 1), the gain over the accuracy before repair, and n.
Nothing but seeds is averaged: a solution has a row for each of its settings, and the budgets make columns if there are
several, else the model numbers, else the models, else the datasets; all else that differs makes blocks of rows.
"""
import csv
import io
import math
import re
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from matplotlib.figure import Figure

from hybridrepair.base import checkpoint
from hybridrepair.base.errors import UserError
from hybridrepair.base.errors import run as run_main
from hybridrepair.run import report
from hybridrepair.run.flags import Parser, number
from hybridrepair.selection.strategies import SOLUTIONS

METRICS = {
    "acc_after": "T2 accuracy (%) after the last epoch",
    "acc_smoothest": "T2 accuracy (%) after the epoch with the smoothest pool",
    "acc_best": "T2 accuracy (%) after the best epoch, an upper bound: that epoch is chosen on test labels",
    "gain": "T2 accuracy after the last epoch minus that before repair (percentage points)",
}
RESULTS = report.COLUMNS[len(report.IDENTITY):report.COLUMNS.index("broken") + 1]  # equal in all rows of one run
NUMBERS = {"model_number": number(int, 0, 2), "p_budget": number(float, 0, 100, above=True), "seed": number(int, 0)} | {
    name: number(float, 0, 100 if "acc" in name else math.inf) for name in RESULTS}
NEVER_EMPTY = ("dataset", "model", "model_number", "solution", "p_budget", "seed", "acc_before", "acc_after")
FACETS = {"dataset": str, "model": str, "model_number": "ABC".__getitem__, "weights": "weights={}".format,
          "p_budget": "{:g} %".format}  # the fields of Scene, and how they are shown
BEFORE = "before"
MAKE_BEFORE = ("retrain_lr", "retrain_weightdecay", "retrain_epoch", "running_statistics", "precision")  # settings of what "before" is
MISSING = "–"
MARKDOWN = str.maketrans({sign: "\\" + sign for sign in r"\`*_[]<>|~"})
LATEX = str.maketrans({sign: "\\" + sign for sign in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "–": "--"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})


class Scene(NamedTuple):
    """What is repaired, and with how many percent of the pool."""
    dataset: str
    model: str
    model_number: int
    weights: str  # empty where the runs have only one model of that dataset, architecture and number
    p_budget: float


class Row(NamedTuple):
    """What is compared: a solution (or BEFORE), and its settings as pairs of name and text."""
    solution: str
    settings: tuple[tuple[str, str], ...]


class Run(NamedTuple):
    scene: Scene
    row: Row
    seed: int
    results: dict[str, float | None]  # RESULTS and gain
    device: str
    versions: str
    origin: str  # for messages


class Cell(NamedTuple):
    """Mean and sample standard deviation of a metric over n runs, and mean gain over before; None where not defined."""
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    n: int = 0


Table = dict[Row, dict[Scene, Cell]]  # every row has every scene


class Text(NamedTuple):
    """A cell of a table: the value, bold where it is the best, and what follows it."""
    value: str
    more: str = ""
    best: bool = False


# --- reading

def read_runs(paths: list[Path]) -> list[Run]:
    """The runs in these files and in all results.csv in these folders, each once. UserError if they cannot be read."""
    runs, weights = {}, defaultdict(set)
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give a results.csv or a folder of runs")
        for file in sorted(path.rglob("results.csv")) if path.is_dir() else [path]:
            for run in read(file):
                twin = runs.setdefault((run.scene, run.row, run.seed), run)
                differ = ", ".join(name for name in RESULTS if run.results[name] != twin.results[name])
                if differ:
                    raise UserError(f"{twin.origin} and {run.origin} are one run, but differ in {differ}; remove one")
                weights[run.scene[:3]].add(run.scene.weights)
    if not runs:
        raise UserError(f"no results.csv with a finished run in {', '.join(map(str, paths))}; give one, or its folder")
    return [run if len(weights[run.scene[:3]]) > 1 else run._replace(scene=run.scene._replace(weights=""))
            for run in runs.values()]


def read(path: Path) -> list[Run]:
    try:
        rows = report.read_rows(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); give a results.csv of repair.py") from error
    missing = [name for name in (*report.IDENTITY, *RESULTS) if rows and name not in rows[0]]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; give a results.csv of repair.py")
    return [run_of(row, f"{path} row {i}") for i, row in enumerate(rows, 1)]


def run_of(row: dict[str, str], origin: str) -> Run:
    """UserError if a cell is missing, or not what its column says."""
    def damage(what: str) -> UserError:
        return UserError(f"{origin} {what}; repair or remove it")

    if None in [*row, *row.values()]:  # how csv tells of too many and too few
        raise damage("has not as many cells as there are columns")
    empty = [name for name in NEVER_EMPTY if not row[name]]
    if empty:
        raise damage(f"has nothing as {', '.join(empty)}")
    values = {}
    for name, parse in NUMBERS.items():
        try:
            values[name] = parse(row[name]) if row[name] else None
        except (ValueError, ArgumentTypeError) as error:
            raise damage(f"has no number in its range as {name} ({error})") from error
    values["gain"] = values["acc_after"] - values["acc_before"]
    pairs = [pair.partition("=") for pair in re.split(r"\s+(?=\w+=)", row["settings"].strip()) if pair]
    if not all(sign for _, sign, _ in pairs):
        raise damage(f"has settings without = ({row['settings']})")
    settings = {name: text for name, _, text in sorted(pairs)}
    scene = Scene(row["dataset"], row["model"], values["model_number"], settings.pop("weights", ""), values["p_budget"])
    return Run(scene, Row(row["solution"], tuple(settings.items())), values["seed"], values,
               row.get("device", ""), row.get("versions", ""), origin)


# --- averaging

def table_of(runs: list[Run], metric: str) -> Table:
    """Cells over those runs that have the metric, the accuracy before repair first; n = 0 where there are none."""
    points = defaultdict(dict)  # row, scene -> seed -> metric and gain
    for run in runs:
        before, value = run.results["acc_before"], run.results[metric]
        start = Row(BEFORE, tuple(pair for pair in run.row.settings if pair[0] in MAKE_BEFORE))
        points[start, run.scene][before] = before, 0.0  # once, however many runs start there
        cell = points[run.row, run.scene]  # a row is there even if none of its runs has the metric
        if value is not None:
            cell[run.seed] = value, value if metric == "gain" else value - before
    rows = sorted({row for row, _ in points}, key=order_of)
    scenes = sorted({run.scene for run in runs})
    return {row: {scene: cell_of([*points[row, scene].values()]) for scene in scenes} for row in rows}


def cell_of(points: list[tuple[float, float]]) -> Cell:
    if not points:
        return Cell()
    values, gains = zip(*points)
    return Cell(fmean(values), stdev(values) if len(values) > 1 else None, fmean(gains), len(values))


def order_of(row: Row) -> tuple:
    """BEFORE, then solutions in the order of SOLUTIONS, unknown ones last; settings by name and number."""
    def of_text(text: str) -> tuple[float, str]:
        try:
            return float(text), text
        except ValueError:
            return math.inf, text

    place = [BEFORE, *SOLUTIONS, row.solution].index(row.solution)
    return place, row.solution, [(name, of_text(text)) for name, text in row.settings]


def names_of(rows: Iterable[Row]) -> dict[Row, str]:
    """What to call each row: its solution, and those of its settings that the solution's rows do not share."""
    names = {}
    for row in rows:
        variants = [dict(other.settings) for other in rows if other.solution == row.solution]
        told = [f"{name}={text}" for name, text in row.settings if any(each.get(name) != text for each in variants)]
        names[row] = f"{row.solution} ({', '.join(told)})" if told else row.solution
    return names


# --- showing

def part(scene: Scene, facets: list[str]) -> tuple:
    return tuple(getattr(scene, facet) for facet in facets)


def shown(facets: Iterable[str], values: Iterable) -> str:
    return ", ".join(FACETS[facet](value) for facet, value in zip(facets, values) if value != "")


def text_of(row: Row, cell: Cell, metric: str, best: float) -> Text:
    if not cell.n:
        return Text(MISSING)
    deviation = f" ± {cell.sd:.2f}" if cell.n > 1 else ""
    if row.solution == BEFORE:
        return Text(f"{cell.mean:.2f}{deviation}")
    gain = f"{round(cell.gain, 2) + 0:+.2f}".replace("-", "−")  # + 0: no -0.00
    is_best = round(cell.mean, 2) == best  # as it is shown
    if metric == "gain":
        return Text(gain + deviation, f" (n={cell.n})", is_best)
    return Text(f"{cell.mean:.2f}{deviation}", f" ({gain}, n={cell.n})", is_best)


def grid(table: Table, metric: str, blocks: list[str], columns: list[str]) -> list[list[list[Text]]]:
    """Rows of texts in groups: the head, then the rows of the table for each combination of what makes blocks."""
    names, scenes = names_of(table), list(next(iter(table.values())))
    keys = sorted({part(scene, columns) for scene in scenes})
    head = [*blocks, "solution", *(shown(columns, key) or metric for key in keys)]
    groups = [[[Text(each) for each in head]]]
    for block in sorted({part(scene, blocks) for scene in scenes}):
        scene_of = {part(scene, columns): scene for scene in scenes if part(scene, blocks) == block}
        rows = {row: [cells.get(scene_of.get(key), Cell()) for key in keys] for row, cells in table.items()}
        repaired = [cells for row, cells in rows.items() if row.solution != BEFORE]
        best = [max((round(cell.mean, 2) for cell in column if cell.n), default=None) for column in zip(*repaired)]
        titles = [Text(shown([facet], [value])) for facet, value in zip(blocks, block)]
        groups.append([[*titles, Text(names[row]), *(text_of(row, cell, metric, top) for cell, top in zip(cells, best))]
                       for row, cells in rows.items()])
    return groups


def written(text: Text, escape: dict, bold: str) -> str:
    """`escape` is for str.translate, `bold` for str.format."""
    value = text.value.translate(escape)
    return (bold.format(value) if text.best else value) + text.more.translate(escape)


def markdown(groups: list[list[list[Text]]], names: int, caption: str) -> str:
    """The groups as a Markdown table; its first `names` columns hold names, the others numbers."""
    head, *rows = ([written(text, MARKDOWN, "**{}**") for text in row] for group in groups for row in group)
    rule = [":--"] * names + ["--:"] * (len(head) - names)
    lines = [f"| {' | '.join(row)} |\n" for row in (head, rule, *rows)]
    return "".join(lines) + f"\n{caption.translate(MARKDOWN)}\n"


def latex(groups: list[list[list[Text]]], names: int, caption: str) -> str:
    """The groups as a LaTeX table for booktabs; its first `names` columns hold names, the others numbers."""
    parts = [[" & ".join(written(text, LATEX, r"\textbf{{{}}}") for text in row) + " \\\\\n" for row in group]
             for group in groups]
    form = "l" * names + "r" * (len(groups[0][0]) - names)
    body = "\\midrule\n".join("".join(lines) for lines in parts)
    return (f"\\begin{{table}}  % \\usepackage{{booktabs}}\n\\centering\n\\caption{{{caption.translate(LATEX)}}}\n"
            f"\\begin{{tabular}}{{{form}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n")


def long_csv(table: Table, metric: str) -> str:
    """A line for each row and scene, whatever makes blocks and columns elsewhere."""
    text, names = io.StringIO(), names_of(table)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*Scene._fields, "solution", "metric", *Cell._fields])
    for row, cells in table.items():
        what = "acc_before" if row.solution == BEFORE else metric
        for scene, cell in cells.items():
            writer.writerow(map(report.short, (*scene, names[row], what, *cell)))
    return text.getvalue()


def varying(scenes: Iterable[Scene]) -> list[str]:
    """The facets in which the scenes differ."""
    return [facet for facet, *values in zip(FACETS, *scenes) if len({*values}) > 1]


def caption_of(runs: list[Run], metric: str) -> str:
    """What the numbers are, what all runs share, how many they are, and where they ran if not in one place."""
    scenes = [run.scene for run in runs]
    shared = [facet for facet in FACETS if facet not in varying(scenes)]
    settings = ["=".join(pair) for pair in runs[0].row.settings if all(pair in run.row.settings for run in runs)]
    gain = "" if metric == "gain" else "gain over before, "
    told = [f"{METRICS[metric]}: mean ± standard deviation over seeds ({gain}n seeds), best of each column in bold, "
            f"{MISSING} missing; {BEFORE}: T2 accuracy (%) before repair",
            ", ".join(filter(None, [shown(shared, part(scenes[0], shared)), *settings])),
            f"Runs: {len(runs)}, seeds: {', '.join(map(str, sorted({run.seed for run in runs})))}"]
    for name in ("device", "versions"):
        values = sorted({getattr(run, name) for run in runs})
        told += [f"{name.capitalize()}: {' / '.join(values)}"] if len(values) > 1 else []
    return ". ".join(filter(None, told)) + "."


def plot(table: Table, metric: str) -> Figure:
    """The metric over the budget: a panel for each model under repair, a line for each row."""
    names, lines = names_of(table), {}
    models = sorted({scene[:-1] for cells in table.values() for scene in cells})
    starts = sum(row.solution == BEFORE for row in table)
    across = math.ceil(math.sqrt(len(models)))
    down = math.ceil(len(models) / across)
    legend = 1 + 0.085 * max(map(len, names.values()))  # inches
    figure = Figure(figsize=(4 * across + legend, 3.5 * down), layout="constrained")
    for place, model in enumerate(models, 1):
        panel = figure.add_subplot(down, across, place, title=shown(FACETS, model), xlabel="budget (%)",
                                   ylabel="gain (percentage points)" if metric == "gain" else f"{metric} (%)")
        for i, (row, cells) in enumerate(table.items(), -starts):
            points = [(scene.p_budget, cell.mean, cell.sd or math.nan)
                      for scene, cell in cells.items() if scene[:-1] == model and cell.n]
            if points and i < 0:
                level = 0 if metric == "gain" else fmean(mean for _, mean, _ in points)
                lines[names[row]] = panel.axhline(level, color="0.5", linestyle=("-.", ":", "--")[i % 3])
            elif points:
                lines[names[row]] = panel.errorbar(*zip(*points), color=f"C{i}", marker="os^Dv"[i // 10 % 5], capsize=3)
    order = [name for name in names.values() if name in lines]
    figure.legend([lines[name] for name in order], order, loc="outside right", frameon=False)
    return figure


def parse_args(argv: list[str] | None = None):
    parser = Parser(__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("save")], help="results.csv, or folders with some")
    parser.add_argument("--rows", nargs="+", choices=["solution", *FACETS], default=["solution"],
                        help="what makes blocks of rows, first of all; within them, each solution has its row")
    parser.add_argument("--columns", nargs="+", choices=FACETS, help="what makes columns (default: the last that differs "
                        "of dataset, model, model_number, weights of the model under repair, p_budget)")
    parser.add_argument("--metric", choices=METRICS, default="acc_after", help="what is averaged")
    parser.add_argument("--format", choices=["markdown", "latex", "csv"], default="markdown", help="of the table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the metric over the budget")
    return parser.parse_args(argv)


def main(args) -> None:
    if args.plot and args.plot.suffix != ".png":
        raise UserError(f"{args.plot} does not end in .png; plots are PNG files")
    if args.output and args.output.is_dir():
        raise UserError(f"{args.output} is a folder; give the name of a file to write the table to")
    blocks = [facet for facet in args.rows if facet != "solution"]
    twice = [facet for facet in blocks if facet in (args.columns or [])]
    if twice:
        raise UserError(f"{', '.join(twice)} cannot make both rows and columns; leave it out of --rows or --columns")
    runs = read_runs(args.paths)
    table = table_of(runs, args.metric)
    differ = [facet for facet in varying(run.scene for run in runs) if facet not in blocks]
    columns = args.columns or differ[-1:] or ["p_budget"]
    blocks += [facet for facet in differ if facet not in columns]
    if args.format == "csv":
        text = long_csv(table, args.metric)
    else:
        form = {"markdown": markdown, "latex": latex}[args.format]
        text = form(grid(table, args.metric, blocks, columns), len(blocks) + 1, caption_of(runs, args.metric))
    if args.plot:
        with checkpoint.atomic(args.plot) as temporary:
            plot(table, args.metric).savefig(temporary, format="png", dpi=120)
    if args.output:
        with checkpoint.atomic(args.output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    run_main(main, parse_args())
