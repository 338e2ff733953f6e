"""Ablations of HybridRepair: one part of it left out or replaced at a time, on a share of the pool, several seeds.

    python results/ablations.py --dataset digits --pool_share 1
    python results/ablations.py --dataset cifar10 --model2test_arch resnet18 --fe examples/efficientnet_lite0.py:build
    python results/ablations.py --variants hybrid "SSL off" --seeds 10 20 --dataset cifar10
    python results/ablations.py --table

All other flags are those of repair.py, and say what `hybrid` is, the variant that others depart from: by default with what repair.sh
has, --u_weight and --auto_tao. Variants start from the same model before repair. Adds a row to results/ablations.csv for each that is
not there yet; a variant that was interrupted goes on from its state in save/ablations, and one that ends in an error, say because it
diverged, does not keep the others from running. --table prints the rows' means.
"""
import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybridrepair.base import digests, states
from hybridrepair.base.errors import UserError, run
from hybridrepair.base.locks import locked
from hybridrepair.base.rows import rows_of, write_rows
from hybridrepair.images import data
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.run.comparison import MISSING, written
from hybridrepair.run.course import Course, Trusting, course_of
from hybridrepair.run.details import mean, spread
from hybridrepair.run.flags import number, repair_parser
from hybridrepair.run.repair import perform
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.table import exact, short
from hybridrepair.selection.solutions import SOLUTIONS, Selection
from hybridrepair.training.finetune import Recipe

TABLE = Path(__file__).with_name("ablations.csv")
STATES = Path("save/ablations")
MOCO = "features of MoCo"
PUBLISHED = "hybrid"  # the variant that others are compared with
IDENTITY = ("dataset", "model", "model_number", "pool", "settings", "seed", "variant")  # settings are those of PUBLISHED
NUMBERS = ("seed", "n_annotated", "n_propagated", "n_unlabelled", "acc_before", "acc_after", "fixed", "broken", "unsmoothness_before",
           "unsmoothness_after")  # that the table shows
MEASURES = ("n_annotated", "n_propagated", "propagation_acc", "tau", "n_unlabelled", "acc_before", "acc_after", "fixed", "broken",
            "unsmoothness_before", "unsmoothness_after", "guess_acc_trusted_before", "guess_acc_trusted_after",
            "guess_acc_propagated_before", "guess_acc_propagated_after", "seconds_finetune", "versions", "device")


class Truthful(Trusting):
    """Propagated labels that are wrong are made true, which no annotator has said: all, or every so many of them."""
    every = 1

    def prepare(self, selection: Selection) -> None:
        super().prepare(selection)
        truth = self.task.dataset.labels[self.task.pool.pool_index]
        wrong = np.flatnonzero(self.propagated & (truth != UNKNOWN) & (truth != self.labels))[::self.every]
        self.labels[wrong] = truth[wrong]


class HalfTruthful(Truthful):
    """Of the wrong ones every other is."""
    every = 2


class Alone(Trusting):
    """No image takes another's label."""

    def __init__(self, task: Scenario, selection: Selection, answers: np.ndarray):
        super().__init__(task, selection.alone, answers)


class Unsmoothed(Trusting):
    """Labels of the supervised pass are not smoothed."""

    @property
    def recipe(self) -> Recipe:
        return replace(super().recipe, smoothing=0)


class Frozen(Trusting):
    """Batch norm keeps the statistics of the model before repair, and computes with them."""

    def run(self, model: nn.Module, *more) -> list[dict]:
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval().train = partial(whatever, layer)  # type: ignore[method-assign]
        return super().run(model, *more)


def whatever(layer: nn.Module, mode: bool = True) -> nn.Module:
    """The layer as it is, whichever mode is asked for."""
    return layer


@dataclass(frozen=True)
class Variant:
    """What is done otherwise: flags of repair.py, and what is trained on."""
    flags: dict[str, object] = field(default_factory=dict)
    course: Callable[[Scenario, Selection, np.ndarray], Course] = course_of


VARIANTS = {  # those that tell most first
    PUBLISHED: Variant(),
    "SSL off": Variant({"sel_u_data": False}),
    "propagation off": Variant(course=Alone),
    "propagated labels true": Variant(course=Truthful),
    "half of the wrong ones true": Variant(course=HalfTruthful),
    "labels true, SSL off": Variant({"sel_u_data": False}, Truthful),
    "tau off": Variant({"exp": -1}),
    "weights off": Variant({"u_weight": False}),
    "estimated statistics": Variant({"estimated_statistics": True}),
    "frozen statistics": Variant(course=Frozen),
    "mcp": Variant({"solution": "mcp"}),
    "random": Variant({"solution": "random"}),
    "SSL alone": Variant({"sel_l_data": False}),
    "features of the model": Variant({"fe": "model2test"}),
    MOCO: Variant({"fe": "mocov3"}),
    "label smoothing off": Variant(course=Unsmoothed),
    "20 epochs": Variant({"retrain_epoch": 20}),
    "rate 0.001": Variant({"retrain_lr": 0.001}),
    "rate 0.003": Variant({"retrain_lr": 0.003}),
    "rate 0.01": Variant({"retrain_lr": 0.01}),
}


def cut(dataset: data.Dataset, share: float) -> data.Dataset:
    """The dataset with a share of its pool, images at equal distances."""
    pool = dataset.split["pool"]
    kept = np.linspace(0, len(pool), max(round(share * len(pool)), 1), endpoint=False).astype(np.int64)
    return replace(dataset, split=dataset.split | {"pool": pool[kept]})


def task_of(base: Scenario, variant: Variant) -> Scenario:
    """The scenario of a variant, which starts from the same model as the base, and shares with it what its flags do not change."""
    task = Scenario(argparse.Namespace(**vars(base.args) | variant.flags), base.dataset)
    task.models = base.models
    if task.args.fe == base.args.fe:
        task.pool = base.pool
    if SOLUTIONS[task.args.solution].trusts:
        task.tau_estimates = base.tau_estimates
    return task


def main(args) -> None:
    dataset = cut(data.load(args.dataset, args.data_path, args.img_size, args.skip_bad), args.pool_share)
    failed = []
    for seed in args.seeds:
        base = Scenario(argparse.Namespace(**vars(args) | {"manualSeed": seed, "solution": PUBLISHED}), dataset)
        if args.check:
            continue
        settings = " ".join(f"{key}={exact(value)}" for key, value in base.settings.items())
        of_base = (args.dataset, args.model2test_arch, args.model_number, base.pool.n, settings, seed)
        for name in args.variants:
            variant = VARIANTS[name]
            if variant.course is course_of and variant.flags and vars(base.args) | variant.flags == vars(base.args):
                continue  # it is the published one
            try:
                cell(base, variant, {key: exact(value) for key, value in zip(IDENTITY, (*of_base, name))})
            except UserError as error:
                failed.append(f"{name}, seed {seed}: {error}")
                print(f"no row for {failed[-1]}", flush=True)
    if failed:
        raise UserError("; ".join(failed))


def cell(base: Scenario, variant: Variant, identity: dict[str, str]) -> None:
    """Run a variant, unless the table has its row or another process is at it, and enter its row; `--force` replaces it."""
    def same(row: dict[str, str]) -> bool:
        return identity.items() <= row.items()

    def done() -> bool:
        return any(map(same, rows_of(TABLE))) and not base.args.force

    if done():
        return
    path = STATES / f"{digests.of(repr(identity).encode())}.partial.t7"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, wait=False) as ours:
        if not ours or done():
            return
        print(f"{identity['variant']}, seed {identity['seed']}", flush=True)
        row = perform(task_of(base, variant), lambda data: states.Kept(path, identity | {"data": data}, base.args.save_every,
                                                                       base.args.force), course_of=variant.course).row
        with locked(TABLE):
            write_rows(TABLE, (*IDENTITY, *MEASURES), [*itertools.filterfalse(same, rows_of(TABLE)),
                                                       identity | {key: short(row.get(key)) for key in MEASURES}])
        states.remove(path)


def table() -> str:
    """In Markdown, for each base: a line for each variant, means over seeds, with its distance from PUBLISHED at equal seeds."""
    runs = pd.DataFrame(rows_of(TABLE))
    if runs.empty:
        raise UserError(f"there are no rows in {TABLE} yet; run some variants, without --table")
    runs[list(NUMBERS)] = runs[list(NUMBERS)].apply(pd.to_numeric)
    return "\n\n".join(lines_of(cells) for _, cells in runs.groupby([*IDENTITY[:5]], sort=False))


def lines_of(cells: pd.DataFrame) -> str:
    """The part of the table that has one base."""
    first, base = cells.iloc[0], cells[cells["variant"] == PUBLISHED].set_index("seed")["acc_after"]
    lines = []
    for name in filter(set(cells["variant"]).__contains__, VARIANTS):
        of = cells[cells["variant"] == name].set_index("seed")
        less = (of["acc_after"] - base).dropna() if name != PUBLISHED else base[:0]
        smooth = of[["unsmoothness_before", "unsmoothness_after"]].mean()
        lines.append({"variant": name, "n": str(len(of)), "T2 accuracy (%) after": spread(of["acc_after"]),
                      f"minus {PUBLISHED}": spread(less, "+.2f").replace("-", "−"),
                      "fixed, broken": f"{mean(of['fixed'], '.0f')}, {mean(of['broken'], '.0f')}",
                      "labels propagated": mean(of["n_propagated"], ",.0f"), "without labels": mean(of["n_unlabelled"], ",.0f"),
                      "unsmoothness": MISSING if smooth.isna().any() else " to ".join(map("{:,.0f}".format, smooth))})
    head = (f"{first['model']} {'ABC'[int(first['model_number'])]}, {first['dataset']}, pool {int(first['pool']):,}, "
            f"{int(cells['n_annotated'].max())} annotated, T2 accuracy {first['acc_before']:.2f} % before")
    return f"{head}\n\n{written(pd.DataFrame(lines), 1, first['settings'], 'markdown')}"


def parse_args(argv: list[str] | None = None):
    parser = repair_parser(__doc__)
    group = parser.add_argument_group("ablations")
    group.add_argument("--pool_share", type=number(float, 0, 1, above=True), default=0.25, help="share of the pool that is kept")
    group.add_argument("--variants", nargs="+", choices=list(VARIANTS), metavar="NAME",
                       default=[name for name in VARIANTS if name != MOCO],
                       help=f"in this order, of {', '.join(VARIANTS)} (default: all but {MOCO}, which are to be pretrained first)")
    group.add_argument("--seeds", nargs="+", type=number(int, 0), default=[10, 20, 30], help="in place of --manualSeed")
    group.add_argument("--table", action="store_true", help="print the means of the rows there are, and stop")
    parser.set_defaults(u_weight=True, auto_tao=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parsed = parse_args()
    run(lambda: print(table()) if parsed.table else main(parsed))
