"""Tables and plots of finished runs, from one results.csv or many.

    python tables.py                                            all that is in save/, as Markdown
    python tables.py save/ --columns p_budget --plot budget.png
    python tables.py a/results.csv b/ --rows dataset --metric gain --format latex --output table.tex
    python tables.py save/ --format csv                         a line for each cell, numbers in columns of their own

A cell is the mean over seeds, their standard deviation (n - 1), the gain over the accuracy before repair, and n.
Nothing but seeds is averaged: settings that differ make rows, all else that differs makes columns or blocks of rows.
"""
import csv
import io
import math
import re
from argparse import ArgumentTypeError
from pathlib import Path
from statistics import fmean, stdev
from typing import Iterable, NamedTuple

import checkpoint
import report
from arguments import Parser, number
from errors import UserError, run as run_main
from selection import SOLUTIONS

METRICS = {
    "acc_after": "T2 accuracy (%) after the last epoch",
    "acc_smoothest": "T2 accuracy (%) after the epoch with the smoothest pool",
    "acc_best": "T2 accuracy (%) after the best epoch, an upper bound: that epoch is chosen on test labels",
    "gain": "T2 accuracy after the last epoch minus that before repair (percentage points)",
}
RESULTS = report.COLUMNS[len(report.IDENTITY):report.COLUMNS.index("broken") + 1]  # rows of one run agree in these
NUMBERS = {"model_number": number(int, 0, 2), "p_budget": number(float, 0, 100, above=True), "seed": number(int, 0)} | {
    name: number(float, 0, 100 if "acc" in name else math.inf) for name in RESULTS}
NEVER_EMPTY = ("dataset", "model", "model_number", "solution", "p_budget", "seed", "acc_before", "acc_after")
FACETS = {"dataset": str, "model": str, "model_number": "ABC".__getitem__, "weights": "weights={}".format,
          "p_budget": "{:g} %".format}  # what makes a scene, and how it is shown
MARKDOWN = str.maketrans({sign: "\\" + sign for sign in r"\`*_[]<>|~"})
LATEX = str.maketrans({sign: "\\" + sign for sign in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "–": "--"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})


class Run(NamedTuple):
    scene: tuple  # values of FACETS; weights are empty unless a model has several
    row: tuple[str, tuple[tuple[str, str], ...]]  # solution; settings by name, without the weights
    seed: int
    results: dict[str, float | None]  # RESULTS and gain
    device: str
    versions: str
    origin: str


class Cell(NamedTuple):
    """Mean and sample standard deviation of a metric over n runs, and mean gain over before; None where not defined."""
    mean: float | None = None
    sd: float | None = None
    gain: float | None = None
    n: int = 0


def read_runs(paths: list[Path]) -> list[Run]:
    """The runs in these files and in all results.csv in these folders, each once. UserError if they cannot be read."""
    runs, weights = {}, {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give a results.csv or a folder of runs")
        for file in sorted(path.rglob("results.csv")) if path.is_dir() else [path]:
            for run in read(file):
                other = runs.setdefault((run.scene, run.row, run.seed), run)
                differ = ", ".join(name for name in RESULTS if run.results[name] != other.results[name])
                if differ:
                    raise UserError(f"{other.origin} and {run.origin} are one run, but differ in {differ}; remove one")
                weights.setdefault(run.scene[:3], set()).add(run.scene[3])
    if not runs:
        raise UserError(f"no results.csv with a finished run in {', '.join(map(str, paths))}; give one, or its folder")
    return [run if len(weights[run.scene[:3]]) > 1 else run._replace(scene=(*run.scene[:3], "", run.scene[4]))
            for run in runs.values()]


def read(path: Path) -> list[Run]:
    try:
        rows = report.read_rows(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); give a results.csv of repair.py") from error
    missing = [name for name in (*report.IDENTITY, *RESULTS) if rows and name not in rows[0]]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; give a results.csv of repair.py")
    return [run_of(row, f"{path} row {count}") for count, row in enumerate(rows, 1)]


def run_of(row: dict[str, str], origin: str) -> Run:
    """UserError if a cell is missing, or not what its column says."""
    pairs = [pair.partition("=") for pair in re.split(r"\s+(?=\w+=)", row["settings"] or "") if pair]
    if None in [*row, *row.values()] or "" in [*(row[name] for name in NEVER_EMPTY), *(sign for _, sign, _ in pairs)]:
        raise UserError(f"{origin} has too many, too few or empty cells, or settings without =; repair or remove it")
    values = {}
    for name, parse in NUMBERS.items():
        try:
            values[name] = parse(row[name]) if row[name] else None
        except (ValueError, ArgumentTypeError) as error:
            raise UserError(f"{origin} has no number in its range as {name} ({error}); repair or remove it") from error
    values["gain"] = values["acc_after"] - values["acc_before"]
    settings = {name: text for name, _, text in sorted(pairs)}
    weights = settings.pop("weights", "")
    return Run((row["dataset"], row["model"], values["model_number"], weights, values["p_budget"]),
               (row["solution"], tuple(settings.items())), values["seed"], values,
               row.get("device", ""), row.get("versions", ""), origin)


def table_of(runs: list[Run], metric: str) -> dict[str, dict[tuple, Cell]]:
    """Name of a row -> scene -> cell, the row before first. Every row has every scene, with n = 0 where it has no run."""
    def cell(row: tuple | None, scene: tuple) -> Cell:
        group = [run for run in runs if run.scene == scene and row in (None, run.row)]
        return cell_of(group, metric if row else "acc_before")

    scenes = sorted({run.scene for run in runs})
    rows = {None: "before", **row_names(runs)}
    return {name: {scene: cell(row, scene) for scene in scenes} for row, name in rows.items()}


def cell_of(runs: list[Run], metric: str) -> Cell:
    """Over those of the runs that have the metric."""
    found = [run.results for run in runs if run.results[metric] is not None]
    values = [results[metric] for results in found]
    gains = [results[metric] - (0 if metric == "gain" else results["acc_before"]) for results in found]
    return Cell(fmean(values), stdev(values) if len(found) > 1 else None, fmean(gains), len(found)) if found else Cell()


def row_names(runs: list[Run]) -> dict[tuple, str]:
    """Rows in the order of SOLUTIONS, unknown ones last; a name tells which settings a solution's rows do not share."""
    names, known = {}, list(SOLUTIONS)
    rows = dict.fromkeys(run.row for run in runs)
    for solution in sorted(dict.fromkeys(name for name, _ in rows), key=lambda name: [*known, name].index(name)):
        variants = [dict(settings) for name, settings in rows if name == solution]
        for each in variants:
            told = ", ".join(f"{k}={v}" for k, v in each.items() if any(other.get(k) != v for other in variants))
            names[solution, tuple(each.items())] = f"{solution} ({told})" if told else solution
    return names


def shown(facets: Iterable[tuple]) -> str:
    return ", ".join(FACETS[facet](value) for facet, value in facets if value != "")


def grid(table: dict, metric: str, blocks: list[str], columns: list[str], escape: dict, bold: str) -> list[list[list]]:
    """Texts in groups of rows: the head, then each block. `escape` is for str.translate, `bold` for str.format."""
    def text(name: str, cell: Cell, best: float) -> str:
        if not cell.n:
            return "–".translate(escape)
        gain = f"{round(cell.gain, 2) + 0:+.2f}".replace("-", "−")  # + 0: no -0.00
        deviation = f" ± {cell.sd:.2f}" if cell.n > 1 else ""
        if name == "before":  # runs that start from one model have no deviation
            return (f"{cell.mean:.2f}" + deviation * (cell.sd != 0)).translate(escape)
        mean = ((gain if metric == "gain" else f"{cell.mean:.2f}") + deviation).translate(escape)
        more = f" (n={cell.n})" if metric == "gain" else f" ({gain}, n={cell.n})"
        return (bold.format(mean) if round(cell.mean, 2) == best else mean) + more.translate(escape)

    places = [list(FACETS).index(facet) for facet in blocks + columns]
    at = {tuple(scene[place] for place in places): scene for scene in table["before"]}
    keys = sorted({key[len(blocks):] for key in at})
    head = [*blocks, "solution", *(shown(zip(columns, key)) or metric for key in keys)]
    groups = [[[each.translate(escape) for each in head]]]
    for block in sorted({key[:len(blocks)] for key in at}):
        rows = {name: [cells.get(at.get(block + key), Cell()) for key in keys] for name, cells in table.items()}
        best = [max([round(cell.mean, 2) for cell in cells if cell.n], default=0) for _, *cells in zip(*rows.values())]
        heads = [shown([facet]) for facet in zip(blocks, block)]
        groups.append([[*(each.translate(escape) for each in (*heads, name)),
                        *(text(name, cell, top) for cell, top in zip(cells, best))] for name, cells in rows.items()])
    return groups


def markdown(table: dict, metric: str, blocks: list[str], columns: list[str], caption: str) -> str:
    head, *groups = grid(table, metric, blocks, columns, MARKDOWN, "**{}**")
    rule = [":--"] * (len(blocks) + 1) + ["--:"] * (len(head[0]) - len(blocks) - 1)
    rows = [*head, rule, *(row for group in groups for row in group)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\n{caption.translate(MARKDOWN)}\n"


def latex(table: dict, metric: str, blocks: list[str], columns: list[str], caption: str) -> str:
    groups = grid(table, metric, blocks, columns, LATEX, r"\textbf{{{}}}")
    form = "l" * (len(blocks) + 1) + "r" * (len(groups[0][0]) - len(blocks) - 1)
    body = "\\midrule\n".join("".join(" & ".join(row) + " \\\\\n" for row in group) for group in groups)
    return (f"\\begin{{table}}  % \\usepackage{{booktabs}}\n\\centering\n\\caption{{{caption.translate(LATEX)}}}\n"
            f"\\begin{{tabular}}{{{form}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n")


def long_csv(table: dict, metric: str, *_) -> str:
    """A line for each row and scene, whatever makes blocks and columns elsewhere."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FACETS, "solution", "metric", *Cell._fields])
    for name, cells in table.items():
        what = "acc_before" if name == "before" else metric
        writer.writerows([*map(report.short, (*scene, name, what, *cell))] for scene, cell in cells.items())
    return text.getvalue()


FORMATS = {"markdown": markdown, "latex": latex, "csv": long_csv}


def caption_of(runs: list[Run], metric: str) -> str:
    """What the numbers are, what all runs share, how many they are, and where they ran if not in one place."""
    facets = [(facet, set(values)) for facet, values in zip(FACETS, zip(*(run.scene for run in runs)))]
    told = [f"{METRICS[metric]}: mean ± standard deviation over seeds ({'gain over before, ' * (metric != 'gain')}n seeds), "
            "best of each column in bold; before: T2 accuracy (%) before repair",
            shown((facet, *values) for facet, values in facets if len(values) == 1),
            f"Runs: {len(runs)}, seeds: {', '.join(map(str, sorted({run.seed for run in runs})))}"]
    for name in ("device", "versions"):
        values = sorted({getattr(run, name) for run in runs})
        told += [f"{name.capitalize()}: {' / '.join(values)}"] if len(values) > 1 else []
    return ". ".join(filter(None, told)) + "."


def plot(table: dict, metric: str):
    """Figure of the metric over the budget: a panel for each model under repair, a line for each row."""
    from matplotlib.figure import Figure  # here, because loading it takes a second that tables do not need
    models = sorted({scene[:4] for scene in table["before"]})
    across, lines = math.ceil(math.sqrt(len(models))), {}
    down = math.ceil(len(models) / across)
    figure = Figure(figsize=(4 * across + 2.5, 3.5 * down), layout="constrained")
    for place, model in enumerate(models, 1):
        panel = figure.add_subplot(down, across, place, title=shown(zip(FACETS, model)))
        panel.set(xlabel="budget (%)", ylabel=f"{metric} (%)")
        for i, (name, cells) in enumerate(table.items(), -1):
            points = [(scene[4], cell.mean, cell.sd or math.nan)
                      for scene, cell in cells.items() if scene[:4] == model and cell.n]
            if name == "before":
                level = 0 if metric == "gain" else fmean(mean for _, mean, _ in points)
                lines[name] = panel.axhline(level, color="0.5", linestyle="--")
            elif points:
                lines[name] = panel.errorbar(*zip(*points), color=f"C{i}", marker="os^Dv"[i // 10 % 5], capsize=3)
    figure.legend(lines.values(), lines, loc="outside right", frameon=False)
    return figure


def parse_args(argv: list[str] | None = None):
    parser = Parser(__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("save")], help="results.csv, or folders with some")
    parser.add_argument("--rows", nargs="+", choices=["solution", *FACETS], default=["solution"],
                        help="solutions, in blocks by what else is given")
    parser.add_argument("--columns", nargs="+", choices=FACETS, help="what makes columns (default: all that varies)")
    parser.add_argument("--metric", choices=METRICS, default="acc_after", help="what is averaged")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="of the table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the metric over the budget")
    return parser.parse_args(argv)


def main(args) -> None:
    if args.plot and args.plot.suffix != ".png":
        raise UserError(f"{args.plot} does not end in .png; plots are PNG files")
    runs = read_runs(args.paths)
    table = table_of(runs, args.metric)
    blocks = [facet for facet in args.rows if facet != "solution"]
    varying = [facet for facet, values in zip(FACETS, zip(*table["before"])) if len(set(values)) > 1]
    columns = args.columns or [facet for facet in varying or ["p_budget"] if facet not in blocks]
    blocks += [facet for facet in varying if facet not in blocks + columns]
    text = FORMATS[args.format](table, args.metric, blocks, columns, caption_of(runs, args.metric))
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
