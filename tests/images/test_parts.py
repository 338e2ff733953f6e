"""parts.py: indices of each part, none for those left out, and what is refused."""
from pathlib import Path

import numpy as np
import pytest

from conftest import refusal
from hybridrepair.images.parts import parts

LABELS = np.array([0, 1, 0, 1, -1, -1])


def test_parts_are_ranges_and_null_is_the_end():
    found = parts(Path("pets"), LABELS, {"pool": (3, None), "train": (0, 2)})
    assert {part: index.tolist() for part, index in found.items()} == {"train": [0, 1], "val": [], "T2": [], "pool": [3, 4, 5]}
    assert all(index.dtype == np.int64 for index in found.values())


@pytest.mark.parametrize("split, told", [
    ({"train": (0, 7)}, "train of dataset pets is images 0 to 7, but there are 6"), ({"T2": (2, 2)}, "T2 of dataset pets is empty"),
    ({"val": (0, 3), "T2": (2, 4)}, "val and T2 of dataset pets overlap"), ({"val": (2, 6)}, "2 images without a label"),
])
def test_parts_that_do_not_fit_are_named(split, told):
    assert told in refusal(parts, Path("pets"), LABELS, split)
