"""Training of the model under repair: SGD with two steps of the learning rate, the best epoch on val, resumable.

Source of method and constants: Li, Chen and Xu, "HybridRepair", ISSTA 2022.
"""
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hybridrepair.base import checkpoint, digests, interruption, states
from hybridrepair.base.files import write_text
from hybridrepair.base.finiteness import blamed, require_weights, sum_of
from hybridrepair.images.augment import Normalise
from hybridrepair.selection.uncertainty import predict
from hybridrepair.training.finetune import MOMENTUM, trainable
from hybridrepair.training.passes import Labelled, accuracy, enough, supervised_pass

STEPS = (1 / 2, 3 / 4)  # of all epochs, after which the learning rate falls tenfold (100 and 150 of 200)
WEIGHT_DECAY = 5e-4


def learning_rate(epoch: int, epochs: int, highest: float) -> float:
    """The learning rate of an epoch, counted from 1."""
    return highest * 0.1 ** sum(epoch - 1 >= step * epochs for step in STEPS)


def state_path(path: Path) -> Path:
    """Where the state of the training of `path` lies."""
    return path.with_suffix(".partial.t7")


def digest_of(images: Labelled, val: Labelled, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> str:
    """The digest of what a training is given: train and val images with their labels, the number of classes, and the normalisation."""
    made_of = repr((num_classes, len(images.labels), *map(float, (*mean, *std))))
    parts = digests.of_tensors(images.images, images.labels, val.images, val.labels)
    return digests.of(made_of.encode(), parts.encode())


def train(model: nn.Module, normalise: Normalise, images: Labelled, val: Labelled, args, path: Path, settings: dict,
          log: Path, after: Callable[[dict], None] = lambda record: None) -> dict[str, float]:
    """Train `model` on labelled images and save its best epoch on val, with the settings that made it, as `path`.

    `log` gets a JSON line for each epoch, and `after` its record, those of a training that is gone on with first. args has n_epochs,
    lr, batch_size, manualSeed, save_every (seconds between states) and force, as train_classifier.py parses them. A state of the same
    settings beside `path` is gone on from. Returns the best and the last accuracy on val in percent. UserError where that state is of
    others, where loss, weights or predictions are not finite, or where all of the model is frozen.
    """
    none = Labelled(images.images[:0], images.labels[:0])
    everything = torch.arange(len(images.labels), device=images.labels.device)
    optimizer = torch.optim.SGD(trainable(model), args.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    kept = states.Kept(state_path(path), settings, args.save_every, args.force)
    state = kept.state or {"epoch": 0, "best": {"acc": -1.0}, "log": []}
    if kept.state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"going on after epoch {state['epoch']}, from {kept.path}")
    best, lines = state["best"], state["log"]
    for line in lines:
        after(json.loads(line))

    def keep(epoch: int, halfway: Callable[[], dict] | None = None) -> None:
        """Save the state after so many epochs, or within the next one, where that is due, or the end."""
        def content() -> dict:
            require_weights(model)
            return {"epoch": epoch, "best": best, "log": lines, "halfway": halfway and halfway(), "model": model.state_dict(),
                    "optimizer": optimizer.state_dict()}
        with interruption.deferred():
            kept.save(content, due=True)

    def one_epoch(epoch: int, done: int = 0, total: float = 0.0, spent: float = 0.0) -> None:
        """Train for an epoch, from a step of it on, and judge it."""
        nonlocal best
        start = time.perf_counter() - spent

        def step_is_done(step: int, total: Tensor) -> None:
            keep(epoch - 1, lambda: {"done": step, "total": sum_of(total, step), "spent": time.perf_counter() - start})

        optimizer.param_groups[0]["lr"] = learning_rate(epoch, args.n_epochs, args.lr)
        with enough(len(images.labels), "give more train images"):
            mean, n = supervised_pass(model, optimizer, normalise, images, everything, none, smoothing=0, seed=args.manualSeed,
                                      epoch=epoch, size=args.batch_size, done=done, total=total, after=step_is_done)
        loss, seconds = mean.item(), time.perf_counter() - start
        require_weights(model)
        acc = accuracy(predict(model, normalise, val.images, 256)[0], val.labels)
        if acc > best["acc"]:
            best = {"net": checkpoint.weights_of(model), "acc": acc, "epoch": epoch}
        record = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "loss": loss, "val_acc": acc, "best_val_acc": best["acc"],
                  "images": n, "seconds": seconds}
        lines.append(json.dumps(record))
        write_text(log, "\n".join(lines) + "\n")  # whole each time, so that epochs done twice stand in it once
        print(f"epoch {epoch:3d}/{args.n_epochs}  loss {loss:.4f}  val acc {acc:5.2f}  best {best['acc']:5.2f}  "
              f"{n / seconds:.0f} images/s", flush=True)
        after(record)
        if epoch < args.n_epochs or interruption.asked():
            keep(epoch)

    for epoch in range(state["epoch"] + 1, args.n_epochs + 1):
        with interruption.deferred(), blamed(f"epoch {epoch}, ", f"train with a lower --lr than {args.lr:g}, and --force"):
            one_epoch(epoch, **(state.pop("halfway", None) or {}))
    checkpoint.save(path, {**best, "settings": settings})
    kept.remove()
    last = accuracy(predict(model, normalise, val.images, 256)[0], val.labels)
    print(f"val acc best/last: {best['acc']:.2f} (epoch {best['epoch']})/{last:.2f}; saved {path}")
    return {"best_val_acc": best["acc"], "best_epoch": best["epoch"], "last_val_acc": last}
