"""What an inspection says of data sets that are made for it; the command around it is tested beside the other commands."""

import numpy as np
import pytest

from train.augment.pipeline import Augmentation
from train.datasets.synthetic import Synthetic
from train.inspection import inspect_source
from train.sources import Source

BREAK = {
    "as it is": (lambda sample: sample, None),
    "scaled": (lambda sample: sample.replace(disparity_right=2 * sample.disparity_right), "0.5 times as large"),
    "mirrored": (lambda sample: sample.replace(disparity_right=sample.disparity_right[:, ::-1].copy()), "mirrored"),
}


class Changed:
    """A data set whose samples are changed."""

    has_right_disparity, has_pose = True, False

    def __init__(self, change):
        self._data, self._change = Synthetic(None, size=(192, 128), seed=3, noise=0.0, length=6), change

    def __len__(self):
        return len(self._data)

    def key(self, i):
        return self._data.key(i)

    def files(self, i):
        return []

    def load(self, i):
        return self._change(self._data.load(i))


@pytest.mark.parametrize(("change", "flag"), BREAK.values(), ids=BREAK)
def test_the_right_views_ground_truth_is_checked_as_the_left_ones_is(change, flag):
    dataset = Changed(change)
    source = Source("made", dataset, np.arange(len(dataset)), 1.0, "stereo", Augmentation([], False, "here"))
    flags = inspect_source(source, samples=6, max_disparity=192).flags
    right = [line for line in flags if line.startswith("right view: ")]
    assert not [line for line in flags if line not in right], flags
    if flag is None:
        assert not right
    else:
        assert any(flag in line for line in right), flags
