"""The repair itself: select, annotate and propagate, train, report."""
import shlex
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from hybridrepair.annotation.manifest import NAME as MANIFEST
from hybridrepair.annotation.manifest import listed, manifest_of
from hybridrepair.base import digests, formats, interruption, provenance, states
from hybridrepair.base.errors import UserError
from hybridrepair.base.files import write_json
from hybridrepair.base.interim import Interim
from hybridrepair.base.processes import led
from hybridrepair.images.arrays import save
from hybridrepair.report import evidence, page, plots
from hybridrepair.report.tracking import Tracking
from hybridrepair.run import output
from hybridrepair.run.course import Course, course_of
from hybridrepair.run.replay import BIASED
from hybridrepair.run.scenario import Scenario
from hybridrepair.selection.solutions import SOLUTIONS, Selection


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
    interruption.goes_on_from(*states.states_of(results.state), results.interim)
    task.interim = Interim(results.interim, results.identity)
    tracked = Tracking(task.args.report_to, results.folder, results.identity | vars(task.args))
    outcome = perform(task, lambda data: states.Kept(results.state, results.identity | {"data": data}, task.args.save_every,
                                                         task.args.force), tracked.log)
    led(lambda: write(task, results, outcome))
    led(lambda: write_rest(task, results, outcome))
    tracked.finish(outcome.row)
    results.clean()
    print_end(task, results, outcome)


def perform(task: Scenario, state_of: Callable[[str], states.Kept | None],
            log: Callable[[dict], None] = lambda record: None,
            course_of: Callable[[Scenario, Selection, np.ndarray], Course] = course_of) -> Outcome:
    """Repair the model of a scenario, printing as it goes; `state_of` gives the state to go on from for the digest of the data.

    `log` is told the record of each epoch, those before an interruption first. `course_of` says what is trained on.
    """
    args, pool, models = task.args, task.pool, task.models
    with task.stage("load"):
        acc_raw = task.acc_raw
    with task.stage("select"):  # before the fine-tuning, which would be in vain where a label is missing
        selection = answerable(task) if args.allow_missing else task.selection
        answers = task.oracle.annotate(selection.annotated)
        course = course_of(task, selection, answers)
    task.seconds["select"] += task.interim.seconds
    task.interim.close()
    with task.stage("load"):
        before = task.predictions_of(models.tuned)
        acc_before = task.score(before)
    told = f"{task.name}: pool {pool.n}, budget {task.budget}"
    if acc_raw is not None:
        told += f", {task.judged_on} acc {acc_raw:.2f} as trained, {acc_before:.2f} before repair"
    print(told, flush=True)
    row = {"n_annotated": task.oracle.n_asked, **course.start, "acc_raw": acc_raw, "acc_before": acc_before,
           "judged_on": task.judged_on}
    print(line_of_selection(row), flush=True)
    model = models.to_repair()
    epochs = course.run(model, state_of(course.digest()), log)
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
    return min(epochs, key=lambda each: each["unsmoothness"]) if SOLUTIONS[task.args.solution].trusts else None


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
            "replayed": digests.of(task.replayable)}


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
    if "teacher_acc" in row:
        right = "" if row["teacher_acc"] is None else f" ({row['teacher_acc']:.2f} % right)"
        told += [f"taught by {row['teacher_weight_model']:.2f} model + {row['teacher_weight_features']:.2f} features{right}"]
    told += [f"estimates of tau {', '.join(estimates)}"] if estimates else []
    return ", ".join(told)
