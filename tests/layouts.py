"""Writes the files of a data set a few pixels large, for the tests of layouts, and says what holds of all of them. Holds no test."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from train.datasets import build_dataset
from utils.errors import UserError
from utils.images import write_image
from utils.pfm import write_pfm


def grey(value: int, width: int, height: int = 1) -> np.ndarray:
    """A picture of one colour, which JPEG keeps as it is."""
    return np.full((height, width, 3), value, np.uint8)


def npz(**arrays: np.ndarray) -> bytes:
    """An NPZ file, which plays the formats whose packages need not be installed; their readers have tests of their own."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def write(root: Path, files: Mapping[str, object]) -> None:
    """Path below `root` -> an array for pictures, .pfm and .npy; bytes or text as they are; anything else as JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, np.ndarray):
            {".pfm": write_pfm, ".npy": np.save}.get(path.suffix, write_image)(path, content)
        else:
            path.write_text(json.dumps(content))


def keys(kind: str, root: Path, **params: object) -> list[str]:
    dataset = build_dataset(kind, root, params, "here")
    return [dataset.key(i) for i in range(len(dataset))]


def check_pairing(kind: str, root: Path, lonely: str, more: Mapping[str, object], **params: object) -> None:
    """Files under `root` are paired by their names, and keys are stable, whatever lies before them in a sorted list.

    `more` is another sample that comes before all others: it must not change a key, nor what belongs to one. Without its file `lonely`
    the data set is refused, until `allow_unpaired` leaves the rest of it out, and nothing else.
    """
    before = build_dataset(kind, root, params, "here")
    known = {before.key(i): before.files(i) for i in range(len(before))}
    write(root, more)
    after = build_dataset(kind, root, params, "here")
    found = {after.key(i): after.files(i) for i in range(len(after))}
    assert len(found) == len(known) + 1 and found.items() >= known.items() and after.key(0) not in known
    assert lonely in more
    (root / lonely).unlink()
    with pytest.raises(UserError, match=rf"{kind}: .* unpaired files beside {len(known)} complete samples: .*allow_unpaired"):
        build_dataset(kind, root, params, "here")
    rest = build_dataset(kind, root, params | {"allow_unpaired": True}, "here")
    assert {rest.key(i): rest.files(i) for i in range(len(rest))} == known
