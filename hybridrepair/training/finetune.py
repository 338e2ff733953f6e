"""Fine-tuning the model under repair: epochs of a supervised and an SSL pass, or of distillation, which go on from their last state.

Source: HybridRepair (Li, Chen, Xu, ISSTA 2022).
"""
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybridrepair.base import interruption
from hybridrepair.base.device import seeded
from hybridrepair.base.errors import UserError
from hybridrepair.base.finiteness import blamed, placed, require_weights, sum_of
from hybridrepair.base.states import Kept
from hybridrepair.images.augment import Normalise
from hybridrepair.images.randomness import key
from hybridrepair.training.distillation import PEAK, distillation_pass
from hybridrepair.training.passes import (
    SMOOTHING,
    After,
    Labelled,
    Unlabelled,
    enough,
    micro_batch_of,
    replay_of,
    ssl_pass,
    supervised_pass,
)
from hybridrepair.training.statistics import STATISTICS_BATCH, estimate_statistics, statistics_images

MOMENTUM = 0.9


@dataclass
class Recipe:
    """How to fine-tune: the settings of the optimiser and of the passes."""
    epochs: int = 10
    lr: float = 0.001  # of distillation: the highest
    weight_decay: float = 5e-4
    lam_ul: float = 100.0  # weight of the unlabelled loss
    seed: int = 10
    smoothing: float = SMOOTHING  # of labels, in the supervised pass
    estimated_statistics: bool = False  # batch norm's come from replayed images alone, not from what was trained on
    batch_size: int = 256  # images per forward pass when it is decided what to replay; does not change the result
    micro_batch: int | None = None  # images per forward and backward pass, see `micro_batch_of`
    usual_lr: float = 0.001  # where none is given: which setting is to blame for a loss that is not finite goes by it


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that can be trained. UserError where all are frozen."""
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise UserError("no parameter of the model can be trained, all are frozen; call requires_grad_(True) on those that may change")
    return found


def remedy_of(recipe: Recipe, ssl: bool = False, taught: bool = False) -> str:
    """What to do about a fine-tuning by a recipe, with SSL passes or `taught` by distillation, whose numbers are no longer finite."""
    rate = ("--distill_lr", PEAK) if taught else ("--retrain_lr", recipe.usual_lr)
    given = {rate: recipe.lr, ("--retrain_weightdecay", Recipe.weight_decay): recipe.weight_decay}
    given |= {("--lam_ul", Recipe.lam_ul): recipe.lam_ul} if ssl else {}
    (flag, _), value = max(given.items(), key=lambda each: each[1] / each[0][1])  # the farthest above its default
    return f"lower {flag} than {value:g}, the likely cause"


def finetune(model: nn.Module, normalise: Normalise, train: Labelled, recipe: Recipe, chosen: Labelled | None = None,
             pool: Tensor | None = None, known: Tensor | None = None, unlabelled: Unlabelled | None = None,
             targets: Tensor | None = None, kept: Kept | None = None) -> Generator[dict]:
    """Fine-tune `model` in place, yielding after each epoch a record: epoch, loss, ssl_loss (None without), images, seconds.

    `chosen` None leaves out the supervised pass, `unlabelled` None the SSL pass over pool uint8 [N, H, W, C], known [N]; targets
    float32 [N, C] are soft labels of the pool for a pass of distillation, in place of both. What is replayed is decided before each
    pass; distillation replays all train images, and without train images SSL sees all the chosen ones instead. The state goes to
    `kept` after each epoch, with what the caller has added to its record and the weights of `unlabelled` as they are by then, and
    now and then within a pass; from its last state it goes on, and ends as if it had not been interrupted. UserError when the loss,
    the weights or what they predict are no longer finite, or all of the model is frozen.
    """
    optimizer = torch.optim.SGD(trainable(model), recipe.lr, momentum=MOMENTUM, weight_decay=recipe.weight_decay)
    micro_batch = micro_batch_of(recipe.micro_batch, *train.images.shape[1:3])
    remedy = remedy_of(recipe, unlabelled is not None, targets is not None)
    state = kept.state if kept and kept.state else {"records": [], "halfway": None}
    records: list[dict] = state["records"]
    if "model" in state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if unlabelled is not None:
            unlabelled.weights = state["weights"].numpy()

    def content(halfway: dict | None) -> dict:
        """The state as it is now. NotFinite where it is not one to go on from."""
        require_weights(model)
        return {"records": records, "halfway": halfway, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "weights": None if unlabelled is None else torch.from_numpy(unlabelled.weights)}

    def keep(halfway: Callable[[], dict] | None = None) -> None:
        """Save the state; within an epoch only where that is due, or the end."""
        with interruption.deferred():
            if kept:
                kept.save(lambda: content(halfway and halfway()), due=halfway is not None)

    def passes(record: dict, replay: Tensor | None = None, step: int = 0, total: float = 0.0, supervised: bool = False,
               done: bool = False) -> None:
        """The passes of an epoch into its record; given a replay, from that step of the SSL pass, or of the supervised one, on."""
        if done:
            return
        start, spent, epoch = time.perf_counter(), record["seconds"], record["epoch"]
        replay = None if replay is None else replay.to(train.labels.device)

        def so_far() -> dict:
            return record | {"seconds": spent + time.perf_counter() - start}

        def after(supervised: bool) -> After:
            return lambda step, total: keep(lambda: {"record": so_far(), "replay": replay, "step": step,
                                                     "total": sum_of(total, step), "supervised": supervised})

        if chosen is not None and (replay is None or supervised):
            if replay is None:
                with placed("", untrained=epoch == 1):
                    replay = replay_of(model, normalise, train, recipe.batch_size)
            more = ("have more annotated by --p_budget, or replay train images" if len(chosen.labels)
                    else "give more train images, or leave them out by --no_replay")
            with enough(len(replay) + len(chosen.labels), more):
                loss, record["images"] = supervised_pass(model, optimizer, normalise, train, replay, chosen, recipe.smoothing,
                                                         recipe.seed, epoch, whole=True, micro_batch=micro_batch, done=step,
                                                         total=total, after=after(True))
            record["loss"], step, total = loss.item(), 0, 0.0
        if unlabelled is not None and unlabelled.weights.sum() > 0:
            assert pool is not None and known is not None
            labelled = chosen if chosen is not None and not len(train.labels) else train
            if replay is None or not step:
                replay = (replay_of(model, normalise, train, recipe.batch_size) if labelled is train
                          else torch.arange(len(labelled.labels), device=labelled.labels.device))
            loss, n = ssl_pass(model, optimizer, normalise, labelled, replay, pool, unlabelled, known, recipe.lam_ul, recipe.seed,
                               epoch, step, total, after(False), micro_batch)
            record["ssl_loss"], record["images"] = loss.item(), record["images"] + n
        if targets is not None:
            assert pool is not None
            loss, record["images"] = distillation_pass(model, optimizer, normalise, train, pool, targets, recipe.lr, recipe.epochs,
                                                       recipe.seed, epoch, step, total, after(False), micro_batch)
            record["loss"], replay = loss.item(), torch.arange(len(train.labels), device=train.labels.device)
        if recipe.estimated_statistics and replay is not None:
            with seeded(key(recipe.seed, "statistics layers", epoch), replay.device):
                estimate_statistics(model, normalise, statistics_images(train, replay, recipe.seed, epoch),
                                    min(STATISTICS_BATCH, micro_batch))
        require_weights(model)
        record["seconds"] = so_far()["seconds"]

    for epoch in range(len(records) + 1, recipe.epochs + 1):
        begun = state.pop("halfway", None) or {"record": {"epoch": epoch, "loss": None, "ssl_loss": None, "images": 0, "seconds": 0.0}}
        with interruption.deferred(), blamed(f"epoch {epoch} of fine-tuning, ", remedy):
            passes(**begun)
            record = begun["record"]
            keep(lambda: {"record": record, "done": True})  # noqa: B023  # called at once
        try:
            yield record
        except GeneratorExit:
            if interruption.asked():
                keep(lambda: {"record": record, "done": True})  # noqa: B023
            raise
        records.append(record)
        keep()
