"""Repair a model with a small labelling budget: annotate, propagate, fine-tune, evaluate, save.

    python repair.py --dataset digits --solution hybrid --auto_tao --u_weight
    python repair.py --dataset cifar10 --solution mcp --p_budget 1
    python repair.py --dataset cifar10 --labels my_labels.csv          answers of your own annotators

Prints a line an epoch, and at last the accuracy on T2 before and after; hybridrepair/run/output.py says what is left in
--save_path. A run whose folder, or results.csv, has its result already is not done again.
"""
from hybridrepair.base.errors import run
from hybridrepair.base.locks import locked
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
        print(task.checked)
        return
    results = output.Run(task)
    with locked(results.folder, wait=False) as ours:
        done = results.find()
        if done and not args.force and not (ours and results.cut_off()):
            results.enter()
            if ours and not results.state.exists():
                results.clean()  # of what is left where the end came right after that state
            print(f"done already, in {results.results}: {results.folder.name}")
            if not results.model.exists():
                print(f"its model {results.model} is not there any more; --force makes it again")
            print(results.headline_of(done, task.judged_on))
        elif not ours:
            print(f"another process is at it, skipped: {results.folder.name}")
        else:
            repair(task, results)


if __name__ == "__main__":
    run(lambda: main(parse_args()))
