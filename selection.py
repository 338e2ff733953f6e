"""Say what to annotate: writes a selected.csv for an annotator.

    python selection.py --dataset cifar10 --model2test_arch MobileNet --solution hybrid --p_budget 1 --auto_tao
    python selection.py --dataset cifar10 --solution gini --p_budget 0.5

The strategies are in hybridrepair/selection/strategies.py.
"""
import shlex
import sys

from hybridrepair.base.errors import UserError, run
from hybridrepair.run import report
from hybridrepair.run.flags import repair_parser
from hybridrepair.run.scenario import Scenario
from hybridrepair.selection.strategies import SOLUTIONS, select


def parse_args(argv: list[str] | None = None):
    parser = repair_parser(__doc__)
    parser.add_argument("--retrain", action="store_true", help="of the published command line; repair.py does it here")
    return parser.parse_args(argv)


def main(args) -> None:
    if args.retrain:
        call = shlex.join(word for word in sys.argv[1:] if word != "--retrain")
        repairs = "hybridrepair repair" if sys.argv[0].startswith("hybridrepair") else "python repair.py"
        raise UserError(f"selection.py only selects and --retrain is repair.py's work; call: {repairs} {call}")
    task = Scenario(args)
    if SOLUTIONS[args.solution].by_region and not args.sel_l_data:
        raise UserError("with --sel_u_data alone nothing is annotated, so there is nothing to select; add --sel_l_data")
    folder = report.Run(task).folder
    path = folder.with_name(f"selection_{folder.name}") / "selected.csv"
    if report.answered(path) and not args.force:
        raise UserError(f"{path} holds labels already; pass it to repair.py as --labels, move it away, or replace it by --force")
    selection = select(task.pool, args.solution, task.budget)
    report.write_selected(path, task.pool, selection)
    print(f"{len(selection.annotated)} of {task.pool.n} images to annotate: {path}")
    print("fill in its column label, and pass it to repair.py with the same flags as --labels")


if __name__ == "__main__":
    run(main, parse_args())
