"""The baseline of a repair: the model under repair fine-tuned on its own train set, kept beside its checkpoint."""
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from hybridrepair.base import checkpoint, digests, locks, processes, states
from hybridrepair.base.finiteness import blamed
from hybridrepair.base.version import code_version
from hybridrepair.images.augment import Normalise
from hybridrepair.training.finetune import Recipe, finetune, remedy_of
from hybridrepair.training.passes import Labelled


def settings_of(recipe: Recipe, train: Labelled, weights: str) -> dict:
    """What makes a baseline: `weights` is the digest of the model under repair."""
    settings = {"weights": weights, "train": digests.of_tensors(train.images, train.labels), "epochs": recipe.epochs, "lr": recipe.lr,
                "weight_decay": recipe.weight_decay, "seed": recipe.seed, **code_version()}
    return settings | ({"estimated_statistics": True} if recipe.estimated_statistics else {})


def path_of(model: Path, settings: dict) -> Path:
    """Where the baseline of a checkpoint lies, a file for each settings; <model>_finetuned.t7 is the published code's."""
    return model.with_name(f"{model.stem}_finetuned_{digests.of(json.dumps(settings, sort_keys=True).encode())[:8]}.t7")


def tune(model: nn.Module, path: Path, normalise: Normalise, train: Labelled, recipe: Recipe, settings: dict,
         accuracy_of: Callable[[nn.Module], float | None], every: float) -> None:
    """Make `model`, the model under repair, its baseline: read from `path` where these settings made it, else trained and kept.

    `every` so many seconds the state is written within an epoch.
    """
    state = path.with_suffix(".partial.t7")
    if read(model, path, settings):  # without a lock: a folder that cannot be written to is read
        states.forget(state, settings)
        return
    with locks.locked(path, making=str(path)):
        if read(model, path, settings):  # made while this one waited
            return
        kept = states.Kept(state, settings, every, force=True)  # damaged states are of no use
        train_on(model, normalise, train, recipe, kept)
        with blamed("fine-tuned on its own train set, ", remedy_of(recipe)):
            acc = accuracy_of(model)
        checkpoint.save(path, {"net": checkpoint.weights_of(model), "acc": acc, "epoch": recipe.epochs, "settings": settings})
        kept.remove()


def read(model: nn.Module, path: Path, settings: dict) -> bool:
    """Whether `path` holds a baseline that these settings made, which `model` then is."""
    content = processes.led(lambda: checkpoint.load(path) if path.exists() else {})
    if not checkpoint.equal(content.get("settings"), settings):
        return False
    checkpoint.fit(model, content, path)
    return True


def train_on(model: nn.Module, normalise: Normalise, train: Labelled, recipe: Recipe, kept: states.Kept | None = None) -> None:
    """Fine-tune `model` in place on its own train set, without label smoothing, printing a line an epoch."""
    nothing = Labelled(train.images[:0], train.labels[:0])
    print(f"fine-tuning the model under repair on its own train set, {len(train.labels)} images", flush=True)
    for record in finetune(model, normalise, train, replace(recipe, smoothing=0), nothing, kept=kept):
        print(f"epoch {record['epoch']:2d}/{recipe.epochs}  loss {record['loss']:.4f}  "
              f"{record['images'] / record['seconds']:.0f} images/s", flush=True)
