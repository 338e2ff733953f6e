"""The cases of the benchmark: each makes its inputs, and times nothing itself.

A case is a function of a scale (1 for the size of the table) that returns a Case. Images and features are synthetic and the
same in every run: what a step costs does not depend on what the pictures show. Features have the structure that selection
meets: classes of unequal size, clusters within them, a spectrum that falls, and points between the clusters.
"""
import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import published
from hybridrepair.images.augment import Normalise, views_of
from hybridrepair.images.randomness import generator, key
from hybridrepair.selection.clustering import NOISE, regions
from hybridrepair.selection.strategies import badge, coreset
from hybridrepair.selection.uncertainty import unsmoothness
from hybridrepair.training.passes import BATCH, Labelled, Unlabelled, ssl_pass, supervised_pass
from mymodels import create

MEAN, STD = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)  # CIFAR-10's
CLASSES = 10


class Case(NamedTuple):
    """What is compared, on one size."""
    size: str
    ours: Callable[[], Any]
    published: Callable[[], Any]
    agreement: Callable[[Any, Any], str]  # of the two results, in words


def images_of(n: int, side: int = 32) -> np.ndarray:
    """Smooth pictures uint8 [N, side, side, 3]."""
    rng = generator(key(0, "benchmark images"))
    coarse = torch.from_numpy(rng.random((n, 3, 5, 5), dtype=np.float32))
    fine = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1).numpy()


def labels_of(n: int) -> np.ndarray:
    return generator(key(0, "benchmark labels")).integers(CLASSES, size=n)


def features_of(n: int, width: int, unit: bool = False) -> np.ndarray:
    """Features float32 [N, width] with clusters in clusters, non-negative like those after ReLU, or of length 1."""
    rng = generator(key(0, "benchmark features", width))
    spectrum = (1 + np.arange(width)) ** -0.7
    basis = np.linalg.qr(rng.standard_normal((width, width)))[0]
    share = rng.dirichlet(np.full(CLASSES, 5.0))
    of_class = rng.choice(CLASSES, size=n, p=share)
    part = rng.integers(40, size=n)  # clusters of a class
    centre = rng.standard_normal((CLASSES, width)) + 0.6 * rng.standard_normal((40, CLASSES, width))
    spread = rng.gamma(2.0, 0.25, size=(n, 1))  # some images are typical, others lie between the clusters
    points = ((centre[part, of_class] + spread * rng.standard_normal((n, width))) * spectrum) @ basis
    if unit:
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return np.maximum(points, 0).astype(np.float32)


def network(form: str) -> nn.Module:
    """A MobileNet: `ours` in channels_last, `published` in NCHW with torch's own convolutions."""
    torch.manual_seed(0)
    model = create("MobileNet", CLASSES, 3)
    if form == "ours":
        return model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d
    return model


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)


def nothing_to_compare(ours, theirs) -> str:
    return "-"


def augmix(scale: float) -> Case:
    n = int(2000 * scale)
    images, normalise = images_of(n), Normalise(MEAN, STD)
    data = published.Views(images, labels_of(n), MEAN, STD)

    def ours() -> int:
        index = torch.arange(n)
        return sum(len(views_of(torch.from_numpy(images)[part], normalise, 1, part)) for part in index.split(BATCH))

    return Case(f"{n:,} images x 8 views", ours, lambda: sum(sum(map(len, views)) for views, _, _ in published.loader(data, BATCH)),
                lambda a, b: f"{a:,} images each" if a == b else f"MISMATCH: {a:,} and {b:,} images")


def unsmoothness_pass(scale: float) -> Case:
    n = int(2000 * scale)
    images, normalise = images_of(n), Normalise(MEAN, STD)
    data = published.Views(images, labels_of(n), MEAN, STD)
    return Case(f"{n:,} x 9 views, MobileNet",
                lambda: unsmoothness(network("ours"), normalise, torch.from_numpy(images), 1, 512).mean_entropy.mean().item(),
                lambda: published.unsmoothness(network("published"), data).mean(),
                lambda a, b: f"mean entropy {a:.4f} and {b:.4f} bits")


def ssl_steps(scale: float) -> Case:
    steps = max(1, round(4 * scale))
    n = BATCH * steps
    images, labels, normalise = images_of(n), labels_of(n), Normalise(MEAN, STD)
    known = np.where(np.arange(n) % 10 == 0, labels, -1)

    def ours() -> None:
        model, train = network("ours"), Labelled(torch.from_numpy(images), torch.from_numpy(labels))
        ssl_pass(model, optimizer_of(model), normalise, train, torch.arange(n), train.images,
                 Unlabelled(np.ones(n)), torch.from_numpy(known), 100.0, 0, 1)

    def theirs() -> None:
        model = network("published")
        optimizer = optimizer_of(model)
        train = published.Plain(images, labels, published.train_transform(32, MEAN, STD))
        pool = published.loader(published.Views(images, labels, MEAN, STD), BATCH, shuffle=True)
        for (inputs, y), (views, _, index) in zip(published.loader(train, BATCH, shuffle=True), pool):
            published.ssl_step(model, optimizer, inputs, y, views, torch.from_numpy(known)[index])

    return Case(f"{steps} steps of 64 + 64 x 9 images, MobileNet", ours, theirs, nothing_to_compare)


def epoch(scale: float) -> Case:
    n = int(11250 * scale)
    images, labels, normalise = images_of(n), labels_of(n), Normalise(MEAN, STD)

    def ours() -> None:
        model, train = network("ours"), Labelled(torch.from_numpy(images), torch.from_numpy(labels))
        none = Labelled(train.images[:0], train.labels[:0])
        supervised_pass(model, optimizer_of(model), normalise, train, torch.arange(n), none, 0.0, 0, 1)

    def theirs() -> None:
        model = network("published")
        published.train_epoch(model, optimizer_of(model),
                              published.Plain(images, labels, published.train_transform(32, MEAN, STD)))

    return Case(f"{n:,} images, MobileNet", ours, theirs, nothing_to_compare)


class Evidence(NamedTuple):
    """What coreset and badge read."""
    n: int
    seed: int
    probs: torch.Tensor
    features: torch.Tensor

    @property
    def latents(self) -> torch.Tensor:
        return self.features


def evidence_of(n: int) -> Evidence:
    features = torch.from_numpy(features_of(n, 1024))
    weight = torch.from_numpy(generator(key(0, "benchmark head")).standard_normal((1024, CLASSES))).float() * 0.1
    return Evidence(n, 0, (features @ weight).double().softmax(1), features)


def same_picks(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{len(np.intersect1d(ours, theirs))} of {len(theirs)} picks are the same"


def coreset_selection(scale: float) -> Case:
    n, budget = int(35000 * scale), max(2, int(350 * scale))
    evidence = evidence_of(n)
    return Case(f"{n:,} x 1,024, budget {budget}", lambda: coreset(evidence, budget),
                lambda: published.coreset(evidence.features.numpy(), budget), same_picks)


def badge_selection(scale: float) -> Case:
    n, budget = int(35000 * scale), max(2, int(350 * scale))
    evidence = evidence_of(n)
    draws = generator(key(evidence.seed, "badge")).random(n)
    return Case(f"{n:,} x 1,024, {CLASSES} classes, budget {budget}", lambda: badge(evidence, budget),
                lambda: published.badge(evidence.probs.numpy(), evidence.features.numpy(), budget, draws), same_picks)


def inertia(points: np.ndarray, label: np.ndarray) -> float:
    """Mean squared distance of the points that are not noise to the centroids of their clusters."""
    kept = label >= 0
    points, label = points[kept].astype(np.float64), label[kept]
    centre = np.stack([np.bincount(label, column) for column in points.T], axis=1) / np.bincount(label)[:, None]
    return float(((points - centre[label]) ** 2).sum() / len(points))


def noise_and_regions(scale: float) -> Case:
    n, budget = int(35000 * scale), int(350 * scale)
    points = features_of(n, 64, unit=True)

    def agreement(ours: np.ndarray, theirs: np.ndarray) -> str:
        differ = int(((ours == NOISE) != (theirs == NOISE)).sum())
        ratio = inertia(points, ours) / inertia(points, theirs)
        noise = f"same noise set ({(ours == NOISE).sum():,})" if differ == 0 else f"noise differs in {differ} of {len(ours):,} points"
        return f"{noise}, inertia of a point {100 * (ratio - 1):+.2f} %"

    return Case(f"{n:,} x 64", lambda: regions(torch.from_numpy(points), budget).label.numpy(),
                lambda: published.regions(points, budget)[0], agreement)


def whole_run(scale: float) -> Case:
    """repair.py on digits with a model of a few epochs, against the same steps in published form."""
    import repair
    import train_classifier
    from hybridrepair.run import scenario
    epochs = max(1, round(3 * scale))
    folder = tempfile.TemporaryDirectory()
    kept = Path(folder.name)
    call = ["--dataset", "digits", "--data_path", str(kept / "dataset"), "--model2test_path", str(kept), "--fe", "model2test",
            "--u_weight", "--p_budget", "1", "--model_number", "0", "--retrain_lr", "0.001", "--retrain_epoch", str(epochs), "--device",
            "cpu", "--force"]
    with contextlib.redirect_stdout(io.StringIO()):
        train_classifier.main(train_classifier.parse_args(
            ["--dataset", "digits", "--data_root", str(kept / "dataset"), "--checkpoint_path", folder.name, "--save_path",
             folder.name, "--class_weight", "0", "--n_epochs", str(max(1, round(10 * scale))), "--device", "cpu"]))
        task = scenario.Scenario(repair.parse_args(call))
        start = task.models.tuned.state_dict()  # its own fine-tuning, which comes before every repair, is done for both

    def ours() -> float:
        _ = folder  # lives as long as the case
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            repair.main(repair.parse_args([*call, "--save_path", str(kept / "save")]))
        return float(heard.getvalue().rstrip().rsplit("/", 1)[1].split()[0])

    def theirs() -> float:
        model = network("published")
        model.load_state_dict({name: value.contiguous() for name, value in start.items()})
        split, images, labels = task.dataset.split, {}, {}
        images["train"], labels["train"] = task.train.images.numpy(), task.train.labels.numpy()
        for part in ("T2", "pool"):
            images[part], labels[part] = task.dataset.images[split[part]], task.dataset.labels[split[part]]
        raw = network("published")
        raw.load_state_dict({name: value.contiguous() for name, value in task.models.raw.state_dict().items()})
        return published.hybrid_repair(raw, model, images, labels, task.dataset.mean, task.dataset.std, task.budget, epochs)

    return Case(f"digits, pool {task.pool.n}, {epochs} epochs", ours, theirs, lambda a, b: f"T2 acc {a:.2f} and {b:.2f}")


class Entry(NamedTuple):
    """A row of the table."""
    title: str
    make: Callable[[float], Case]
    target: float  # the ratio aimed at
    repeats: int = 3
    memory_target: float | None = None  # ours over published


CASES = {
    "augmix": Entry("AugMix views", augmix, 5),
    "unsmoothness": Entry("unsmoothness pass", unsmoothness_pass, 5),
    "ssl": Entry("SSL step", ssl_steps, 4),
    "epoch": Entry("training epoch", epoch, 3),
    "coreset": Entry("coreset", coreset_selection, 10),
    "badge": Entry("badge", badge_selection, 50, 1, 0.1),
    "regions": Entry("noise points and regions", noise_and_regions, 5, 1),
    "run": Entry("whole HybridRepair run", whole_run, 4, 1),
}
