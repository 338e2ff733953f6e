"""What all tests share: a seed, the values recorded from the published code, small data."""
import json
import os
from pathlib import Path

# before torch is imported: threads that wait for each other in turn are slow beside other work (544 s, not 15 s)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits


@pytest.fixture(autouse=True)
def seeded():
    """Weights and random tensors of each test, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Folder of the reference values (HYBRIDREPAIR_ORACLE overrides it); tests that need it are skipped without it."""
    folder = Path(os.environ.get("HYBRIDREPAIR_ORACLE") or Path(__file__).parents[2] / "shared" / "oracle")
    if not folder.is_dir():
        pytest.skip(f"reference values not found: {folder}")
    return folder


def write_small(root: Path) -> Path:
    """A dataset `small` of arrays in `root`: handwritten 0s to 3s of 8x8 pixels, 120 train, 60 val, 120 T2, 200 pool."""
    digits = load_digits(n_class=4)
    folder = root / "small"
    folder.mkdir(parents=True)
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:540, :, :, None].repeat(3, axis=3)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", digits.target[:540].astype(np.int64))
    split = {"train": [0, 160], "val": [160, 220], "T2": [220, 340], "pool": [340, 540]}
    (folder / "dataset.json").write_text(json.dumps({"split": split, "classes": ["zero", "one", "two", "three"]}))
    return folder
