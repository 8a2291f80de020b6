"""What all tests share: where the development data lies when it is there. Fixtures of one room live beside that room's tests."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Images for containers often set it, and each process that a test starts would compile torch's source anew, which takes ten seconds.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False

import pytest
import torch

from tests.hostile import Bomb

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Networks of the tests are too small to gain from threads, and on a busy machine every parallel region waits for the slowest of them.
torch.set_num_threads(1)


@pytest.fixture
def shared() -> Path:
    """The folder of development data beside the project; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    return SHARED


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[Bomb]:
    """To be put into files; a test in which it goes off fails."""
    yield Bomb(tmp_path / "exploded")
    assert not (tmp_path / "exploded").exists(), "a pickle was loaded"


@pytest.fixture(autouse=True)
def _logger_of_its_own() -> Iterator[None]:
    """Every test finds the project's logger as an import leaves it; commands set it up for a terminal, where pytest does not see it."""
    logger = logging.getLogger("stereofoundry")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def onnxruntime() -> ModuleType:
    """For tests that export."""
    from core.onnx_export import TORCH

    if torch.__version__ < TORCH:
        pytest.skip(f"export needs torch {TORCH}, found {torch.__version__}")
    return pytest.importorskip("onnxruntime")
