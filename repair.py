"""Repair a model with a small labelling budget: annotate, propagate, fine-tune, evaluate, save.

    python repair.py --dataset digits --fe model2test --u_weight --solution hybrid
    python repair.py --dataset cifar10 --solution mcp --p_budget 1
    python repair.py --dataset cifar10 --labels my_labels.csv          answers of your own annotators

Prints a line an epoch, and at last the accuracy on T2 before and after; report.py says what is left in --save_path. A run
that is in results.csv already is not done again.
"""
import copy

import numpy as np
import torch

import checkpoint
import plots
import report
import scenario
from errors import run
from finetune import Labelled, Unlabelled, finetune
from oracle import UNKNOWN
from scenario import Scenario
from selection import SOLUTIONS, nothing, select
from uncertainty import normalised


def parse_args(argv: list[str] | None = None):
    return scenario.parser(__doc__).parse_args(argv)


def sampling_weights(task: Scenario, labels: np.ndarray, unsmoothness: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray:
    """How likely SSL draws each pool image, float64 [N]: by the solution's rule for the unlabelled data.

    labels int64 [N] with UNKNOWN; for HybridRepair unsmoothness float64 [N] as it is now, and the location mask bool [N].
    """
    rule = SOLUTIONS[task.args.solution].unlabelled
    if rule == "trusted":
        weights = np.where(mask, 1 - unsmoothness if task.args.u_weight else 1.0, 0.0)
        return np.where(labels != UNKNOWN, 1.0, weights)
    return np.where(labels != UNKNOWN, 0.0 if rule == "rest" else 1.0, 1.0)


def main(args) -> None:
    task = Scenario(args)
    results = report.Run(task)
    with checkpoint.locked(results.folder, wait=False) as ours:
        done = results.find()
        if done and not args.force:
            print(f"done already, in {results.results}: {results.folder.name}")
            print(report.headline(float(done["acc_before"]), float(done["acc_after"])))
        elif not ours:
            print(f"another process is at it, skipped: {results.folder.name}")
        else:
            repair(task, results)


def repair(task: Scenario, results: report.Run) -> None:
    args, solution = task.args, SOLUTIONS[task.args.solution]
    with task.stage("load"):
        before, acc_raw, acc_before = task.predictions_of(task.model), task.accuracy_of(task.raw_model), task.accuracy_of(task.model)
    print(f"{args.model2test_arch} {'ABC'[args.model_number]} on {args.dataset}: pool {task.n}, budget {task.budget}, "
          f"T2 acc {acc_raw:.2f} as trained, {acc_before:.2f} before repair", flush=True)

    # select, annotate, propagate
    with task.stage("select"):
        annotates = args.sel_l_data or not solution.by_region
        selection = select(task, args.solution, task.budget) if annotates else nothing(task.n)
        answers = task.oracle.annotate(selection.annotated)
        labels = selection.labels(answers)
        trusts = task.semi_supervised and solution.unlabelled == "trusted"
        unsmoothness = task.unsmoothness.cpu().numpy() if solution.by_region else None
        mask = (unsmoothness <= task.tau if args.exp == 0 else np.ones(task.n, bool)) if trusts else None
        unlabelled = Unlabelled(sampling_weights(task, labels, unsmoothness, mask)) if task.semi_supervised else None
    n_propagated, propagation_acc = report.propagation(task, selection, labels)
    n_unlabelled = int((unlabelled.weights > 0).sum()) if unlabelled else 0
    print(f"annotated {task.oracle.n_asked}, propagated to {n_propagated}"
          + (f" ({propagation_acc:.2f} % right)" if propagation_acc is not None else "")
          + f", unlabelled {n_unlabelled}" + (f", tau {task.tau:.4f}" if trusts and args.exp == 0 else ""), flush=True)

    # fine-tune
    device = task.device
    labelled = torch.from_numpy(np.flatnonzero(labels != UNKNOWN)).to(device)
    known = torch.from_numpy(labels).to(device)
    chosen = Labelled(task.pool[labelled], known[labelled]) if annotates else None
    model = copy.deepcopy(task.model)
    epochs = []
    for record in finetune(model, task.normalise, task.train, task.recipe(task.seed), chosen, pool=task.pool, known=known,
                           unlabelled=unlabelled):
        task.seconds["finetune"] = task.seconds.get("finetune", 0) + record["seconds"]
        with task.stage("measure"):
            record["acc"] = task.accuracy_of(model)
            record["unsmoothness"] = None
            if solution.by_region:  # baselines have no use for it, and it costs as much as an epoch
                entropy = task.uncertainty_of(model, task.pool, "pool").mean_entropy
                record["unsmoothness"] = entropy.mean().item()
                if trusts and not args.disable_dynamic_u_weight:
                    unlabelled.weights = sampling_weights(task, labels, normalised(entropy).cpu().numpy(), mask)
        epochs.append(record)
        print(line_of(record, args.retrain_epoch), flush=True)

    # report
    after = task.predictions_of(model)
    right_before, right_after = before == task.t2.labels, after == task.t2.labels
    smoothest = min(epochs, key=lambda each: each["unsmoothness"]) if solution.by_region else None
    row = {"n_annotated": task.oracle.n_asked, "n_propagated": n_propagated, "propagation_acc": propagation_acc,
           "tau": task.tau if trusts and args.exp == 0 else None, "n_unlabelled": n_unlabelled, "acc_raw": acc_raw,
           "acc_before": acc_before, "acc_after": epochs[-1]["acc"], "acc_smoothest": smoothest and smoothest["acc"],
           "acc_best": max(each["acc"] for each in epochs), "fixed": int((~right_before & right_after).sum()),
           "broken": int((right_before & ~right_after).sum()), **{f"seconds_{name}": s for name, s in task.seconds.items()},
           "versions": report.versions(), "device": report.device_name(device)}
    report.write_selected(results.folder / "selected.csv", task, selection, answers)
    checkpoint.save(results.folder / f"{task.checkpoint_path.stem}_repaired.t7",
                    {"net": checkpoint.weights_of(model), "acc": epochs[-1]["acc"], "epoch": len(epochs),
                     "settings": results.identity})
    report.write_json(results.folder / "run.json", {"args": vars(args), "settings": task.settings, "result": row, "epochs": epochs,
                                                    **report.environment(task)})
    plots.write(results.folder, task, selection, epochs, before, after)
    results.write_row(row)
    print(f"fixed {row['fixed']}, broken {row['broken']} of {len(after)} T2 images; everything is in {results.folder}")
    if smoothest:
        print(f"T2 acc of the smoothest epoch ({smoothest['epoch']}): {smoothest['acc']:.2f}")
    print(f"T2 acc of the best epoch, an upper bound chosen on T2 itself: {row['acc_best']:.2f}")
    print(report.headline(acc_before, row["acc_after"]))


def line_of(record: dict, epochs: int) -> str:
    """One line an epoch, for the terminal."""
    told = [f"epoch {record['epoch']:2d}/{epochs}", f"T2 acc {record['acc']:.2f}"]
    told += [f"{name} {record[key]:.4f}" for name, key in (("loss", "loss"), ("SSL loss", "ssl_loss"),
             ("unsmoothness", "unsmoothness")) if record[key] is not None]
    return "  ".join([*told, f"{record['images'] / record['seconds']:.0f} images/s"])


if __name__ == "__main__":
    run(main, parse_args())
