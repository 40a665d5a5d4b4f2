"""Studies in memory where there is such a disk: a killed process loses nothing that only a sync would have saved."""

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path():
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="allometry-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)
