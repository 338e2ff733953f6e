"""charts.py: charts are SVG in two themes, with the names as they are."""
import base64
import warnings
from xml.etree import ElementTree

import pytest

from hybridrepair.report import charts

NAMES = ["cat", "$x$", "<b> & \"c\"", "猫", "a name of more than twenty-eight signs"]


def texts(uri: str) -> list[str]:
    root = ElementTree.fromstring(base64.b64decode(uri.partition(";base64,")[2]))
    return ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_names_are_shown_as_they_are_and_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = charts.themed(lambda: charts.changes("T2", NAMES, [1.0, -2, 0, 5, 3], [0.0, -3, -1, 4, 2], [2.0, -1, 1, 6, 4]))
    for uri in made.values():
        assert set(NAMES[:4]) < set(texts(uri)) and f"{NAMES[4][:27]}…" in texts(uri)


def test_themes_differ_in_their_ink_alone_and_a_chart_is_drawn_the_same_again():
    first, again = (charts.themed(lambda: charts.curve("Loss", "loss", [1, 2, 3], [3.0, 2.0, 1.5])) for _ in range(2))
    assert first == again and first["light"] != first["dark"]
    light, dark = (base64.b64decode(first[theme].partition(";base64,")[2]).decode() for theme in ("light", "dark"))
    assert light.replace(charts.INK["light"], charts.INK["dark"]) == dark


@pytest.mark.parametrize("epochs", [[1], list(range(1, 11))])
def test_a_curve_has_whole_epochs(epochs):
    figure = charts.curve("Loss", "loss", epochs, [1.0] * len(epochs))
    figure.draw_without_rendering()
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
    assert figure.axes[0].lines[0].get_xdata().tolist() == epochs
