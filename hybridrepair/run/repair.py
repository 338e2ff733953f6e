"""The repair itself: select, annotate and propagate, fine-tune with a measurement after each epoch, report."""
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hybridrepair.annotation.manifest import NAME as MANIFEST
from hybridrepair.annotation.manifest import listed, manifest_of
from hybridrepair.base import checkpoint, formats, interruption, provenance, states
from hybridrepair.base.errors import UserError
from hybridrepair.base.files import write_json
from hybridrepair.base.finiteness import blamed
from hybridrepair.images.arrays import UNKNOWN, save
from hybridrepair.report import evidence, page, plots
from hybridrepair.report.tracking import Tracking
from hybridrepair.run import output
from hybridrepair.run.models import recipe_of
from hybridrepair.run.scenario import BIASED, Scenario
from hybridrepair.run.settings import annotates, semi_supervised
from hybridrepair.selection.strategies import SOLUTIONS, Selection
from hybridrepair.selection.uncertainty import Unsmoothness, normalised
from hybridrepair.training.finetune import finetune, remedy_of
from hybridrepair.training.passes import Labelled, Unlabelled


@dataclass
class Outcome:
    """What a repair came to."""
    model: nn.Module  # repaired
    selection: Selection
    answers: np.ndarray  # int64 [B], the labels of the annotated images
    before: Tensor  # int64 [N], classes of the judged part as predicted before repair
    after: Tensor  # and after it
    epochs: list[dict]  # a record for each
    row: dict  # columns of results.csv, but what tells one run from another


def repair(task: Scenario, results: output.Run) -> None:
    """Repair the model of a scenario, printing as it goes, and leave what `results` names."""
    interruption.goes_on_from(*states.states_of(results.state))
    tracked = Tracking(task.args.report_to, results.folder, results.identity | vars(task.args))
    outcome = perform(task, lambda data: states.Kept(results.state, results.identity | {"data": data}, task.args.save_every,
                                                         task.args.force), tracked.log)
    write(task, results, outcome)
    write_rest(task, results, outcome)
    tracked.finish(outcome.row)
    states.remove(results.state)
    print_end(task, results, outcome)


def perform(task: Scenario, state_of: Callable[[str], states.Kept | None],
            log: Callable[[dict], None] = lambda record: None) -> Outcome:
    """Repair the model of a scenario, printing as it goes; `state_of` gives the state to go on from for the digest of the data.

    `log` is told the record of each epoch, those before an interruption first.
    """
    args, pool, models = task.args, task.pool, task.models
    with task.stage("load"):
        acc_raw = task.acc_raw
    with task.stage("select"):  # before the fine-tuning, which would be in vain where a label is missing
        selection = answerable(task) if args.allow_missing else task.selection
        answers = task.oracle.annotate(selection.annotated)
        training = Training(task, selection, answers)
    with task.stage("load"):
        before = task.predictions_of(models.tuned)
        acc_before = task.score(before)
    told = f"{task.name}: pool {pool.n}, budget {task.budget}"
    if acc_raw is not None:
        told += f", {task.judged_on} acc {acc_raw:.2f} as trained, {acc_before:.2f} before repair"
    print(told, flush=True)
    row = {"n_annotated": task.oracle.n_asked, "annotated_wrong": training.annotated_wrong, "n_propagated": training.n_propagated,
           "propagation_acc": training.propagation_acc, "n_known": training.n_known, **training.taus,
           "n_unlabelled": training.n_unlabelled, "acc_raw": acc_raw, "acc_before": acc_before, "judged_on": task.judged_on,
           **training.start}
    print(line_of_selection(row), flush=True)
    model = models.to_repair()
    epochs = training.run(model, state_of(training.digest()), log)
    after = task.predictions_of(model)
    return Outcome(model, selection, answers, before, after, epochs, row | end_of(task, epochs, before, after))


def answerable(task: Scenario) -> Selection:
    """The selection without the images that have no answer, and their regions; a line names them. UserError if nothing is left."""
    selection, known = task.selection, task.oracle.knows(task.selection.annotated)
    if len(known) and not known.any():
        raise UserError(f"{task.oracle.source} has no label for any of the {len(known)} images to be annotated; fill in some")
    if not known.all():
        left_out = [task.oracle.name(place) for place in selection.annotated[~known].tolist()]
        print(f"left out, without an answer: {listed(left_out)}", flush=True)
    return selection.only(known)


def sampling_weights(rule: str, labels: np.ndarray, trust: np.ndarray | float = 1.0) -> np.ndarray:
    """How likely SSL draws each pool image, float64 [N], by the solution's rule for the unlabelled data.

    labels int64 [N] with UNKNOWN; trust float64 [N] is the weight of an image without a label.
    """
    return np.where(labels != UNKNOWN, 0.0 if rule == "rest" else 1.0, trust)


class Training:
    """The fine-tuning of a repair: what is trained on, and how trust in the unlabelled images follows the model."""

    def __init__(self, task: Scenario, selection: Selection, answers: np.ndarray):
        """answers int64 [B] are the labels of the annotated images."""
        pool = task.pool
        self.task, self.solution = task, SOLUTIONS[task.args.solution]
        new, self.propagated = selection.labels(answers), selection.propagated
        self.labels = np.where(new == UNKNOWN, task.known, new)
        self.n_known = int((self.labels != UNKNOWN).sum() - (new != UNKNOWN).sum())
        self.n_propagated, self.propagation_acc = output.propagation(pool, selection, new)
        wrong = pool.probs.argmax(1).cpu().numpy()[selection.annotated] != answers
        self.annotated_wrong = 100 * float(wrong.mean()) if len(wrong) else None
        self.taus, self.start, self.mask = {}, {}, np.ones(pool.n, bool)
        trusts = semi_supervised(task.args) and self.solution.unlabelled == "trusted"
        if self.solution.by_region:
            self.taus = {"tau_auto": task.tau_estimates.auto, "tau_avg": task.tau_estimates.average}
            if trusts and task.args.exp == 0:
                self.taus["tau"] = task.tau
                self.mask = pool.unsmoothness.cpu().numpy() <= task.tau
            self.start = {f"{name}_before": value for name, value in self.measures(pool.uncertainty).items()}
        self.unlabelled: Unlabelled | None = None
        if semi_supervised(task.args):
            trust = self.trust(pool.unsmoothness) if trusts else 1.0
            self.unlabelled = Unlabelled(sampling_weights(self.solution.unlabelled, self.labels, trust), once=not trusts)
        weights = self.unlabelled.weights if self.unlabelled is not None else np.zeros(pool.n)
        self.n_unlabelled = int(((weights > 0) & (self.labels == UNKNOWN)).sum())

    def digest(self) -> str:
        """What tells this training from another of the same run: the labels of the pool; the identity of a run knows all else."""
        return checkpoint.digest(self.labels)

    def trust(self, unsmoothness: Tensor) -> np.ndarray:
        """Weights float64 [N] of unlabelled images from their unsmoothness [N] as it is now, within the location mask."""
        return np.where(self.mask, 1 - unsmoothness.cpu().numpy() if self.task.args.u_weight else 1.0, 0.0)

    def measures(self, seen: Unsmoothness) -> dict[str, float | None]:
        """What is reported of the views of the pool: the sum of its unsmoothness, and how many percent of the guessed labels are right.

        On the trusted images that SSL uses without a label, and on those that took another's. Nothing is decided by it.
        """
        guess, trusted = seen.guess.cpu().numpy(), self.mask & (self.labels == UNKNOWN) & semi_supervised(self.task.args)
        return {"unsmoothness": normalised(seen.mean_entropy).sum().item(),
                "guess_acc_trusted": output.right(self.task.pool, guess, trusted),
                "guess_acc_propagated": output.right(self.task.pool, guess, self.propagated)}

    def run(self, model: nn.Module, kept: states.Kept | None, log: Callable[[dict], None]) -> list[dict]:
        """Fine-tune `model` in place, from the state in `kept` if there is one; a record for each epoch, printed and told to `log`."""
        task, pool = self.task, self.task.pool
        labelled = torch.from_numpy(np.flatnonzero(self.labels != UNKNOWN)).to(task.device)
        known = torch.from_numpy(self.labels).to(task.device)
        chosen = Labelled(pool.images[labelled], known[labelled]) if annotates(task.args) else None
        epochs = [*kept.state["records"]] if kept and kept.state else []
        if kept and kept.state:
            print(f"going on after epoch {len(epochs)}, from {kept.path}", flush=True)
        for record in epochs:
            log(record)
        recipe = recipe_of(task.args, "repair", task.seed)
        tuning = finetune(model, task.normalise, task.train, recipe, chosen, pool=pool.images, known=known, unlabelled=self.unlabelled,
                          kept=kept)
        with closing(tuning):  # at once where a measurement is interrupted, so that the state is kept
            for record in tuning:
                start = time.perf_counter()
                with blamed(f"after epoch {record['epoch']} of fine-tuning, ", remedy_of(recipe, self.unlabelled is not None)):
                    self.measure(model, record)
                record["seconds_measure"] = time.perf_counter() - start
                epochs.append(record)
                print(line_of(record, task.args.retrain_epoch, task.judged_on), flush=True)
                log(record)
        task.seconds |= {"finetune": sum(record["seconds"] for record in epochs),
                         "measure": sum(record["seconds_measure"] for record in epochs)}
        return epochs

    def measure(self, model: nn.Module, record: dict) -> None:
        """Add accuracy and measures after an epoch to its record; the sampling weights follow the unsmoothness."""
        record["acc"] = self.task.accuracy_of(model)
        if self.solution.by_region:  # baselines have no use for it, and it costs as much as an epoch
            seen = self.task.pool.uncertainty_of(model)
            record |= self.measures(seen)
            if self.unlabelled is not None and not self.task.args.disable_dynamic_u_weight:
                trust = self.trust(normalised(seen.mean_entropy))
                self.unlabelled.weights = sampling_weights(self.solution.unlabelled, self.labels, trust)


def end_of(task: Scenario, epochs: list[dict], before: Tensor, after: Tensor) -> dict:
    """The columns that are known after the last epoch; before, after int64 [N] are the predicted classes of the judged part."""
    last, smoothest, truth = epochs[-1], smoothest_of(task, epochs), task.judged.labels
    right_before, right_after = before == truth, after == truth
    judged = {} if not task.judged_on else {
        "acc_after": last["acc"], "acc_smoothest": smoothest and smoothest["acc"], "acc_best": max(each["acc"] for each in epochs),
        "fixed": int((~right_before & right_after).sum()), "broken": int((right_before & ~right_after).sum())}
    return judged | {
        **{f"{name}_after": last.get(name) for name in ("unsmoothness", "guess_acc_trusted", "guess_acc_propagated")},
        **{f"seconds_{name}": s for name, s in task.seconds.items()}, "seconds_total": sum(task.seconds.values()),
        "versions": provenance.versions(), "device": provenance.device_name(task.device)}


def smoothest_of(task: Scenario, epochs: list[dict]) -> dict | None:
    """The record of the epoch with the smoothest pool, None for a solution that does not measure it."""
    return min(epochs, key=lambda each: each["unsmoothness"]) if SOLUTIONS[task.args.solution].by_region else None


def write(task: Scenario, results: output.Run, outcome: Outcome) -> None:
    """Leave what makes a repair finished: what was chosen, the model, and at last run.json, which holds the row of results.csv."""
    output.write_selected(results.folder / "selected.csv", task.pool, outcome.selection, outcome.answers)
    manifest_of(task.dataset, outcome.selection, task.origin).write(results.folder / MANIFEST)
    formats.write(results.model, task.models.found, outcome.model, acc=outcome.epochs[-1]["acc"], epoch=len(outcome.epochs),
                  settings=results.identity)
    if len(task.replayable):  # beside the repaired model, which may be repaired again
        save(results.folder / BIASED / str(task.args.model_number) / "train.npy", task.replayable)
    write_json(results.folder / page.RECORD, {
        "args": vars(task.args), "settings": task.settings, "result": outcome.row, "epochs": outcome.epochs, "inputs": inputs_of(task),
        **output.environment(task.device, task.args)})


def write_rest(task: Scenario, results: output.Run, outcome: Outcome) -> None:
    """Leave what a finished repair is told by: its row in results.csv, what a report is made of, the report and plots.

    Each may fail, which costs a line.
    """
    folder, report = results.folder, f"python tables.py --report {shlex.quote(str(results.folder))} makes it"
    results.enter()
    seen: evidence.Evidence | None = None
    with output.spared(page.PREDICTIONS, "the same command with --force makes it, by a repair from the start"):
        seen = evidence.of(task.dataset, task.pool, outcome.selection, outcome.answers, outcome.before, outcome.after, task.judged_on)
        evidence.save(folder / page.PREDICTIONS, seen)
    with output.spared(page.FILE, report):
        page.write(folder, seen)
    with output.spared("a plot", report):
        plots.write(folder, seen or evidence.load(folder / page.PREDICTIONS), outcome.epochs, task.judged_on)


def inputs_of(task: Scenario) -> dict[str, object]:
    """The digests of all that a repair was given; those of files are the first 16 hex digits of their SHA-256."""
    answers = {name: task.settings.get(name) for name in ("labels", "labelled")}  # as they were read, hours ago
    return {"dataset": task.dataset.digest, "model": task.weights, "extractor": task.extractor and task.extractor.made_of, **answers,
            "replayed": checkpoint.digest(task.replayable)}


def print_end(task: Scenario, results: output.Run, outcome: Outcome) -> None:
    """The last lines of a repair."""
    part, row, smoothest = task.judged_on, outcome.row, smoothest_of(task, outcome.epochs)
    told = f"fixed {row['fixed']}, broken {row['broken']} of {len(outcome.after)} {part} images; " if part else ""
    print(f"{told}everything is in {results.folder}")
    if part:
        if smoothest:
            print(f"{part} acc of the smoothest epoch ({smoothest['epoch']}): {smoothest['acc']:.2f}")
        print(f"{part} acc of the best epoch, an upper bound chosen on {part} itself: {row['acc_best']:.2f}")
    print(output.headline(row["acc_before"], row.get("acc_after"), part))


def line_of_selection(row: dict) -> str:
    """One line on what is trained on, for the terminal."""
    told = [f"annotated {row['n_annotated']}"]
    if row["annotated_wrong"] is not None:
        told[0] += f" ({row['annotated_wrong']:.2f} % of them failures)"
    told.append(f"propagated to {row['n_propagated']}")
    if row["propagation_acc"] is not None:
        told[1] += f" ({row['propagation_acc']:.2f} % right)"
    told += [f"known from earlier rounds {row['n_known']}"] if row["n_known"] else []
    told += [f"unlabelled {row['n_unlabelled']}"] + ([f"tau {row['tau']:.4f}"] if "tau" in row else [])
    estimates = [f"{row[key]:.4f} ({name})" for key, name in (("tau_auto", "automatic"), ("tau_avg", "average"))
                 if row.get(key) is not None]
    told += [f"estimates of tau {', '.join(estimates)}"] if estimates else []
    return ", ".join(told)


def line_of(record: dict, epochs: int, part: str) -> str:
    """One line an epoch, for the terminal; `part` is the one that accuracy is reported on."""
    told = [f"epoch {record['epoch']:2d}/{epochs}"] + ([f"{part} acc {record['acc']:.2f}"] if part else [])
    told += [f"{name} {record[key]:.4f}" for name, key in (("loss", "loss"), ("SSL loss", "ssl_loss")) if record[key] is not None]
    told += [f"unsmoothness {record['unsmoothness']:.1f}"] if "unsmoothness" in record else []
    return "  ".join([*told, f"{record['images'] / record['seconds']:.0f} images/s"])
