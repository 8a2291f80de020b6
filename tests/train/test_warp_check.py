"""The mistakes that data sets are made with are told apart, on rendered pairs and on real ones."""

import numpy as np
import pytest

from train.datasets.synthetic import Synthetic
from train.sample import StereoSample
from train.warp_check import AS_GIVEN, ONE_IMAGE, UNRELATED, check_pair
from utils.geometry import mirror
from utils.images import read_image

REAL = ("adirondack", "art", "kitti12_000024", "sawtooth", "terrace_2s", "tsukuba")


def rolled(image, rows):
    return np.roll(image, rows, axis=0)


BREAK = {
    AS_GIVEN: lambda s: s,
    "eyes swapped": lambda s: s.replace(left=s.right, right=s.left),
    "disparity negated": lambda s: s.replace(
        left=mirror(s.left), right=mirror(s.right), disparity=mirror(s.disparity), valid=mirror(s.valid)
    ),
    "disparity should be 0.5 times as large": lambda s: s.replace(disparity=2 * s.disparity),
    "disparity should be 2 times as large": lambda s: s.replace(disparity=s.disparity / 2),
    "right image 2 rows too low": lambda s: s.replace(right=rolled(s.right, 2)),
    "right image 1 rows too high": lambda s: s.replace(right=rolled(s.right, -1)),
    "disparity should be 1 px smaller": lambda s: s.replace(disparity=s.disparity + np.float32(1)),
    "ground truth upside down": lambda s: s.replace(disparity=s.disparity[::-1].copy(), valid=s.valid[::-1].copy()),
    "ground truth mirrored": lambda s: s.replace(disparity=mirror(s.disparity), valid=mirror(s.valid)),
    ONE_IMAGE: lambda s: s.replace(right=s.left),
    UNRELATED: lambda s: s.replace(right=np.random.default_rng(0).permutation(s.right)),
}


@pytest.mark.parametrize("reading", BREAK)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_mistake_is_named_on_rendered_pairs(reading, index):
    sample = Synthetic(None, size=(256, 192), seed=7).load(index).replace(occluded=None)
    verdict = check_pair(BREAK[reading](sample))
    assert verdict.reading == reading, verdict.scores


def test_a_pair_that_shows_nothing_is_not_judged():
    grey = np.full((64, 64, 3), 90, np.uint8)
    known = np.ones((64, 64), bool)
    assert check_pair(StereoSample(grey, grey, np.full((64, 64), 3, np.float32), known)).reading is None
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert check_pair(StereoSample(texture, texture, np.zeros((64, 64), np.float32), np.zeros((64, 64), bool))).reading is None


def test_exposure_does_not_matter():
    sample = Synthetic(None, size=(256, 192), seed=7).load(0)
    darker = (sample.right * 0.6 + 10).astype(np.uint8)
    assert check_pair(sample.replace(right=darker)).reading == AS_GIVEN


@pytest.mark.data
@pytest.mark.parametrize("scene", REAL)
def test_every_mistake_is_named_on_real_pairs(shared, scene):
    folder = shared / "data" / "real" / scene
    with np.load(folder / "disparity.npz") as truth:
        sample = StereoSample(read_image(folder / "left.png"), read_image(folder / "right.png"), truth["disparity"], truth["valid"])
    for reading, change in BREAK.items():
        assert check_pair(change(sample)).reading == reading
