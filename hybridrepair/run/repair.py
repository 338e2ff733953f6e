"""The repair itself: select, annotate and propagate, fine-tune with a measurement after each epoch, report."""
import copy

import numpy as np
import torch
from torch import Tensor, nn

from hybridrepair.base import checkpoint
from hybridrepair.images.data import UNKNOWN
from hybridrepair.run import plots, report
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.settings import semi_supervised
from hybridrepair.selection.strategies import SOLUTIONS, Selection, nothing, select
from hybridrepair.selection.uncertainty import normalised
from hybridrepair.training.finetune import Labelled, Unlabelled, finetune


def repair(task: Scenario, results: report.Run) -> None:
    """Repair the model of a scenario, printing as it goes, and leave what `results` names."""
    args = task.args
    with task.stage("load"):
        before, acc_raw, acc_before = task.predictions_of(task.model), task.accuracy_of(task.raw_model), task.accuracy_of(task.model)
    print(f"{args.model2test_arch} {'ABC'[args.model_number]} on {args.dataset}: pool {task.pool.n}, budget {task.budget}, "
          f"T2 acc {acc_raw:.2f} as trained, {acc_before:.2f} before repair", flush=True)
    with task.stage("select"):
        selection = select(task.pool, args.solution, task.budget) if annotates(args) else nothing(task.pool.n)
        answers = task.oracle.annotate(selection.annotated)
        training = Training(task, selection.labels(answers))
    n_propagated, propagation_acc = report.propagation(task.pool, selection, training.labels)
    print(f"annotated {task.oracle.n_asked}, propagated to {n_propagated}"
          + (f" ({propagation_acc:.2f} % right)" if propagation_acc is not None else "")
          + f", unlabelled {training.n_unlabelled}" + (f", tau {training.tau:.4f}" if training.tau is not None else ""), flush=True)
    model = copy.deepcopy(task.model)
    epochs = training.run(model)
    row = {"n_annotated": task.oracle.n_asked, "n_propagated": n_propagated, "propagation_acc": propagation_acc,
           "tau": training.tau, "n_unlabelled": training.n_unlabelled, "acc_raw": acc_raw, "acc_before": acc_before}
    write(task, results, selection, answers, model, epochs, before, row)


def annotates(args) -> bool:
    """Whether the solution has images annotated."""
    return args.sel_l_data or not SOLUTIONS[args.solution].by_region


def sampling_weights(rule: str, labels: np.ndarray, trust: np.ndarray | float = 1.0) -> np.ndarray:
    """How likely SSL draws each pool image, float64 [N], by the solution's rule for the unlabelled data.

    labels int64 [N] with UNKNOWN; trust float64 [N] is the weight of an image without a label.
    """
    return np.where(labels != UNKNOWN, 0.0 if rule == "rest" else 1.0, trust)


class Training:
    """The fine-tuning of a repair: what is trained on, and how trust in the unlabelled images follows the model."""

    def __init__(self, task: Scenario, labels: np.ndarray):
        """labels int64 [N] are the annotated and propagated ones of the pool, UNKNOWN elsewhere."""
        self.task, self.labels, self.solution = task, labels, SOLUTIONS[task.args.solution]
        self.tau, self.unlabelled, self.mask = None, None, np.ones(task.pool.n, bool)
        trusts = semi_supervised(task.args) and self.solution.unlabelled == "trusted"
        if trusts and task.args.exp == 0:
            self.tau = task.tau
            self.mask = task.pool.unsmoothness.cpu().numpy() <= self.tau
        if semi_supervised(task.args):
            trust = self.trust(task.pool.unsmoothness) if trusts else 1.0
            self.unlabelled = Unlabelled(sampling_weights(self.solution.unlabelled, labels, trust))
        self.n_unlabelled = int((self.unlabelled.weights > 0).sum()) if self.unlabelled else 0

    def trust(self, unsmoothness: Tensor) -> np.ndarray:
        """Weights float64 [N] of unlabelled images from their unsmoothness [N] as it is now, within the location mask."""
        return np.where(self.mask, 1 - unsmoothness.cpu().numpy() if self.task.args.u_weight else 1.0, 0.0)

    def run(self, model: nn.Module) -> list[dict]:
        """Fine-tune `model` in place; a record for each epoch, of which a line is printed."""
        task, pool = self.task, self.task.pool
        labelled = torch.from_numpy(np.flatnonzero(self.labels != UNKNOWN)).to(task.device)
        known = torch.from_numpy(self.labels).to(task.device)
        chosen = Labelled(pool.images[labelled], known[labelled]) if annotates(task.args) else None
        epochs = []
        for record in finetune(model, task.normalise, task.train, task.recipe(task.seed), chosen, pool=pool.images, known=known,
                               unlabelled=self.unlabelled):
            task.seconds["finetune"] = task.seconds.get("finetune", 0) + record["seconds"]
            with task.stage("measure"):
                self.measure(model, record)
            epochs.append(record)
            print(line_of(record, task.args.retrain_epoch), flush=True)
        return epochs

    def measure(self, model: nn.Module, record: dict) -> None:
        """Add accuracy and unsmoothness after an epoch to its record; the sampling weights follow the unsmoothness."""
        task = self.task
        record["acc"] = task.accuracy_of(model)
        record["unsmoothness"] = None
        if self.solution.by_region:  # baselines have no use for it, and it costs as much as an epoch
            entropy = task.pool.uncertainty_of(model).mean_entropy
            record["unsmoothness"] = entropy.mean().item()
            if self.unlabelled and not task.args.disable_dynamic_u_weight:
                self.unlabelled.weights = sampling_weights(self.solution.unlabelled, self.labels, self.trust(normalised(entropy)))


def write(task: Scenario, results: report.Run, selection: Selection, answers: np.ndarray, model: nn.Module, epochs: list[dict],
          before: Tensor, row: dict) -> None:
    """Leave the results: `row` as far as it is known before fine-tuning, before int64 [N] the classes of T2 predicted then."""
    after = task.predictions_of(model)
    right_before, right_after = before == task.t2.labels, after == task.t2.labels
    smoothest = min(epochs, key=lambda each: each["unsmoothness"]) if SOLUTIONS[task.args.solution].by_region else None
    row |= {"acc_after": epochs[-1]["acc"], "acc_smoothest": smoothest and smoothest["acc"],
            "acc_best": max(each["acc"] for each in epochs), "fixed": int((~right_before & right_after).sum()),
            "broken": int((right_before & ~right_after).sum()), **{f"seconds_{name}": s for name, s in task.seconds.items()},
            "versions": report.versions(), "device": report.device_name(task.device)}
    report.write_selected(results.folder / "selected.csv", task.pool, selection, answers)
    checkpoint.save(results.folder / f"{task.checkpoint_path.stem}_repaired.t7",
                    {"net": checkpoint.weights_of(model), "acc": epochs[-1]["acc"], "epoch": len(epochs),
                     "settings": results.identity})
    report.write_json(results.folder / "run.json", {"args": vars(task.args), "settings": task.settings, "result": row,
                                                    "epochs": epochs, **report.environment(task.device)})
    plots.write(results.folder, task.pool, selection, epochs, task.t2.labels, before, after)
    results.write_row(row)
    print(f"fixed {row['fixed']}, broken {row['broken']} of {len(after)} T2 images; everything is in {results.folder}")
    if smoothest:
        print(f"T2 acc of the smoothest epoch ({smoothest['epoch']}): {smoothest['acc']:.2f}")
    print(f"T2 acc of the best epoch, an upper bound chosen on T2 itself: {row['acc_best']:.2f}")
    print(report.headline(row["acc_before"], row["acc_after"]))


def line_of(record: dict, epochs: int) -> str:
    """One line an epoch, for the terminal."""
    told = [f"epoch {record['epoch']:2d}/{epochs}", f"T2 acc {record['acc']:.2f}"]
    told += [f"{name} {record[key]:.4f}" for name, key in (("loss", "loss"), ("SSL loss", "ssl_loss"),
             ("unsmoothness", "unsmoothness")) if record[key] is not None]
    return "  ".join([*told, f"{record['images'] / record['seconds']:.0f} images/s"])
