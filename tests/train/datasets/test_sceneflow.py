"""SceneFlow: its layouts a few pixels large with values by hand, and two original frames where they are at hand."""

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, write
from train.datasets import build_dataset
from utils.errors import UserError
from utils.geometry import warp_right

LEFT, RIGHT = np.array([[1.5, 300, 0.25]], np.float32), np.array([[2, 3, 4]], np.float32)


def frame(pictures, disparity, name="0006", sign=1):
    """Left picture all 10, right all 200; `sign` is that of the left disparity."""
    return {
        f"{pictures}/left/{name}.png": grey(10, 3),
        f"{pictures}/right/{name}.png": grey(200, 3),
        f"{disparity}/left/{name}.pfm": sign * LEFT,
        f"{disparity}/right/{name}.pfm": RIGHT,
    }


def passes(scene, renders=("clean", "final"), below="", name="0006"):
    files = [frame(f"{below}frames_{render}pass/{scene}", f"{below}disparity/{scene}", name) for render in renders]
    return {path: content for render in files for path, content in render.items()}


SCENES = {"flyingthings3d": "TRAIN/A/0000", "monkaa": "eating_x2", "driving": "15mm_focallength/scene_backwards/fast"}


@pytest.mark.parametrize("kind", SCENES)
def test_values_of_both_views(tmp_path, kind):
    write(tmp_path, passes(SCENES[kind]))
    dataset = build_dataset(kind, tmp_path, {}, "here")
    sample = dataset.load(0).check()
    assert dataset.has_right_disparity and len(dataset) == 1 and sample.key == f"clean/{SCENES[kind]}/0006"
    assert (sample.disparity == LEFT).all() and sample.valid.all() and (sample.left == 10).all() and (sample.right == 200).all()
    assert (sample.disparity_right == RIGHT).all() and not sample.sparse and sample.occluded is None


@pytest.mark.parametrize("kind", SCENES)
def test_sets_unpacked_into_one_folder_are_told_apart(tmp_path, kind):
    for scene in SCENES.values():
        write(tmp_path, passes(scene, ["final"]))
    assert keys(kind, tmp_path, render="final") == [f"final/{SCENES[kind]}/0006"]


def test_renders_and_splits_are_chosen(tmp_path):
    for split in ("TRAIN", "TEST"):
        write(tmp_path, passes(f"{split}/A/0000"))
    assert keys("flyingthings3d", tmp_path) == ["clean/TRAIN/A/0000/0006"]
    assert keys("flyingthings3d", tmp_path, split="TEST", render="final") == ["final/TEST/A/0000/0006"]
    assert keys("flyingthings3d", tmp_path, split="all", render="both") == [
        f"{render}/{split}/A/0000/0006" for render in ("clean", "final") for split in ("TEST", "TRAIN")
    ]


def test_a_render_that_is_not_there_is_said(tmp_path):
    write(tmp_path, passes("TRAIN/A/0000", ["clean"]))
    with pytest.raises(UserError, match=r"flyingthings3d: no render 'final' under "):
        keys("flyingthings3d", tmp_path, render="both")


def test_all_sets_together(tmp_path):
    for name, scene in zip(("FlyingThings3D", "Monkaa", "Driving"), SCENES.values(), strict=True):
        write(tmp_path / name, passes(scene))
    write(tmp_path / "FlyingThings3D", passes("TEST/B/0001"))
    training = [
        "Driving/clean/15mm_focallength/scene_backwards/fast/0006",
        "FlyingThings3D/clean/TRAIN/A/0000/0006",
        "Monkaa/clean/eating_x2/0006",
    ]
    assert keys("sceneflow", tmp_path) == training
    assert keys("sceneflow", tmp_path, sets=["Monkaa"]) == training[2:]
    assert keys("sceneflow", tmp_path, sets=["FlyingThings3D"], split="TEST") == ["FlyingThings3D/clean/TEST/B/0001/0006"]
    with pytest.raises(UserError, match=r"here\.sets"):
        keys("sceneflow", tmp_path, sets=["Sintel"])
    (tmp_path / "Monkaa").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"sceneflow: no set 'Monkaa' under "):
        keys("sceneflow", tmp_path)


@pytest.mark.parametrize("lonely", ["frames_cleanpass/a/left/0006.png", "frames_cleanpass/a/right/0006.png"])
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, passes("b") | passes("a", name="0007"))
    check_pairing("monkaa", tmp_path, lonely, passes("a", ["clean"]))


def test_negative_disparities_of_the_subset_are_taken_by_their_size(tmp_path):
    for split, name in (("train", "0000000"), ("val", "0000001")):
        write(tmp_path, frame(f"{split}/image_clean", f"{split}/disparity", name, sign=-1))
    sample = build_dataset("flyingthings3d_subset", tmp_path, {}, "here").load(0).check()
    assert (sample.disparity == LEFT).all() and sample.valid.all() and sample.occluded is None
    assert keys("flyingthings3d_subset", tmp_path, split="all") == ["clean/train/0000000", "clean/val/0000001"]
    write(tmp_path, {"train/disparity_occlusions/left/0000000.png": np.array([[0, 255, 0]], np.uint8)})
    sample = build_dataset("flyingthings3d_subset", tmp_path, {}, "here").load(0).check()
    assert sample.occluded is not None and sample.occluded.tolist() == [[False, True, False]]


@pytest.mark.data
@pytest.mark.parametrize(("split", "largest"), [("TRAIN", 75.883354), ("TEST", 108.95054)])
def test_the_original_frames(shared, split, largest):
    dataset = build_dataset("flyingthings3d", shared / "data/formats/sceneflow/FlyingThings3D", {"split": split}, "here")
    sample = dataset.load(0).check()
    assert len(dataset) == 1 and dataset.has_right_disparity == (split == "TRAIN")
    assert sample.disparity.shape == (540, 960) and sample.valid.all() and sample.disparity.max() == np.float32(largest)

    def error(disparity):
        warped, inside = warp_right(sample.right, disparity)
        return np.abs(warped - sample.left)[inside].mean()

    assert 2 * error(sample.disparity) < min(error(sample.disparity[::-1]), error(0 * sample.disparity))
