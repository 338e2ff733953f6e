"""What all tests share: the modules of the repository root, and the reference values recorded from the published code."""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Folder of the reference values (HYBRIDREPAIR_ORACLE overrides it); a test that needs them is skipped without it."""
    folder = Path(os.environ.get("HYBRIDREPAIR_ORACLE") or Path(__file__).parents[2] / "shared" / "oracle")
    if not folder.is_dir():
        pytest.skip(f"reference values not found: {folder}")
    return folder
