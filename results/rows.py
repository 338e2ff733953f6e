"""Puts rows of runs into a table of this folder: in place of those of the same runs, while all others stay.

    python results/rows.py results/digits/float32.csv save/digits_float32/results.csv
    python results/rows.py results/digits/rounds.csv --column rounds save/digits_rounds/*/results.csv      with their folders' names
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybridrepair.base.errors import UserError, run
from hybridrepair.base.locks import locked
from hybridrepair.run.table import merged, read, write


def parse_args(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("results", type=Path, nargs="+", help="results.csv of runs")
    parser.add_argument("--column", help="of the table, which the name of the folder of each results.csv goes to")
    return parser.parse_args(argv)


def main(args) -> None:
    for path in args.results:
        if not path.is_file():
            raise UserError(f"there is no {path}; give the results.csv of runs")
    new = [row | ({args.column: path.parent.name} if args.column else {}) for path in args.results
           for row in read(path).all_of(path)]
    args.table.parent.mkdir(parents=True, exist_ok=True)
    with locked(args.table):
        write(args.table, merged(read(args.table).all_of(args.table), new))


if __name__ == "__main__":
    run(lambda: main(parse_args()))
