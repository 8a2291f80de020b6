"""A hostile world: files that run code when they are read carelessly, of which the fixture `bomb` says whether one was; a full disk."""

import io
import os
import pickle
import resource
from contextlib import contextmanager
from pathlib import Path

import torch


class Bomb:
    """What loads a pickle of it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def weapons(bomb: Bomb) -> dict[str, bytes]:
    """Name -> the bytes of what may call itself a checkpoint."""
    stored, old = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"w": torch.ones(1)}, "extra": bomb}, stored)
    torch.save({"model": {"w": torch.ones(1), "v": bomb}}, old, _use_new_zipfile_serialization=False)
    return {"saved": stored.getvalue(), "old format": old.getvalue(), "pickle": pickle.dumps(bomb), "protocol 0": pickle.dumps(bomb, 0)}


@contextmanager
def full_disk(most=100_000):
    """No file may grow beyond `most` bytes: writing fails in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
