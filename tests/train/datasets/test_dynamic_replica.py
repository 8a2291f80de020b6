"""Dynamic Replica: a layout of a few pixels with values by hand, and annotations that do not say what they should."""

import gzip
import json

import numpy as np
import pytest

from tests.layouts import grey, keys, write
from train.datasets import build_dataset
from utils.errors import UserError

ONE, TWO, INFINITE = 0x3C00, 0x4000, 0x7C00  # bits of float16


def entry(sequence, number, camera, **changes):
    """4x2 images; 0.1 m between the cameras (x points to the left), focal lengths of 3 and 2 halves of the shorter side, 1 px."""
    place = f"{sequence}_source_{camera}"
    viewpoint = {
        "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "T": [5.1 if camera == "right" else 5.0, 0, 0],
        "focal_length": [30.0, 20.0],
        "principal_point": [0.5, -0.25],
        "intrinsics_format": "ndc_isotropic",
    }
    return {
        "sequence_name": sequence,
        "frame_number": number,
        "camera_name": camera,
        "image": {"path": f"{place}/images/{place}-{number:04d}.png", "size": [2, 4]},
        "depth": {"path": f"{place}/depths/{place}_{number:04d}.geometric.png", "scale_adjustment": 1.0},
        "mask": {"path": f"{place}/masks/{place}_{number:04d}.png"},
        "viewpoint": viewpoint | changes,
    }


def pair(sequence, number=0, **changes):
    return [entry(sequence, number, camera, **changes) for camera in ("left", "right")]


def make(root, entries, split="train"):
    """Left depth: unknown, 1 m, 2 m, infinite, and again; right depth 1 m."""
    left, right = np.array([[0, ONE, TWO, INFINITE]] * 2, np.uint16), np.full((2, 4), ONE, np.uint16)
    for told in entries:
        is_left = told["camera_name"] == "left"
        write(root / split, {told["image"]["path"]: grey(10 if is_left else 200, 4, 2), told["depth"]["path"]: left if is_left else right})
    annotate(root, entries, split)


def annotate(root, entries, split="train"):
    write(root, {f"{split}/frame_annotations_{split}.jgz": gzip.compress(json.dumps(entries).encode())})


def test_values_of_both_views_are_from_half_floats(tmp_path):
    make(tmp_path, pair("a"))
    dataset = build_dataset("dynamic_replica", tmp_path, {}, "here")
    sample = dataset.load(0).check()
    # 30 * 1 px * 0.1 m = 3 px m; the bits taken for a number would be 15360 of something
    assert sample.disparity[1].tolist() == pytest.approx([0, 3, 1.5, 0]) and sample.valid[1].tolist() == [False, True, True, False]
    assert (
        sample.disparity_right is not None and sample.disparity_right[0].tolist() == pytest.approx([3] * 4) and dataset.has_right_disparity
    )
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "a/0000"


@pytest.mark.parametrize(("form", "focal"), [("ndc_isotropic", (30, 20)), ("ndc_norm_image_bounds", (60, 20))])
def test_the_calibration_is_out_of_the_annotations(tmp_path, form, focal):
    make(tmp_path, pair("a", intrinsics_format=form))
    calibration = build_dataset("dynamic_replica", tmp_path, {}, "here").load(0).calibration
    assert calibration is not None and (calibration.focal_px, calibration.focal_y_px) == focal and calibration.doffs_px == 0
    assert calibration.baseline_m == pytest.approx(0.1) and calibration.size == (4, 2)
    assert calibration.centre == (2 - 0.5 * focal[0] / 30, 1.25)  # of the middle (2, 1), to the left and down


def test_every_frame_has_its_own_cameras(tmp_path):
    make(tmp_path, pair("a", 0) + pair("a", 1, focal_length=[60.0, 60.0]) + pair("b", 0, focal_length=[90.0, 90.0]))
    dataset = build_dataset("dynamic_replica", tmp_path, {}, "here")
    found = [(dataset.key(i), round(float(dataset.load(i).disparity[0, 1]), 4)) for i in range(3)]
    assert found == [("a/0000", 3), ("a/0001", 6), ("b/0000", 9)]


def test_the_order_of_the_annotations_does_not_matter(tmp_path):
    entries = [*pair("a", 0), *pair("a", 1, focal_length=[60.0, 60.0])]
    make(tmp_path, entries)
    annotate(tmp_path, entries[::-1])
    dataset = build_dataset("dynamic_replica", tmp_path, {}, "here")
    assert [path.name for path in dataset.files(1)][:2] == ["a_source_left-0001.png", "a_source_right-0001.png"]
    assert dataset.load(1).disparity[0, 1] == pytest.approx(6)


def test_splits_and_bad_sequences(tmp_path):
    make(tmp_path, pair("a") + pair("8369cb-7_obj"))
    make(tmp_path, pair("c"), "valid")
    assert keys("dynamic_replica", tmp_path) == ["a/0000"] and keys("dynamic_replica", tmp_path, split="valid") == ["c/0000"]
    assert keys("dynamic_replica", tmp_path, exclude=[]) == ["8369cb-7_obj/0000", "a/0000"]


@pytest.mark.parametrize("lonely", ["image", "depth", "entry"])
def test_files_that_are_not_there_are_named(tmp_path, lonely):
    entries = pair("a") + pair("b")
    make(tmp_path, entries)
    if lonely == "entry":
        annotate(tmp_path, entries[:-1])
    else:
        (tmp_path / "train" / entries[-1][lonely]["path"]).unlink()
    with pytest.raises(
        UserError, match=r"dynamic_replica: .*1 unpaired files beside 1 complete samples: .*b_source_.* (is not there|has no other eye)"
    ):
        build_dataset("dynamic_replica", tmp_path, {}, "here")
    assert keys("dynamic_replica", tmp_path, allow_unpaired=True) == ["a/0000"]


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/secret.png"])
@pytest.mark.parametrize("what", ["image", "depth"])
def test_annotations_do_not_lead_out_of_the_data_set(tmp_path, what, path):
    entries = pair("a")
    make(tmp_path, entries)
    entries[1][what]["path"] = path
    annotate(tmp_path, entries)
    with pytest.raises(UserError, match=rf"frame_annotations_train\.jgz: the path '{path}' leads out of"):
        build_dataset("dynamic_replica", tmp_path, {}, "here")


def test_annotations_that_are_none_are_named(tmp_path):
    place = "train/frame_annotations_train.jgz"
    with pytest.raises(UserError, match=r"frame_annotations_train\.jgz: cannot be read .*No such file"):
        build_dataset("dynamic_replica", tmp_path, {}, "here")
    for content, said in (
        (b"text", "cannot be read"),
        (gzip.compress(b"[]" * 99)[:-9], "cannot be read"),
        (gzip.compress(b"{"), "Invalid JSON"),
        (gzip.compress(json.dumps([entry("a", 0, "middle")]).encode()), "0.camera_name: .*'left' or 'right'"),
        (gzip.compress(json.dumps([entry("a", 0, "left")] * 2).encode()), "are both the left image of a/0000"),
        (gzip.compress(b"[]"), "no sample under"),
    ):
        write(tmp_path, {place: content})
        with pytest.raises(UserError, match=said):
            build_dataset("dynamic_replica", tmp_path, {}, "here")


def test_cameras_at_one_place_are_refused(tmp_path):
    make(tmp_path, pair("a", T=[5.0, 0, 0]))
    with pytest.raises(UserError, match="no distance or no focal length"):
        build_dataset("dynamic_replica", tmp_path, {}, "here")
