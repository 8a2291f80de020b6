"""Files that run code when they are read carelessly. The fixture `bomb` says whether one was."""

import io
import os
import pickle
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
