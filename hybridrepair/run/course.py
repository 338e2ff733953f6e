"""The course of a repair: what is trained on, and its epochs with a measurement after each."""
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from hybridrepair.base import digests, states
from hybridrepair.base.finiteness import blamed
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.run import output
from hybridrepair.run.models import recipe_of
from hybridrepair.run.scenario import Scenario
from hybridrepair.run.settings import annotates, semi_supervised
from hybridrepair.run.teacher import Teacher, teacher_of
from hybridrepair.selection.solutions import SOLUTIONS, Selection
from hybridrepair.selection.uncertainty import Unsmoothness, normalised
from hybridrepair.training.finetune import Recipe, finetune, remedy_of
from hybridrepair.training.passes import Labelled, Unlabelled


def sampling_weights(rule: str, labels: np.ndarray, trust: np.ndarray | float = 1.0) -> np.ndarray:
    """How likely SSL draws each pool image, float64 [N], by the solution's rule for the unlabelled data.

    labels int64 [N] with UNKNOWN; trust float64 [N] is the weight of an image without a label.
    """
    return np.where(labels != UNKNOWN, 0.0 if rule == "rest" else 1.0, trust)


class Course:
    """A supervised pass over what has a label, and an SSL pass over what the solution trains on without; see its `start`."""
    unlabelled: Unlabelled | None = None
    targets: Tensor | None = None  # soft labels of the pool

    def __init__(self, task: Scenario, selection: Selection, answers: np.ndarray):
        """answers int64 [B] are the labels of the annotated images."""
        pool = task.pool
        self.task, self.solution = task, SOLUTIONS[task.args.solution]
        new = selection.labels(answers)
        self.new = new != UNKNOWN  # what this round's answers label, bool [N]
        self.labels = np.where(self.new, new, task.known)
        n_propagated, propagation_acc = output.propagation(pool, selection, new)
        wrong = pool.probs.argmax(1).cpu().numpy()[selection.annotated] != answers
        self.start: dict[str, float | None] = {  # columns of results.csv that are known by now
            "annotated_wrong": 100 * float(wrong.mean()) if len(wrong) else None, "n_propagated": n_propagated,
            "propagation_acc": propagation_acc, "n_known": int((self.labels != UNKNOWN).sum() - self.new.sum())}
        self.prepare(selection)
        self.start["n_unlabelled"] = self.n_unlabelled

    def prepare(self, selection: Selection) -> None:
        """Decide which images are trained on without a label: all that the solution names, in turns."""
        if semi_supervised(self.task.args):
            self.unlabelled = Unlabelled(sampling_weights(self.solution.unlabelled, self.labels), once=True)

    @property
    def n_unlabelled(self) -> int:
        """Images without a label that are trained on."""
        used = self.unlabelled.weights > 0 if self.unlabelled is not None else False
        return int((used & (self.labels == UNKNOWN)).sum())

    @property
    def recipe(self) -> Recipe:
        return recipe_of(self.task.args, "repair", self.task.seed)

    @property
    def chosen(self) -> Labelled | None:
        """What the supervised pass sees beside the train set, None where there is no such pass."""
        if not annotates(self.task.args):
            return None
        labelled = torch.from_numpy(np.flatnonzero(self.labels != UNKNOWN)).to(self.task.device)
        return Labelled(self.task.pool.images[labelled], torch.from_numpy(self.labels).to(self.task.device)[labelled])

    def digest(self) -> str:
        """What tells this training from another of the same run: the labels of the pool; the identity of a run knows all else."""
        return digests.of(self.labels)

    def run(self, model: nn.Module, kept: states.Kept | None, log: Callable[[dict], None]) -> list[dict]:
        """Fine-tune `model` in place, from the state in `kept` if there is one; a record for each epoch, printed and told to `log`."""
        task, recipe = self.task, self.recipe
        epochs = [*kept.state["records"]] if kept and kept.state else []
        if kept and kept.state:
            print(f"going on after epoch {len(epochs)}, from {kept.path}", flush=True)
        for record in epochs:
            log(record)
        known = torch.from_numpy(self.labels).to(task.device)
        remedy = remedy_of(recipe, self.unlabelled is not None, self.targets is not None)
        tuning = finetune(model, task.normalise, task.train, recipe, self.chosen, pool=task.pool.images, known=known,
                          unlabelled=self.unlabelled, targets=self.targets, kept=kept)
        with closing(tuning):  # at once where a measurement is interrupted, so that the state is kept
            for record in tuning:
                start = time.perf_counter()
                with blamed(f"after epoch {record['epoch']} of fine-tuning, ", remedy):
                    self.measure(model, record)
                record["seconds_measure"] = time.perf_counter() - start
                epochs.append(record)
                print(line_of(record, recipe.epochs, task.judged_on), flush=True)
                log(record)
        task.seconds |= {"finetune": sum(record["seconds"] for record in epochs),
                         "measure": sum(record["seconds_measure"] for record in epochs)}
        return epochs

    def measure(self, model: nn.Module, record: dict) -> None:
        """Add what is measured after an epoch to its record: the accuracy."""
        record["acc"] = self.task.accuracy_of(model)


class Trusting(Course):
    """HybridRepair: SSL draws the images that the model can be trusted on, by an unsmoothness that follows the model."""
    mask: np.ndarray  # bool [N], those within tau

    def prepare(self, selection: Selection) -> None:
        task, pool = self.task, self.task.pool
        self.propagated, self.mask = selection.propagated, np.ones(pool.n, bool)
        self.start |= {"tau_auto": task.tau_estimates.auto, "tau_avg": task.tau_estimates.average}
        if semi_supervised(task.args):
            if task.args.exp == 0:
                self.start["tau"] = task.tau
                self.mask = pool.unsmoothness.cpu().numpy() <= task.tau
            self.unlabelled = Unlabelled(sampling_weights(self.solution.unlabelled, self.labels, self.trust(pool.unsmoothness)))
        self.start |= {f"{name}_before": value for name, value in self.measures(pool.uncertainty).items()}

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

    def measure(self, model: nn.Module, record: dict) -> None:
        """Add accuracy and measures of the pool; the sampling weights follow the unsmoothness."""
        super().measure(model, record)
        seen = self.task.pool.uncertainty_of(model)
        record |= self.measures(seen)
        if self.unlabelled is not None and not self.task.args.disable_dynamic_u_weight:
            trust = self.trust(normalised(seen.mean_entropy))
            self.unlabelled.weights = sampling_weights(self.solution.unlabelled, self.labels, trust)


class Taught(Course):
    """HybridRepair+: the whole pool is trained on by the soft labels of a teacher, annotated images by their own."""

    def prepare(self, selection: Selection) -> None:
        if semi_supervised(self.task.args):
            of_labels = f"teacher by {digests.of(self.labels, self.new)}"
            teacher = self.task.interim.of(of_labels, Teacher, lambda: teacher_of(self.task, self.labels, self.new))
            self.targets = teacher.targets.to(self.task.device)
            right = output.right(self.task.pool, teacher.targets.argmax(1).numpy(), self.labels == UNKNOWN)
            self.start |= {"teacher_weight_model": teacher.model, "teacher_weight_features": teacher.features, "teacher_acc": right}

    @property
    def n_unlabelled(self) -> int:
        return int((self.labels == UNKNOWN).sum()) if self.targets is not None else 0

    @property
    def chosen(self) -> Labelled | None:
        """None beside a teacher, whose soft labels of annotated images are what was answered."""
        return super().chosen if self.targets is None else None

    @property
    def recipe(self) -> Recipe:
        made = super().recipe
        return made if self.targets is None else replace(made, lr=self.task.args.distill_lr)


def course_of(task: Scenario, selection: Selection, answers: np.ndarray) -> Course:
    """The course of the scenario's solution; answers int64 [B] are the labels of the annotated images."""
    solution = SOLUTIONS[task.args.solution]
    return (Trusting if solution.trusts else Taught if solution.taught else Course)(task, selection, answers)


def line_of(record: dict, epochs: int, part: str) -> str:
    """One line an epoch, for the terminal; `part` is the one that accuracy is reported on."""
    told = [f"epoch {record['epoch']:2d}/{epochs}"] + ([f"{part} acc {record['acc']:.2f}"] if part else [])
    told += [f"{name} {record[key]:.4f}" for name, key in (("loss", "loss"), ("SSL loss", "ssl_loss")) if record[key] is not None]
    told += [f"unsmoothness {record['unsmoothness']:.1f}"] if "unsmoothness" in record else []
    return "  ".join([*told, f"{record['images'] / record['seconds']:.0f} images/s"])
