"""Plots of a run, as PNG: accuracy per epoch, unsmoothness of failures and others, region sizes, accuracy per class."""
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator

from hybridrepair.base.files import atomic
from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.report.evidence import Evidence

BEFORE, AFTER = "0.6", "tab:blue"


def write(folder: Path, seen: Evidence, epochs: list[dict], part: str = "T2") -> None:
    """Write the plots of a run into `folder`, from its evidence and the records of its epochs; `part` was judged, "" for none.

    The unsmoothness and the sizes of regions are drawn where the solution has them, and truth is known.
    """
    if part:
        right_before, right_after = seen.before == seen.truth, seen.after == seen.truth
        save(folder / "accuracy.png", accuracy(epochs, 100 * right_before.mean(), part))
        save(folder / "per_class.png", per_class(seen.classes.tolist(), seen.truth, right_before, right_after, part))
    if seen.sizes is None:
        return
    asked = np.unique(seen.region[seen.region >= 0])
    save(folder / "region_sizes.png", region_sizes(seen.sizes, asked))
    known = seen.pool_truth != UNKNOWN
    if known.any() and len(seen.unsmoothness):
        save(folder / "unsmoothness.png", unsmoothness(seen.unsmoothness[known], (seen.predicted != seen.pool_truth)[known]))


def save(path: Path, figure: Figure) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def axes(title: str, x: str, y: str, size: tuple[float, float] = (6, 4)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    panel.set(title=title, xlabel=x, ylabel=y)
    panel.spines[["top", "right"]].set_visible(False)
    return figure, panel


def whole_numbers() -> AutoLocator:
    """Ticks of an axis of epochs."""
    locator = AutoLocator()
    locator.set_params(integer=True, min_n_ticks=1)
    return locator


def accuracy(epochs: list[dict], before: float, part: str = "T2", size: tuple[float, float] = (6, 4)) -> Figure:
    """Accuracy in percent over the epochs, epoch 0 being the model before repair; size in inches."""
    figure, panel = axes(f"{part} accuracy while fine-tuning", "epoch", "accuracy (%)", size)
    panel.axhline(before, color=BEFORE, linestyle="--", label="before")
    panel.plot([0] + [each["epoch"] for each in epochs], [before] + [each["acc"] for each in epochs], "o-", color=AFTER, label="after")
    panel.xaxis.set_major_locator(whole_numbers())
    panel.legend(frameon=False)
    return figure


def unsmoothness(values: np.ndarray, wrong: np.ndarray) -> Figure:
    """Histogram of unsmoothness [N], of images that the model gets wrong and right (bool [N]), each as a share of its own."""
    figure, panel = axes("Unsmoothness of the pool before repair", "unsmoothness", "share of the group (%)")
    for group, name, colour in ((~wrong, "right", BEFORE), (wrong, "failures", "tab:red")):
        if group.any():
            panel.hist(values[group], bins=np.linspace(0, 1, 41).tolist(), weights=np.full(group.sum(), 100 / group.sum()), alpha=0.6,
                       color=colour, label=f"{name} ({group.sum()})")
    panel.legend(frameon=False)
    return figure


def region_sizes(sizes: np.ndarray, asked: np.ndarray) -> Figure:
    """Histogram of the number of images in all regions, and in those labelled (their numbers int64)."""
    figure, panel = axes("Sizes of regions", "images in a region", "regions")
    largest = sizes.max(initial=1)
    step = -(-largest // 50)  # whole sizes, in at most 50 bars
    bins = np.arange(0.5, largest + step + 0.5, step).tolist()
    panel.hist(sizes, bins=bins, color=BEFORE, label=f"all ({len(sizes)})")
    panel.hist(sizes[asked], bins=bins, color=AFTER, label=f"labelled ({len(asked)})")
    panel.set_yscale("symlog", linthresh=1)
    panel.legend(frameon=False)
    return figure


def per_class(names: list[str], truth: np.ndarray, before: np.ndarray, after: np.ndarray, part: str = "T2") -> Figure:
    """Accuracy in percent of each class, from classes int64 [N] and correctness bool [N] before and after repair."""
    count = np.maximum(np.bincount(truth, minlength=len(names)), 1)
    right = {"before": before, "after": after}
    return bars(f"{part} accuracy per class", "accuracy (%)", names, {
        name: 100 * np.bincount(truth[each], minlength=len(names)) / count for name, each in right.items()})


def class_shares(names: list[str], counts: dict[str, np.ndarray]) -> Figure:
    """The share of each class in percent in two sets, from their names and images per class int64 [C]."""
    return bars("Shares of classes", "share of the set (%)", names, {
        f"{part} ({count.sum()})": 100 * count / max(count.sum(), 1) for part, count in counts.items()})


def bars(title: str, y: str, names: list[str], values: dict[str, np.ndarray]) -> Figure:
    """Two bars for each class, from the name and the values float64 [C] of each."""
    names = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
    width = min(max(6, 0.35 * len(names) + 2), 100)  # inches; an image of 546 cannot be written
    figure, panel = axes(title, "", y, (width, 4))
    place = np.arange(len(names))
    for shift, (name, heights), colour in zip((-0.2, 0.2), values.items(), (BEFORE, AFTER)):
        panel.bar(place + shift, heights, 0.4, color=colour, label=name)
    step = -(-len(names) // 400)  # names that are legible side by side
    panel.set_xticks(place[::step], names[::step], rotation=90 if max(map(len, names)) > 2 else 0,
                     parse_math=False)  # a name may contain a $
    panel.margins(x=0.1 / len(names))
    figure.legend(frameon=False, loc="outside right upper")
    return figure
