"""What a data set is to the rest of the program, and the registry of their types. The layouts themselves are one file each beside this."""

from pathlib import Path
from typing import Protocol

from train.sample import StereoSample
from utils.registry import Registry

DATASETS = Registry("data set type")


class SampleError(Exception):
    """One broken sample, named with its file: the loader replaces it and counts. A wrong layout is a `UserError` at the start instead."""


class StereoDataset(Protocol):
    """A list of samples under stable names. Built by `build_dataset`; entries take `path` and their parameters as keyword-only arguments.

    has_right_disparity: its samples carry the right view's disparity, which the horizontal flip needs.
    has_pose: its samples carry a pose, which `pose_loss` needs.
    """

    has_right_disparity: bool
    has_pose: bool

    def __len__(self) -> int: ...

    def key(self, i: int) -> str:
        """The name of sample `i`, which stays the same when files are added."""
        ...

    def files(self, i: int) -> list[Path]:
        """The files that sample `i` is read from; none where it is computed."""
        ...

    def load(self, i: int) -> StereoSample:
        """Sample `i` in its native size. Raises `SampleError` where its files are broken."""
        ...
