"""plots.py: which plots a run leaves, that they can be read, and that they show the numbers computed by hand."""
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hybridrepair.images.arrays import UNKNOWN
from hybridrepair.report import evidence, plots
from hybridrepair.selection.clustering import NOISE, Regions
from hybridrepair.selection.solutions import Selection, nothing

ROOT = Path(__file__).parents[2]
NAMES = ["cat", "dog", "owl"]
EPOCHS = [{"epoch": 1, "acc": 62.5}, {"epoch": 2, "acc": 87.5}]
T2 = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
BEFORE, AFTER = torch.tensor([0, 0, 0, 1, 1, 2, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 0])  # 4 and 7 of 8 are right
REGIONS = Regions(torch.tensor([0, 0, 0, 1, 1, 2, NOISE, NOISE]), torch.tensor([1, 4, 5]))  # of 3, 2 and 1 images
CHOSEN = Selection(np.array([1, 5, 7]), np.array([0, 2, NOISE]), np.array([1, 1, 1, -1, -1, 5, -1, 7]), REGIONS)


def seen(selection: Selection, names: list[str] = NAMES, truth: tuple[int, ...] = (0, 0, 1, 1, 2, 2, UNKNOWN, 0)) -> evidence.Evidence:
    """Of eight pool images, all predicted to be of class 0, which stand backwards in the dataset, before the eight of T2."""
    probs = torch.tensor([.6, .3, .1], dtype=torch.float64).repeat(8, 1)
    dataset = SimpleNamespace(class_names=names, labels=np.concatenate([np.array(truth)[::-1], T2.numpy()]), file=str,
                              images=np.zeros((16, 8, 8, 3), np.uint8), split={"T2": np.arange(8, 16)})
    pool = SimpleNamespace(dataset=dataset, pool_index=np.arange(8)[::-1], probs=probs, looked_at_views=selection.regions is not None,
                           unsmoothness=torch.linspace(0, 1, 8, dtype=torch.float64))
    return evidence.of(dataset, pool, selection, np.zeros(len(selection.annotated), np.int64), BEFORE, AFTER, "T2")


def written(folder: Path, run: evidence.Evidence, epochs: list[dict] = EPOCHS) -> set[str]:
    """Names of the plots of a run; each must be a readable PNG with something on it, and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.write(folder, run, epochs)
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width >= 600 and image.height >= 400
            assert len(image.convert("L").getcolors()) > 10
    return {path.name for path in folder.iterdir()}


# files

def test_a_run_with_regions_leaves_four_plots(tmp_path):
    four = {"accuracy.png", "per_class.png", "region_sizes.png", "unsmoothness.png"}
    assert written(tmp_path / "run", seen(CHOSEN)) == four
    assert written(tmp_path / "run", seen(CHOSEN)) == four  # again, in their place


def test_a_run_without_regions_leaves_two(tmp_path):
    assert written(tmp_path, seen(nothing(8))) == {"accuracy.png", "per_class.png"}


def test_a_pool_without_known_labels_has_no_failures_to_plot(tmp_path):
    assert written(tmp_path, seen(CHOSEN, truth=[UNKNOWN] * 8)) == {"accuracy.png", "per_class.png", "region_sizes.png"}


@pytest.mark.parametrize("label, annotated, region", [([0] * 8, [3], [0]), ([0] * 8, [3, 4], [0, NOISE]),
                                                      ([NOISE] * 8, [3], [NOISE])])
def test_one_region_or_none_can_be_plotted(tmp_path, label, annotated, region):
    regions = Regions(torch.tensor(label), torch.tensor([3] if 0 in label else [], dtype=torch.int64))
    selection = Selection(np.array(annotated), np.array(region), np.full(8, 3), regions)
    assert "region_sizes.png" in written(tmp_path, seen(selection))


@pytest.mark.parametrize("names", [[f"a class with a very long name that never seems to come to its end {i}" for i in range(3)],
                                   [str(i) for i in range(43)]])
def test_many_classes_and_long_names_can_be_plotted(tmp_path, names):
    assert "per_class.png" in written(tmp_path, seen(nothing(8), names))


def test_names_are_drawn_as_they_are_though_they_look_like_formulas(tmp_path):
    names = ["$x^$", "a$b", r"caf\udce9"]
    assert "per_class.png" in written(tmp_path, seen(nothing(8), names))
    plots.save(tmp_path / "shares.png", plots.class_shares(names, {"train": np.array([1, 2, 3]), "val": np.array([0, 0, 1])}))


def test_thousands_of_classes_stay_within_the_size_of_an_image():
    figure = plots.per_class([f"name {i}" for i in range(1600)], T2.numpy(), T2.numpy() == 0, T2.numpy() == 1)
    assert 120 * figure.get_figwidth() < 2 ** 16
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [f"name {i}" for i in range(0, 1600, 4)]


def test_one_epoch_can_be_plotted(tmp_path):
    assert "accuracy.png" in written(tmp_path, seen(nothing(8)), EPOCHS[:1])


# what they show

def drawn(monkeypatch, selection: Selection = CHOSEN, **more) -> dict:
    """Name of a plot -> its axes."""
    figures = {}
    monkeypatch.setattr(plots, "save", lambda path, figure: figures.update({path.stem: figure.axes[0]}))
    plots.write(Path(), seen(selection, **more), EPOCHS)
    return figures


def heights(bars) -> list[float]:
    return [bar.get_height() for bar in bars]


def test_accuracy_starts_with_that_before_repair(monkeypatch):
    before, line = drawn(monkeypatch)["accuracy"].lines
    assert set(before.get_ydata()) == {50} and line.get_xydata().tolist() == [[0, 50], [1, 62.5], [2, 87.5]]


def test_accuracy_per_class_is_the_share_of_its_images_that_are_right(monkeypatch):
    panel = drawn(monkeypatch)["per_class"]
    assert [heights(bars) for bars in panel.containers] == [[75, 25, 0], [100, 75, 0]]
    assert [text.get_text() for text in panel.get_xticklabels()] == NAMES


def test_unsmoothness_is_that_of_images_whose_truth_is_known_each_group_being_100_percent(monkeypatch):
    # predicted are all as class 0: images 0, 1, 7 are right, 2 to 5 wrong, 6 is not known; image i has i / 7
    panel = drawn(monkeypatch)["unsmoothness"]
    right, wrong = (np.array(heights(bars)) for bars in panel.containers)
    assert np.flatnonzero(right).tolist() == [0, 5, 39] and right[right > 0] == pytest.approx([100 / 3] * 3)
    assert np.flatnonzero(wrong).tolist() == [11, 17, 22, 28] and wrong[wrong > 0] == pytest.approx([25] * 4)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["right (3)", "failures (4)"]


def test_unsmoothness_has_no_group_without_images(monkeypatch):
    panel = drawn(monkeypatch, truth=[0] * 8)["unsmoothness"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["right (8)"]


def test_region_sizes_are_those_of_all_regions_and_of_the_labelled_ones(monkeypatch):
    panel = drawn(monkeypatch)["region_sizes"]
    assert [heights(bars) for bars in panel.containers] == [[1, 1, 1], [1, 0, 1]]  # no noise, nor what stands for itself
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["all (3)", "labelled (2)"]


@pytest.mark.parametrize("largest, bars, width", [(1, 1, 1), (50, 50, 1), (51, 26, 2), (30000, 50, 600)])
def test_region_sizes_have_at_most_fifty_bars_which_hold_all_regions(largest, bars, width):
    panel = plots.region_sizes(np.array([1, largest, largest]), np.array([1])).axes[0]
    every, labelled = panel.containers
    assert len(every) == bars and every[0].get_width() == width and every[0].get_x() == 0.5
    assert sum(heights(every)) == 3 and sum(heights(labelled)) == 1


# --- the process that it is part of

def test_the_backend_of_who_imports_it_stays_and_plots_are_written_without_a_display(tmp_path):
    code = """
import sys, matplotlib
matplotlib.use("svg")
import hybridrepair.api
from hybridrepair.report import evidence, plots
plots.save(plots.Path(sys.argv[1]), plots.region_sizes(plots.np.array([1, 2]), plots.np.array([0])))
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""
    path = tmp_path / "a.png"
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["svg", "False"] and path.stat().st_size > 1000
