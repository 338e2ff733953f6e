"""Say what to annotate: writes a folder for annotators, or a selected.csv.

    python selection.py --dataset cifar10 --model2test_arch MobileNet --solution hybrid --p_budget 1 --auto_tao
    python selection.py --dataset cifar10 --solution gini --p_budget 0.5
    python selection.py --dataset signs --fe model2test --out to_label --format label-studio folders
    python selection.py --dataset signs --fe model2test --out round_2 --labelled to_label/to_label.csv --model2test_path REPAIRED.t7

The strategies are in hybridrepair/selection/strategies.py, the solutions made of them in solutions.py beside it.
"""
import shlex
import sys
from pathlib import Path

from hybridrepair.annotation import questions
from hybridrepair.annotation.manifest import manifest_of
from hybridrepair.base.errors import UserError, run
from hybridrepair.base.processes import led
from hybridrepair.run import output
from hybridrepair.run.flags import path, repair_parser
from hybridrepair.run.scenario import Scenario
from hybridrepair.selection.pool import Pool
from hybridrepair.selection.solutions import SOLUTIONS, Selection


def parse_args(argv: list[str] | None = None):
    parser = repair_parser(__doc__)
    parser.add_argument("--retrain", action="store_true", help="of the published command line; repair.py does it here")
    group = parser.add_argument_group("questions")
    group.add_argument("--out", type=path, metavar="FOLDER", help="write the images to be labelled there, with a manifest "
                       "(default: a selected.csv in --save_path)")
    group.add_argument("--format", nargs="+", action="extend", choices=questions.FORMATS, default=[], help="forms beside the CSV file "
                       "in --out: tasks of Label Studio, and the images in a folder for each class, to be sorted by hand")
    return parser.parse_args(argv)


def main(args) -> None:
    if args.retrain:
        call = shlex.join(word for word in sys.argv[1:] if word != "--retrain")
        repairs = "hybridrepair repair" if sys.argv[0].startswith("hybridrepair") else "python repair.py"
        raise UserError(f"selection.py only selects and --retrain is repair.py's work; call: {repairs} {call}")
    if args.labels:
        raise UserError("--labels is for repair.py, which reads the answers; give those of earlier rounds as --labelled")
    if args.format and not args.out:
        raise UserError("--format is of what --out writes; give --out too")
    task = Scenario(args)
    if SOLUTIONS[args.solution].by_region and not args.sel_l_data:
        raise UserError("with --sel_u_data alone nothing is annotated, so there is nothing to select; add --sel_l_data")
    if args.check:
        print(task.checked)
        return
    if args.out:
        out = Path(args.out)
        led(lambda: questions.refuse_to_replace(out, args.force))
        pool, selection = chosen(task)
        made = manifest_of(task.dataset, selection, task.origin)
        led(lambda: questions.write(out, pool, selection, made, args.format, f"{args.model2test_arch} {task.weights}"))
        print(f"{len(made.images)} of {pool.n} images to annotate: {out}")
        print("give back the answers to repair.py with the same flags and --labels")
        return
    folder = output.Run(task).folder
    path = folder.with_name(f"selection_{folder.name}") / "selected.csv"
    if led(lambda: output.answered(path)) and not args.force:
        raise UserError(f"{path} holds labels already; pass it to repair.py as --labels, move it away, or replace it by --force")
    pool, selection = chosen(task)
    led(lambda: output.write_selected(path, pool, selection))
    print(f"{len(selection.annotated)} of {pool.n} images to annotate: {path}")
    print("fill in its column label, and pass it to repair.py with the same flags as --labels")


def chosen(task: Scenario) -> tuple[Pool, Selection]:
    """The pool with its predictions, and what is chosen of it: of several processes all take part, before the first writes it."""
    pool, selection = task.pool, task.selection
    pool.probs  # noqa: B018  # kept once it is asked for
    return pool, selection


if __name__ == "__main__":
    run(lambda: main(parse_args()))
