"""Virtual KITTI 2: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import build_dataset
from utils.errors import UserError

WIDTH = 1242  # of the calibration: 725.0087 px * 0.532725 m = 386.2303 px m


def frame(folder, name="00000"):
    """Left depth: 10 m, 655.34 m, the sky, unknown; right depth 20 m all over."""
    left = np.full((1, WIDTH), 1000, np.uint16)
    left[0, 1:4] = 65534, 65535, 0
    return {
        f"{folder}/frames/rgb/Camera_0/rgb_{name}.jpg": grey(10, WIDTH),
        f"{folder}/frames/rgb/Camera_1/rgb_{name}.jpg": grey(200, WIDTH),
        f"{folder}/frames/depth/Camera_0/depth_{name}.png": left,
        f"{folder}/frames/depth/Camera_1/depth_{name}.png": np.full((1, WIDTH), 2000, np.uint16),
    }


def test_values_of_both_views_are_from_centimetres_and_the_sky_is_unknown(tmp_path):
    write(tmp_path, frame("Scene01/clone"))
    dataset = build_dataset("virtual_kitti2", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity[0, :4].tolist() == pytest.approx([38.62303, 0.589359, 0, 0], abs=1e-5)
    assert sample.valid[0, :5].tolist() == [True, True, False, False, True] and dataset.has_right_disparity
    assert sample.disparity_right is not None and sample.disparity_right[0, 0] == pytest.approx(19.311515, abs=1e-5)
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "Scene01/clone/00000"
    assert sample.calibration is not None and (sample.calibration.focal_px, sample.calibration.baseline_m) == (725.0087, 0.532725)


def test_scenes_and_variants_are_chosen(tmp_path):
    folders = ("Scene01/clone", "Scene01/fog", "Scene20/15-deg-left")
    write(tmp_path, {name: content for folder in folders for name, content in frame(folder).items()})
    assert keys("virtual_kitti2", tmp_path) == [f"{folder}/00000" for folder in folders]
    assert keys("virtual_kitti2", tmp_path, scenes=["01"], variants=["clone"]) == ["Scene01/clone/00000"]
    with pytest.raises(UserError, match="virtual_kitti2: no variant 'rain' under"):
        build_dataset("virtual_kitti2", tmp_path, {"variants": ["rain", "fog"]}, "here")


@pytest.mark.parametrize("lonely", frame("Scene01/clone"))
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame("Scene01/clone", "00001") | frame("Scene01/fog"))
    check_pairing("virtual_kitti2", tmp_path, lonely, frame("Scene01/clone"))
