"""IRS: both layouts a few pixels large with values by hand. OpenEXR is played by NPZ files; the reader itself has its own test."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from tests.layouts import check_pairing, grey, keys, npz, write
from train.datasets import build_dataset
from utils.errors import UserError


@contextmanager
def open_exr(path, separate_channels):
    with np.load(path) as stored:
        yield SimpleNamespace(channels=lambda: {name: SimpleNamespace(pixels=stored[name]) for name in stored})


@pytest.fixture(autouse=True)
def _openexr(monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", SimpleNamespace(File=open_exr))


def frame(scene, number="00001", folders=("", "", "")):
    left, right, depth = folders
    return {
        f"{scene}/{left}l_{number}.png": grey(10, 4),
        f"{scene}/{right}r_{number}.png": grey(200, 4),
        f"{scene}/{depth}d_{number}.exr": npz(R=np.full((1, 4), 9.0), G=np.array([[1.5, 0, np.inf, 300]])),
    }


FOLDERS = ("left_image/", "right_image/", "depth/")


@pytest.mark.parametrize(("layout", "folders"), [("flat", ("", "", "")), ("folders", FOLDERS)])
def test_values_are_those_of_the_green_channel(tmp_path, layout, folders):
    write(tmp_path, frame("Home/a", folders=folders))
    dataset = build_dataset("irs", tmp_path, {"layout": layout}, "here")
    sample = dataset.load(0).check()
    assert sample.disparity.tolist() == [[1.5, 0, 0, 300]] and sample.valid.tolist() == [[True, False, False, True]]
    assert (sample.left == 10).all() and (sample.right == 200).all() and sample.key == "Home/a/00001"
    assert not dataset.has_right_disparity and sample.disparity_right is None


def test_the_bad_scene_is_left_out_unless_it_is_asked_for(tmp_path):
    bad = "Office/QAOfficeAndSecurityRoom2_Night"
    write(tmp_path, frame(bad) | frame("Office/a") | frame("Home/a"))
    assert keys("irs", tmp_path) == ["Home/a/00001", "Office/a/00001"]
    assert keys("irs", tmp_path, parts=["Office"], exclude=[]) == [f"{bad}/00001", "Office/a/00001"]


def test_without_the_package_no_run_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(UserError, match="irs: needs a package that is not installed; pip install OpenEXR, or uv run --extra exr"):
        build_dataset("irs", tmp_path, {}, "here")


@pytest.mark.parametrize("lonely", frame("Home/a"))
def test_files_are_paired_by_their_names(tmp_path, lonely):
    write(tmp_path, frame("Home/a", "00002") | frame("Home/b"))
    check_pairing("irs", tmp_path, lonely, frame("Home/a"))
