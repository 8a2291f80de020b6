"""The report on data: right sets pass, every broken copy is flagged, and a wrong run file is one line."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from scripts.inspect_data import main
from tests.fsd_layout import write_pair
from train.datasets.synthetic import Synthetic

PAIRS = 5


def run_file(tmp_path, **folders):
    entries = [{"name": name, "path": str(folder)} for name, folder in folders.items()]
    content = {
        "model": {"max_disp": 96},
        "data": {"datasets": entries, "image_sizes": [[96, 64]], "image_augmentation": ["jittering"]},
        "loss": {"stereo": {"l1": {"function": "disparity_l1_loss", "weight": 1.0}}},
        "validation": {"every": 0},
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    return path


def inspect(tmp_path, *options, **folders):
    result = CliRunner().invoke(main, [str(run_file(tmp_path, **folders)), "--output", str(tmp_path / "report"), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    report = tmp_path / "report" / "report.json"
    return result, json.loads(report.read_text()) if report.exists() else None


@pytest.fixture
def pairs(tmp_path):
    """pairs(change): a folder of pairs, each changed by `change(left, right, disparity)`."""

    def write(name, change=lambda *pair: pair):
        data = Synthetic(None, size=(160, 128), seed=3, noise=0.0)
        for i in range(PAIRS):
            sample = data.load(i)
            write_pair(tmp_path / name, f"{i:04d}", *change(sample.left, sample.right, sample.disparity))
        return tmp_path / name

    return write


def test_right_data_pass_and_are_described(pairs, tmp_path):
    result, report = inspect(tmp_path, mine=pairs("mine"))
    assert result.exit_code == 0 and "nothing to mend" in result.output, result.output
    found = report["data_sets"][0]
    assert (found["name"], found["pairs"], found["looked_at"], found["readings"]) == ("mine", PAIRS, PAIRS, {"as given": PAIRS})
    assert sum(found["histogram"]["shares"]) == pytest.approx(1) and len(found["samples"]) == PAIRS
    assert "160x128" in result.output and (tmp_path / "report" / "mine.png").stat().st_size > 10_000
    page = (tmp_path / "report" / "report.html").read_text()
    assert "mine.png" in page and "<svg" in page


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda left, right, d: (right, left, d), "eyes swapped"),
        (lambda left, right, d: (left, right, 2 * d), "0.5 times as large"),
        (lambda left, right, d: (left, np.roll(right, 2, axis=0), d), "2 rows too low"),
        (lambda left, right, d: (left, right, 0 * d), "less than 1 % of their pixels"),
        (lambda left, right, d: (left, np.random.default_rng(0).permutation(right), d), "does not explain the images"),
    ],
)
def test_broken_copies_are_flagged(pairs, tmp_path, change, flag):
    result, report = inspect(tmp_path, mine=pairs("mine", change))
    assert result.exit_code == 1 and flag in result.output, result.output
    assert any(flag in line for line in report["flags"])


def test_unreadable_files_and_pictures_twice_are_named(pairs, tmp_path):
    one, two = pairs("one"), pairs("two")
    (one / "right/rgb/0002.png").write_bytes(b"")
    for name in ("left/rgb/0001.png", "left/rgb/0003.png"):
        (two / name).write_bytes((one / name).read_bytes())
    result, report = inspect(tmp_path, one=one, two=two)
    assert result.exit_code == 1 and "1 of 5 pairs cannot be read" in result.output and "0002" in result.output
    assert any("the same picture more than once: one/0001, two/0001" in line for line in report["flags"])


def test_pairs_of_the_validation_that_are_trained_on_are_told(pairs, tmp_path):
    mine = pairs("mine")
    held = [{"name": "held", "path": str(mine)}]
    result, _ = inspect(tmp_path, "--set", f"validation.datasets={json.dumps(held)}", mine=mine)
    assert result.exit_code == 1 and f"held: {PAIRS} of {PAIRS} pairs of the validation are trained on as well, in 'mine'" in result.output
    held[0] |= {"part": "val", "val_fraction": 0.5, "max_samples": 1}
    result, _ = inspect(tmp_path, "--set", f"validation.datasets={json.dumps(held)}", mine=mine)
    assert result.exit_code == 2 and f"{tmp_path}/run.json: validation.datasets[0] 'held': part 'val' holds none" in result.output


def test_names_that_are_no_text_are_spelt_out(pairs, tmp_path):
    mine = pairs("mine")
    for place in ("left/rgb", "right/rgb", "left/disparity"):
        os.rename(mine / place / "0000.png", os.fsencode(mine / place) + b"/\xff.png")
    os.truncate(os.fsencode(mine / "right/rgb") + b"/\xff.png", 0)
    result, _ = inspect(tmp_path, mine=mine)
    assert result.exit_code == 1 and "\\udcff.png: the file is empty" in result.output
    assert "\\udcff.png" in (tmp_path / "report" / "report.html").read_text()


def test_a_wrong_unit_is_told_by_numbers_wider_than_the_images(pairs, tmp_path):
    result, _ = inspect(tmp_path, mine=pairs("mine", lambda left, right, d: (left, right, 256 * d)))
    assert result.exit_code == 1 and "look at the unit" in result.output


def test_ground_truth_beyond_the_range_is_told(pairs, tmp_path):
    result, _ = inspect(tmp_path, "--set", "model.max_disp=32", "--set", "data.max_disparity=8", mine=pairs("mine"))
    assert result.exit_code == 1 and "at or beyond 8 px" in result.output


@pytest.mark.data
def test_the_originals_of_the_data_sets_pass(shared, tmp_path):
    formats = shared / "data" / "formats"
    places = {
        "kitti2012": (formats / "kitti2012", {"images": "image"}),
        "kitti2015": (formats / "kitti2015_layout", {}),
        "eth3d": (formats / "eth3d", {}),
        "middlebury2001": (formats / "middlebury2001", {}),
        "middlebury2003": (formats / "middlebury2003", {}),
        "middlebury2006": (formats / "middlebury2006", {"size": "third"}),
        "middeval3": (formats / "middlebury2014" / "MiddEval3", {"size": "Q"}),
        "flyingthings3d": (formats / "sceneflow" / "FlyingThings3D", {}),
        "scenes": (shared / "data" / "real", {}),
    }
    entries = [{"name": name, "type": name, "path": str(path), "params": params} for name, (path, params) in places.items()]
    options = ["--set", f"data.datasets={json.dumps(entries)}", "--set", "data.max_disparity=192", "--samples", "4", "--pictures", "0"]
    result, report = inspect(tmp_path, *options, any="replaced")
    # the real scenes were cut out of the same originals, so some of their pictures may be there twice
    flags = [flag for flag in report["flags"] if "the same picture" not in flag]
    assert not flags and [found["pairs"] for found in report["data_sets"]] == [1] * 8 + [18], result.output
    assert all(set(found["readings"]) == {"as given"} for found in report["data_sets"])


def test_a_wrong_run_file_is_one_line(tmp_path):
    result, report = inspect(tmp_path, mine=tmp_path / "absent")
    assert result.exit_code == 2 and result.output.startswith("error: ") and "no such folder" in result.output and report is None
    assert CliRunner().invoke(main, ["absent.json"]).exit_code == 2
