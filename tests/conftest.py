"""What all tests share: the modules of the repository root, a seed, and the values recorded from the published code."""
import os
import sys
from pathlib import Path

# before torch is imported: threads that wait for each other in turn are slow beside other work (544 s, not 15 s)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))


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
