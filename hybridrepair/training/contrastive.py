"""Contrastive training of the feature extractor by MoCo v3, and the k-NN accuracy that shows that it learns, without labels.

Source: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021.
"""
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hybridrepair.base import checkpoint, interruption, states
from hybridrepair.base.finiteness import NotFinite, blamed, descend, look, placed, require_weights, sum_of
from hybridrepair.base.processes import begins_of, gathered
from hybridrepair.base.progress import progress
from hybridrepair.images.augment import Normalise
from hybridrepair.images.distortion import pair
from hybridrepair.images.randomness import generator, key
from hybridrepair.training.shares import add_up, shared
from mymodels.moco import MoCo, published

NEIGHBOURS = 20
KNN_BATCH = 256


def learning_rate(time: float, args) -> float:
    """The learning rate at a time in epochs: it rises linearly, then falls to 0 as a cosine."""
    highest = args.lr * args.batch_size / 256
    if time < args.warmup_epochs:
        return highest * time / args.warmup_epochs
    return highest * 0.5 * (1 + math.cos(math.pi * (time - args.warmup_epochs) / (args.n_epochs - args.warmup_epochs)))


def momentum(time: float, args) -> float:
    """The momentum of the momentum encoder at a time in epochs: it rises to 1 as a cosine."""
    return 1 - 0.5 * (1 + math.cos(math.pi * time / args.n_epochs)) * (1 - args.momentum)


def train_epoch(model: MoCo, optimizer: torch.optim.Optimizer, normalise: Normalise, images: Tensor, epoch: int, args,
                done: Tensor | None = None, after: Callable[[Tensor], None] = lambda losses: None) -> tuple[float, int]:
    """One pass over uint8 images [N, H, W, C], in whole batches; `epoch` counts from 0. Returns mean loss, images seen.

    `after` is told the losses of the steps so far; given them as `done`, it goes on from there. NotFinite when one is not finite.
    """
    model.train()
    order = generator(key(args.manualSeed, "moco order", epoch)).permutation(len(images))
    steps = max(1, len(images) // args.batch_size)
    batches = torch.from_numpy(order).to(images.device)[:steps * args.batch_size].split(args.batch_size)
    views, losses = key(args.manualSeed, "moco views", epoch), torch.zeros(steps, device=images.device)
    begun = 0 if done is None else len(done)
    if done is not None:
        losses[:begun] = done
    total, fine = losses.sum(), torch.tensor(begun, device=images.device)
    for step, batch in enumerate(progress(batches, f"epoch {epoch + 1}")):
        if step < begun:
            continue
        now = epoch + step / steps
        optimizer.param_groups[0]["lr"] = learning_rate(now, args)
        optimizer.zero_grad()
        with shared(len(batch)) as share:
            own = batch[share.rows]
            loss = model(*pair(images[own], normalise, views, own), momentum(now, args), share)
            loss = loss * (len(own) * share.weight / len(batch))
            loss.backward()
        losses[step] = add_up(optimizer, loss.detach())
        with placed(f"step {step + 1}: "):
            descend(optimizer)
        total += losses[step]
        fine += total.isfinite()
        look(step + 1, steps, total, fine, "", untrained=epoch == 0)
        after(losses[:step + 1])
    return losses.mean().item(), sum(map(len, batches))


@torch.inference_mode()
def knn_accuracy(model: MoCo, normalise: Normalise, images: Tensor, labels: Tensor) -> float:
    """Percentage of uint8 images [N, H, W, C] whose label int64 [N] is the most frequent among their nearest in features.

    Neighbours by cosine, the image itself left out; of labels as frequent, the smallest counts. NotFinite if a feature is not finite.
    """
    extractor = model.extractor().eval()
    found: list[Tensor] = []
    for begin in progress(begins_of(len(images), KNN_BATCH), "features"):
        part = extractor(normalise(images[begin:begin + KNN_BATCH]))
        found = found or [part.new_empty(len(images), part.shape[1])]
        found[0][begin:begin + KNN_BATCH] = part
    (features,) = gathered(found, len(images), KNN_BATCH, images.device)
    if not features.isfinite().all():
        raise NotFinite("the features are not finite")
    likeness = (features @ features.T).fill_diagonal_(-2)
    nearest = labels[likeness.topk(min(NEIGHBOURS, len(labels) - 1), dim=1).indices]
    votes = torch.zeros(len(labels), int(labels.max()) + 1, device=labels.device)
    votes.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=votes.dtype))
    return 100 * (votes.argmax(1) == labels).double().mean().item()


def state_path(path: Path) -> Path:
    """Where the state of the training of `path` lies."""
    return path.with_name(path.name.replace(".", ".partial.", 1))


def train(model: MoCo, normalise: Normalise, images: Tensor, known: tuple[Tensor, Tensor], args, path: Path, settings: dict,
          after: Callable[[dict], None] = lambda record: None) -> dict[str, float]:
    """Train `model` on uint8 images [N, H, W, C] and save it, with the settings that made it, as `path`; returns k-NN accuracies.

    `after` gets the record of each epoch, those of a training that is gone on with first: epoch, loss, lr, knn_acc where it is told.
    known: images uint8 [M, H, W, C] and labels int64 [M] among which the k-NN accuracy is told, where there are two or more. args as
    pretrain_moco.py parses them.
    A state of the same settings beside `path` is gone on from. UserError where that is of others, or where loss, weights or features
    are not finite.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, args.lr, momentum=0.9, weight_decay=args.weight_decay)
    kept = states.Kept(state_path(path), settings, args.save_every, args.force)
    state, judged, halfway = kept.state, len(known[1]) > 1, None
    if state:
        model.load_state_dict(state.pop("model"))
        optimizer.load_state_dict(state.pop("optimizer"))
        halfway = state.pop("halfway", None)
        state["settings"] = settings  # equal, but of other objects, which a pickle can tell
        print(f"going on after epoch {state['epoch']}, from {kept.path}")
        for record in state.setdefault("log", []):
            after(record)
    else:
        state = {"settings": settings, "epoch": 0, "knn": {}, "log": []}
        if judged:
            with blamed("untrained, ", "check mean and std of the images"):
                state["knn"][0] = knn_accuracy(model, normalise, *known)
            print(f"untrained: k-NN acc {state['knn'][0]:.2f}", flush=True)

    def keep(halfway: Callable[[], dict] | None = None) -> None:
        """Save the state after an epoch, or within the next one, where that is due, or the end."""
        def content() -> dict:
            require_weights(model)
            return {**state, "halfway": halfway and halfway(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        with interruption.deferred():
            kept.save(content, due=True)

    def one_epoch(epoch: int, losses: Tensor | None = None, spent: float = 0.0) -> None:
        """Train for an epoch, from the losses of the steps that are done on, and judge it."""
        start = time.perf_counter() - spent

        def step_is_done(losses: Tensor) -> None:
            def halfway() -> dict:
                sum_of(losses.sum(), len(losses))
                return {"losses": losses.clone(), "spent": time.perf_counter() - start}
            keep(halfway)

        loss, n = train_epoch(model, optimizer, normalise, images, epoch - 1, args, losses, step_is_done)
        require_weights(model)
        record = {"epoch": epoch, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}
        line = (f"epoch {epoch:3d}/{args.n_epochs}  loss {loss:.4f}  lr {record['lr']:.2e}  "
                f"{n / (time.perf_counter() - start):.0f} images/s")
        if judged and (epoch == args.n_epochs or args.knn_every and epoch % args.knn_every == 0):
            state["knn"][epoch] = knn_accuracy(model, normalise, *known)
            record["knn_acc"] = state["knn"][epoch]
            line += f"  k-NN acc {record['knn_acc']:.2f}"
        print(line, flush=True)
        state["epoch"] = epoch
        state["log"].append(record)
        if epoch < args.n_epochs or interruption.asked():
            keep()
        after(record)

    for epoch in range(state["epoch"] + 1, args.n_epochs + 1):
        with interruption.deferred(), blamed(f"epoch {epoch}, ", f"train with a lower --lr than {args.lr:g}, and --force"):
            one_epoch(epoch, **(halfway or {}))
        halfway = None
    del state["log"]
    checkpoint.save(path, {**state, "arch": args.arch, "state_dict": published(model)})
    kept.remove()
    told = f"k-NN acc untrained/trained: {state['knn'][0]:.2f}/{state['knn'][args.n_epochs]:.2f}; " if judged else ""
    print(f"{told}saved {path}")
    return {"knn_acc_untrained": state["knn"][0], "knn_acc": state["knn"][args.n_epochs]} if judged else {}
