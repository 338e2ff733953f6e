"""Controls of hybrid+: what its rate and its number of steps give by themselves, without a teacher.

    python results/controls.py --dataset cifar10 --model2test_arch resnet18 --solution mcp --precision bfloat16
    python results/controls.py --dataset cifar10 --model2test_arch resnet18 --no_answers --precision bfloat16

Trains the model that a repair would start from as hybrid+ does, step by step, but in place of the pool sees the images that the
solution has annotated (or none) and the train set, in turns and with their labels; adds a row to results/<dataset>/controls.csv.
"""
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybridrepair.base.errors import run
from hybridrepair.base.locks import locked
from hybridrepair.base.rows import rows_of, write_rows
from hybridrepair.run.course import line_of
from hybridrepair.run.flags import repair_parser
from hybridrepair.run.models import recipe_of
from hybridrepair.run.scenario import Scenario
from hybridrepair.training.finetune import finetune

RESULTS = Path(__file__).resolve().parent
COLUMNS = ("dataset", "model", "model_number", "solution", "seed", "distill_lr", "epochs", "n_annotated", "acc_before", "acc_after",
           "precision")


def parse_args(argv: list[str] | None = None):
    parser = repair_parser(__doc__)
    parser.add_argument("--no_answers", action="store_true", help="have nothing annotated: the train set alone")
    return parser.parse_args(argv)


def main(args) -> None:
    task = Scenario(args)
    if args.check:
        return
    path = RESULTS / args.dataset / "controls.csv"
    rows_of(path)  # what is wrong with it is told before the training
    train, pool = task.train, task.pool
    images, labels = train.images, train.labels
    if not args.no_answers:
        chosen = task.selection.annotated
        images = torch.cat([pool.images[torch.from_numpy(chosen).to(task.device)], images])
        labels = torch.cat([torch.from_numpy(task.oracle.annotate(chosen)).to(task.device), labels])
    turns = torch.arange(pool.n, device=task.device) % len(labels)  # in place of the pool
    targets = torch.nn.functional.one_hot(labels, task.dataset.num_classes).float()
    model = task.models.to_repair()
    before = task.accuracy_of(model)
    recipe = replace(recipe_of(args, "control", task.seed), lr=args.distill_lr)
    print(f"{len(labels)} images with labels, {task.judged_on} acc {before:.2f} before", flush=True)
    for record in finetune(model, task.normalise, train, recipe, pool=images[turns], targets=targets[turns]):
        record["acc"] = task.accuracy_of(model)
        print(line_of(record, recipe.epochs, task.judged_on), flush=True)
    values = (args.dataset, args.model2test_arch, args.model_number, "none" if args.no_answers else args.solution, args.manualSeed,
              args.distill_lr, recipe.epochs, len(labels) - len(train.labels), f"{before:.2f}", f"{record['acc']:.2f}", args.precision)
    path.parent.mkdir(exist_ok=True)
    with locked(path):
        write_rows(path, COLUMNS, [*rows_of(path), dict(zip(COLUMNS, map(str, values)))])


if __name__ == "__main__":
    run(lambda: main(parse_args()))
