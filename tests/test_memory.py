"""Memory that selection takes: bounded by the pool and its features, whatever lies beside the pool in images.npy."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import CALL, LONGEST, read_rows, write_tiny

ROOT = Path(__file__).parents[1]
GB = 10 ** 9
MEASURED = """
import sys
import selection
from hybridrepair.base.provenance import peak_memory
selection.main(selection.parse_args())
print(peak_memory())
"""


def peak_of(folder: Path, *flags: str, seconds: float) -> int:
    """Bytes that selection.py, called in `folder`, holds at most, pages of memory maps among them."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *CALL, *flags], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=seconds)
    assert not done.returncode, done.stderr
    return int(done.stdout.split()[-1])


def save_sparse(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """An array of zeros that takes no room on the disk; skips the test where the disk cannot do that."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        try:
            file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)
        except OSError as error:
            pytest.skip(f"the disk of {path.parent} takes no file of that size: {error}")
    if path.stat().st_blocks * 512 > GB:
        path.unlink()
        pytest.skip(f"the disk of {path.parent} has no sparse files")


def images_like(n: int, prototypes: int, rng: np.random.Generator) -> np.ndarray:
    """n images of 32 pixels, each a prototype with noise."""
    seen = rng.integers(0, 190, (prototypes, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return seen[rng.integers(0, prototypes, n)] + rng.integers(0, 64, (n, 32, 32, 3), dtype=np.uint8)


def test_a_slice_of_an_array_larger_than_memory_is_selected_from(tmp_path):
    folder, n, begin = tmp_path / "data/large", 13_020_834, 12_000_000  # of 3,072 bytes: 40 GB
    folder.mkdir(parents=True)
    save_sparse(folder / "images.npy", "|u1", (n, 32, 32, 3))
    save_sparse(folder / "labels.npy", "<i8", (n,))
    images = np.load(folder / "images.npy", mmap_mode="r+")
    images[begin:begin + 1400] = images_like(1400, 40, np.random.default_rng(0))
    images.flush()
    split = {"train": [begin, begin + 200], "T2": [begin + 200, begin + 400], "pool": [begin + 400, begin + 1400]}
    (folder / "dataset.json").write_text(json.dumps({"split": split, "classes": ["cat", "dog"]}))
    write_tiny(tmp_path)
    peak = peak_of(tmp_path, "--dataset", "large", "--p_budget", "5", "--auto_tao", "--out", "ask", seconds=LONGEST)
    assert images.nbytes > 40 * GB and peak < 2 * GB
    asked = [int(row["id"].removeprefix("#")) for row in read_rows(tmp_path / "ask/to_label.csv")]
    assert len(set(asked)) == 50 and begin + 400 <= min(asked) <= max(asked) < begin + 1400


def write_many(folder: Path, n: int) -> None:
    """A dataset of two classes in `folder`, with a pool of n images of 32 pixels, written some at a time."""
    folder.mkdir(parents=True)
    with open(folder / "images.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n + 400, 32, 32, 3)})
        for begin in range(0, n + 400, 10_000):
            file.write(images_like(min(10_000, n + 400 - begin), 1000, np.random.default_rng(begin)).tobytes())
    np.save(folder / "labels.npy", np.arange(n + 400) % 2)
    split = {"train": [0, 200], "T2": [200, 400], "pool": [400, None]}
    (folder / "dataset.json").write_text(json.dumps({"split": split, "classes": ["cat", "dog"]}))


@pytest.mark.long
def test_a_pool_of_300_000_images_is_selected_from_within_3_gb(tmp_path):
    """Nine views of each, features, regions and a choice; k-means alone cuts the pool, since HDBSCAN looks at all pairs of images."""
    write_many(tmp_path / "data/many", 300_000)
    write_tiny(tmp_path)
    peak = peak_of(tmp_path, "--dataset", "many", "--p_budget", "1", "--auto_tao", "--cluster", "kmeans", "--cell_size", "5000",
                   "--out", "ask", seconds=3600)
    (tmp_path / "data/many/images.npy").unlink()
    assert len(read_rows(tmp_path / "ask/to_label.csv")) == 3000 and peak < 3 * GB, peak
