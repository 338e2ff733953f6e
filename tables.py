"""Tables and plots of finished runs, from one results.csv or many.

    python tables.py                                            all that is in save/, as Markdown
    python tables.py save/ --columns model_number --plot budget.png
    python tables.py a/results.csv b/ --rows dataset --metric gain --format latex --output table.tex
    python tables.py save/ --details                            what each cell trained on, fixed and broke, and took
    python tables.py save/ --format csv                         a line for each cell, each number in a column of its own
    python tables.py --report save/digits_MobileNet/<run>       report.html and plots of a run again, from what lies in its folder
    python tables.py --rebuild save/                            results.csv again, where it was lost or damaged

A cell is the mean over seeds, their standard deviation (n - 1), the gain over the accuracy before repair, and n.
Nothing but seeds is averaged: a solution has a row for each of its settings, and the budgets make columns if there are
several, else the weights of the models under repair, else the model numbers, the models or the datasets; all else makes blocks of rows.
"""
from pathlib import Path

from hybridrepair.base.errors import UserError
from hybridrepair.base.errors import run as run_main
from hybridrepair.base.files import atomic
from hybridrepair.base.text import text_of
from hybridrepair.report import page
from hybridrepair.run.comparison import FACETS, METRICS, caption_of, grid, long_csv, origin_of, plot, read_runs, table_of, written
from hybridrepair.run.details import CAPTION as DETAILS
from hybridrepair.run.details import details_of
from hybridrepair.run.flags import Parser
from hybridrepair.run.table import NAME, rebuild


def parse_args(argv: list[str] | None = None):
    parser = Parser(__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("save")], help="results.csv, or folders with some "
                        "(default: save)")
    parser.add_argument("--rows", nargs="+", choices=["solution", *FACETS], default=["solution"],
                        help="what makes blocks of rows, first of all; within them, each solution has its row (default: "
                        "solution)")
    parser.add_argument("--columns", nargs="+", choices=FACETS, help="what makes columns (default: the last that differs "
                        "of dataset, model, model_number, weights of the model under repair, p_budget)")
    parser.add_argument("--metric", choices=METRICS, default="acc_after", help="what is averaged")
    parser.add_argument("--details", action="store_true", help="instead, a line for each cell: accuracy before and after, images fixed "
                        "and broken, annotated, labels propagated and right, tau, unlabelled images, seconds, precision, device")
    parser.add_argument("--format", choices=["markdown", "latex", "csv"], default="markdown", help="of the table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the metric over the budget")
    parser.add_argument("--report", nargs="+", type=Path, metavar="FOLDER", help="instead, make report.html and plots again in these "
                        "folders of runs, or in all below them; no data, model or training is needed")
    parser.add_argument("--rebuild", nargs="+", type=Path, metavar="FOLDER", help="instead, make results.csv again from the folders of "
                        "runs in these folders, or in all below them; rows that it alone has stay")
    return parser.parse_args(argv)


def main(args) -> None:
    if args.report:
        for folder in page.runs_in(args.report):
            print(text_of(str(page.write_all(folder))))
        return
    if args.rebuild:
        for line in rebuild(args.rebuild):
            print(line)
        return
    if args.plot and args.plot.suffix != ".png":
        raise UserError(f"{args.plot} does not end in .png; plots are PNG files")
    if args.output and args.output.is_dir():
        raise UserError(f"{args.output} is a folder; give the name of a file to write the table to")
    for path in filter(None, (args.output, args.plot)):
        if path.exists() and (path.name == NAME or any(given.exists() and path.samefile(given) for given in args.paths)):
            raise UserError(f"{path} holds runs that tables are made of; give another file to write to")
    usual = parse_args([])
    idle = [f"--{flag}" for flag in ("rows", "columns", "metric", "plot") if getattr(args, flag) != getattr(usual, flag)]
    if args.details and idle:
        raise UserError(f"--details has lines and columns of its own, and draws nothing; leave out {', '.join(idle)}")
    blocks = [facet for facet in args.rows if facet != "solution"]
    twice = [facet for facet in blocks if facet in (args.columns or [])]
    if twice:
        raise UserError(f"{', '.join(twice)} cannot make both rows and columns; leave it out of --rows or --columns")
    runs = read_runs(args.paths)
    if args.details:
        cells, names = details_of(runs)
        give(args, cells.to_csv(index=False, lineterminator="\n") if args.format == "csv" else
             written(cells, names, f"{DETAILS}. {origin_of(runs)}", args.format))
        return
    table = table_of(runs, args.metric)
    differ = [facet for facet in FACETS if facet not in blocks and runs[facet].nunique() > 1]
    columns = args.columns or [facet for facet in differ if facet != "data"][-1:] or ["p_budget"]
    blocks += [facet for facet in differ if facet not in columns]
    if args.format == "csv":
        text = long_csv(table, args.metric)
    else:
        cells = grid(table, args.metric, blocks, columns)
        text = written(cells, len(blocks) + 1, caption_of(runs, args.metric), args.format)
    if args.plot:
        with atomic(args.plot) as temporary:
            plot(table, args.metric).savefig(temporary, format="png", dpi=120)
    give(args, text)


def give(args, text: str) -> None:
    """Print a table, or write it to --output."""
    if args.output:
        with atomic(args.output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    run_main(main, parse_args())
