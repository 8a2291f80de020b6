"""The house keeps its rules: imports point down, every file says what lives in it, and nothing of one machine is written down."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {"utils": set(), "core": {"utils"}, "train": {"core", "utils"}, "scripts": {"train", "core", "utils"}}
ONLY_ABOVE_CORE = {"accelerate", "mlflow", "click", "tqdm"}
FILES = sorted(path.relative_to(ROOT) for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imported_modules(path: Path) -> list[str]:
    """Absolute names of everything imported, at the top or inside functions."""
    names = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
    return names


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path):
    room = path.parts[0]
    for name in imported_modules(path):
        top = name.split(".")[0]
        assert top not in MAY_IMPORT or top == room or top in MAY_IMPORT[room], f"{room} may not import {name}"
        assert room not in ("core", "utils") or top not in ONLY_ABOVE_CORE, f"{room} may not import {name}"
        assert name != "random" and not name.startswith("numpy.random"), f"{path}: every random choice takes a Generator"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_opens_with_what_lives_in_it(path):
    assert ast.get_docstring(ast.parse((ROOT / path).read_text())), f"{path} has no docstring"


def test_the_rooms_are_all_there_is():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    made = {"data", "mlruns", "mlartifacts", "__pycache__", "shared"}
    assert rooms - made == {"configs", "train", "core", "scripts", "utils", "workspace", "tests"}
