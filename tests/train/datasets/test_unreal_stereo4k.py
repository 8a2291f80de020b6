"""UnrealStereo4K: a layout of a few pixels with values by hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, write
from train.datasets import SampleError, build_dataset, unreal_stereo4k

LEFT, RIGHT = np.array([[1.5, np.inf, 1000]], np.float32), np.array([[2, 3, 0]], np.float32)


def frame(name, scene="00000", picture=".png", truth=".npy"):
    pictures = {".png": (grey(10, 3), grey(200, 3)), ".raw": (bytes(range(9)), bytes(range(9, 18)))}[picture]
    return {
        f"{scene}/Image0/{name}{picture}": pictures[0],
        f"{scene}/Image1/{name}{picture}": pictures[1],
        f"{scene}/Disp0/{name}{truth}": LEFT,
        f"{scene}/Disp1/{name}{truth}": RIGHT,
    }


@pytest.mark.parametrize("truth", [".npy", ".pfm"])
def test_values_of_both_views(tmp_path, truth):
    write(tmp_path, frame("00001", truth=truth))
    dataset = build_dataset("unreal_stereo4k", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.tolist() == [[1.5, 0, 1000]] and sample.valid.tolist() == [[True, False, True]]
    assert sample.disparity_right is not None and sample.disparity_right.tolist() == [[2, 3, 0]] and dataset.has_right_disparity
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "00000/00001"


def test_raw_pictures_are_bare_bgr(tmp_path, monkeypatch):
    write(tmp_path, frame("00001", picture=".raw"))
    with pytest.raises(SampleError, match=r"00001\.raw: expected 3840x2160 pixels of three bytes, found 9 bytes"):
        build_dataset("unreal_stereo4k", tmp_path, {}, "here").load(0)
    monkeypatch.setattr(unreal_stereo4k, "SIZE", (3, 1))
    sample = build_dataset("unreal_stereo4k", tmp_path, {}, "here").load(0).check()
    assert sample.left.tolist() == [[[2, 1, 0], [5, 4, 3], [8, 7, 6]]] and sample.right[0, 0].tolist() == [11, 10, 9]


@pytest.mark.parametrize("lonely", [name for name in frame("00000") if "Disp1" not in name])
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame("00001") | frame("00000", scene="00001"))
    check_pairing("unreal_stereo4k", tmp_path, lonely, frame("00000"))
