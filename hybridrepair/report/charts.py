"""Charts of a report: SVG in two themes, as data URIs, which a page chooses between."""
import base64
import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hybridrepair.report import plots

INK = {"light": "#1d2330", "dark": "#e4e7ee"}


def themed(figure: Callable[[], Figure]) -> dict[str, str]:
    """The data URI of a figure in each theme; texts stay texts, in the reader's font."""
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(names, INK["light"])
    with matplotlib.rc_context(style | {"svg.fonttype": "none", "svg.hashsalt": "report", "savefig.transparent": True}):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the reader's font has it
            figure().savefig(file, format="svg", metadata={"Date": None})
    return {theme: "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().replace(
        INK["light"].encode(), ink.encode())).decode() for theme, ink in INK.items()}


def curve(title: str, y: str, epochs: list[int], values: list[float]) -> Figure:
    """A number over the epochs [E], from that after epoch `epochs[0]` on."""
    figure, panel = plots.axes(title, "epoch", y, (5, 3.2))
    panel.plot(epochs, values, "o-", color=plots.AFTER, markersize=4)
    panel.xaxis.set_major_locator(plots.whole_numbers())
    return figure


def changes(part: str, names: list[str], change: list[float], low: list[float], high: list[float]) -> Figure:
    """The change of accuracy on a part of each class in percentage points, a line each, with its interval."""
    figure, panel = plots.axes(f"Change of {part} accuracy per class", "percentage points, with 95 % interval", "",
                               (5.2, 1.2 + 0.26 * len(names)))
    place = np.arange(len(names))
    panel.axvline(0, color=plots.BEFORE, linestyle="--")
    panel.hlines(place, low, high, color=plots.AFTER)
    panel.plot(change, place, "o", color=plots.AFTER)
    panel.set_yticks(place, [name if len(name) <= 28 else f"{name[:27]}…" for name in names], parse_math=False)
    panel.set_ylim(len(names) - 0.4, -0.6)
    return figure
