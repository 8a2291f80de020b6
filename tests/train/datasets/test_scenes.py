"""Scenes: the form by hand, and every real scene where they are at hand, against what is written about it there."""

import json

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, npz, write
from train.datasets import SampleError, build_dataset
from utils.geometry import warp_right


def scene(name, **arrays):
    return {f"{name}/left.png": grey(10, 4), f"{name}/right.png": grey(200, 4), f"{name}/disparity.npz": npz(**arrays)}


DISPARITY = np.array([[1.5, 2, 7, np.inf]], np.float32)


def test_masks_and_calibration_are_taken_where_they_are(tmp_path):
    write(tmp_path, scene("b", disparity=DISPARITY) | scene("a", disparity=DISPARITY, valid=DISPARITY < 5, nocc=DISPARITY < 2))
    meta = {"width": 4, "height": 1, "calibration": {"fx": 100, "baseline_m": 0.2, "doffs": 1}}
    write(tmp_path, {"a/meta.json": meta})
    dataset = build_dataset("scenes", tmp_path, {}, "here")
    assert keys("scenes", tmp_path) == ["a", "b"]
    sample, other = dataset.load(0).check(), dataset.load(1).check()
    assert (sample.left == 10).all() and (sample.right == 200).all()
    assert sample.disparity.tolist() == [[1.5, 2, 0, 0]] and sample.valid.tolist() == [[True, True, False, False]]
    assert sample.occluded.tolist() == [[False, True, False, False]] and sample.calibration.focal_px == 100
    assert other.disparity.tolist() == [[1.5, 2, 7, 0]] and other.occluded is None and other.calibration is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"depth": DISPARITY}, r"expected 'disparity' .* found depth \(1, 4\)"),
        ({"disparity": DISPARITY, "valid": DISPARITY[:, :3] > 0}, r"found disparity \(1, 4\), valid \(1, 3\)"),
    ],
)
def test_an_npz_of_another_form_is_named(tmp_path, arrays, said):
    write(tmp_path, scene("a", **arrays))
    with pytest.raises(SampleError, match=rf"scenes: a: .*disparity\.npz: .*{said}"):
        build_dataset("scenes", tmp_path, {}, "here").load(0)


@pytest.mark.parametrize("lonely", scene("a", disparity=DISPARITY))
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, scene("b", disparity=DISPARITY) | scene("c", disparity=DISPARITY))
    check_pairing("scenes", tmp_path, lonely, scene("a", disparity=DISPARITY))


@pytest.mark.data
def test_the_real_scenes(shared):
    root = shared / "data/real"
    dataset = build_dataset("scenes", root, {}, "here")
    assert len(dataset) == 18
    for i in range(len(dataset)):
        sample, meta = dataset.load(i).check(), json.loads((root / dataset.key(i) / "meta.json").read_text())
        assert sample.disparity.shape == (meta["height"], meta["width"])
        assert sample.valid.mean() == pytest.approx(meta["disparity"]["valid_fraction"], abs=1e-4)
        assert sample.disparity.max() == pytest.approx(meta["disparity"]["max"], abs=1e-3)
        assert sample.sparse == sample.key.startswith("kitti"), sample.key
        calibration = meta["calibration"]
        assert (sample.calibration is None) == (calibration is None or calibration["doffs"] is None)
        if sample.occluded is not None:
            assert (sample.valid & ~sample.occluded).mean() == pytest.approx(meta["disparity"]["nocc_fraction"], abs=1e-4)
        warped, inside = warp_right(sample.right, sample.disparity)
        unmoved = np.abs(sample.right.astype(np.float32) - sample.left)
        assert np.abs(warped - sample.left)[sample.valid & inside].mean() < 0.75 * unmoved[sample.valid & inside].mean()
