"""Repair a model with a small labelling budget: annotate, propagate, fine-tune, evaluate, save.

    python repair.py --dataset digits --solution hybrid --auto_tao --u_weight
    python repair.py --dataset cifar10 --solution mcp --p_budget 1
    python repair.py --dataset cifar10 --labels my_labels.csv          answers of your own annotators

Prints a line an epoch, and at last the accuracy on T2 before and after; hybridrepair/run/output.py says what is left in
--save_path. A run that is in results.csv already is not done again.
"""
from hybridrepair.base import checkpoint, states
from hybridrepair.base.errors import run
from hybridrepair.report import tracking
from hybridrepair.run import output
from hybridrepair.run.flags import repair_parser
from hybridrepair.run.repair import repair
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.settings import annotates


def parse_args(argv: list[str] | None = None):
    return repair_parser(__doc__).parse_args(argv)


def main(args) -> None:
    tracking.require(args.report_to)
    task = Scenario(args)
    if annotates(args):
        task.oracle.expect_labels()
    if args.check:
        return
    results = output.Run(task)
    with checkpoint.locked(results.folder, wait=False) as ours:
        done = results.find()
        if done and not args.force and not results.state.exists():  # a state: the end came between the row and its removal
            states.remove(results.state)
            print(f"done already, in {results.results}: {results.folder.name}")
            print(output.headline(*(float(done[name]) if done[name] else None for name in ("acc_before", "acc_after")), task.judged_on))
        elif not ours:
            print(f"another process is at it, skipped: {results.folder.name}")
        else:
            repair(task, results)


if __name__ == "__main__":
    run(main, parse_args())
