"""Templates on folders made for it: what is found, what belongs together, and what is said when something does not."""

from pathlib import Path

import numpy as np
import pytest

from train.datasets import SampleError
from train.datasets.layout import FileDataset, Lines, Row, find, open_files, read_depth_pair
from train.sample import StereoSample
from utils.calibration import Calibration
from utils.errors import UserError
from utils.images import write_image

PAIR = {"left": "{scene:**}/left/{frame}.{suffix}", "right": "{scene:**}/right/{frame}.{suffix}"}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def decode(files):
    image = np.zeros((2, 3, 3), np.uint8)
    return StereoSample(image, image, np.zeros((2, 3), np.float32), np.zeros((2, 3), bool))


def keys(dataset):
    return [dataset.key(i) for i in range(len(dataset))]


def test_fields_are_what_the_names_say(tmp_path):
    touch(tmp_path, "a/x_10.png", "a/x_11.png", "b/y_10.png", "b/deep/z_10.png", "a/.hidden_10.png")
    assert find(tmp_path, "{scene}/{frame}_10.png") == {
        "a/x_10.png": {"scene": "a", "frame": "x"},
        "b/y_10.png": {"scene": "b", "frame": "y"},
    }
    assert list(find(tmp_path, "{scene:**}/{frame}_10.png").values()) == [
        {"scene": "a", "frame": "x"},
        {"scene": "b", "frame": "y"},
        {"scene": "b/deep", "frame": "z"},
    ]


def test_a_field_given_twice_must_be_the_same_text(tmp_path):
    touch(tmp_path, "s1/s1_0.png", "s1/s2_0.png")
    assert list(find(tmp_path, "{scene}/{scene}_{frame}.png")) == ["s1/s1_0.png"]


def test_a_dot_in_a_template_is_a_dot(tmp_path):
    touch(tmp_path, "aXpng", "a.png")
    assert list(find(tmp_path, "{frame}.png")) == ["a.png"]


def test_files_are_paired_by_their_fields_whatever_their_order_and_suffix(tmp_path):
    touch(tmp_path, "left/0002.png", "left/0001.jpg", "right/0001.png", "right/0002.jpg", "s/left/0001.png", "s/right/0001.png")
    dataset = open_files("own", tmp_path, PAIR, decode, key="{scene}/{frame}")
    assert keys(dataset) == ["0001", "0002", "s/0001"]
    assert dataset.paths(0) == {"left": tmp_path / "left/0001.jpg", "right": tmp_path / "right/0001.png"}


def test_an_optional_file_serves_all_samples_of_its_scene(tmp_path):
    touch(tmp_path, "a/left/0.png", "a/left/1.png", "a/right/0.png", "a/right/1.png", "a/calib.txt", "b/left/0.png", "b/right/0.png")
    dataset = open_files("own", tmp_path, PAIR, decode, key="{scene}/{frame}", optional={"calibration": "{scene:**}/calib.txt"})
    assert ["calibration" in dataset.paths(i) for i in range(3)] == [True, True, False]
    assert len(dataset.files(0)) == 3 and len(dataset.files(2)) == 2


@pytest.mark.parametrize("lonely", ["left/0002.png", "right/0002.png"])
def test_a_file_without_partner_stops_unless_allowed(tmp_path, lonely):
    touch(tmp_path, "left/0001.png", "right/0001.png", lonely)
    with pytest.raises(UserError, match=rf"own: .*1 unpaired files beside 1 complete samples: {lonely}.*allow_unpaired"):
        open_files("own", tmp_path, PAIR, decode, key="{frame}")
    assert keys(open_files("own", tmp_path, PAIR, decode, key="{frame}", allow_unpaired=True)) == ["0001"]


def test_two_files_for_one_place_are_refused(tmp_path):
    touch(tmp_path, "left/0001.png", "left/0001.jpg", "right/0001.png")
    with pytest.raises(UserError, match=r"left/0001\.jpg and left/0001\.png are two files for one place"):
        open_files("own", tmp_path, PAIR, decode, key="{frame}")


@pytest.mark.parametrize(
    ("path", "found"),
    [(None, "no path given"), ("missing", "no such folder"), ("file", "is a file, not a folder"), (".", "no sample under")],
)
def test_a_wrong_folder_is_named_with_what_was_expected(tmp_path, path, found):
    touch(tmp_path, "file")
    with pytest.raises(UserError, match=rf"own: .*{found}.*\*\*/left/\*\.\*"):
        open_files("own", None if path is None else tmp_path / path, PAIR, decode, key="{frame}")


def test_a_key_may_be_made_of_the_same_fields_as_a_path(tmp_path):
    touch(tmp_path, "left/0.png", "right/0.png", "a/b/left/0.png", "a/b/right/0.png")
    assert keys(open_files("own", tmp_path, PAIR, decode, key="set/{scene:**}/{frame}")) == ["set/0", "set/a/b/0"]


def test_a_link_in_a_circle_ends(tmp_path):
    touch(tmp_path, "s/left/0.png", "s/right/0.png")
    (tmp_path / "s" / "again").symlink_to(tmp_path)
    assert keys(open_files("own", tmp_path, PAIR, decode, key="{scene}/{frame}")) == ["s/0"]


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path):
    touch(tmp_path, "s/left/0.png", "s/right/0.png")
    (tmp_path / "s" / "left" / "1.png").symlink_to("1.png")
    with pytest.raises(UserError, match=r"s/left/1\.png: cannot be looked at \(.*links"):
        open_files("own", tmp_path, PAIR, decode, key="{scene}/{frame}")


def test_keep_chooses_by_fields(tmp_path):
    touch(tmp_path, "a/left/0.png", "a/right/0.png", "b/left/0.png", "b/right/0.png")
    assert keys(open_files("own", tmp_path, PAIR, decode, key="{scene}", keep=lambda fields: fields["scene"] != "a")) == ["b"]


def test_chosen_values_take_part_and_must_be_there(tmp_path):
    touch(tmp_path, "a/left/0.png", "a/right/0.png", "b/left/0.png", "b/right/0.png", "b/right/1.png")
    assert keys(open_files("own", tmp_path, PAIR, decode, key="{scene}", choose={"scene": ["a"], "frame": None})) == ["a"]
    with pytest.raises(UserError, match=r"own: no scene 'c' under .*\(looked for \*\*/left/\*\.\*"):
        open_files("own", tmp_path, PAIR, decode, key="{scene}", choose={"scene": ["a", "c"]})


def test_a_note_is_what_its_sample_is_decoded_with(tmp_path):
    touch(tmp_path, "0.png", "1.png")

    def noted(files, note):
        return decode(files).replace(disparity=np.full((2, 3), note[0], np.float32), valid=np.ones((2, 3), bool))

    rows = [Row(name, {"left": f"{name}.png"}) for name in "01"]
    dataset = FileDataset("own", tmp_path, rows, noted, np.array([[1.5, 2], [3, 4]]))
    assert [dataset.load(i).disparity.max() for i in range(2)] == [1.5, 3]


def test_depth_is_in_the_calibration_of_its_own_size(tmp_path):
    write_image(tmp_path / "left.png", np.zeros((1, 2, 3), np.uint8))
    files = dict.fromkeys(("left", "right", "disparity", "disparity_right"), tmp_path / "left.png")
    calibration = Calibration(focal_px=100, baseline_m=0.5, size=(4, 2), doffs_px=2)  # at 2x1: 50 px and 1 px
    sample = read_depth_pair(files, lambda path: np.array([[2, 0]], np.float32), calibration).check()
    assert sample.disparity.tolist() == [[11.5, 0]] and sample.valid.tolist() == [[True, False]]
    assert sample.disparity_right is not None and sample.disparity_right.tolist() == [[11.5, 0]]
    assert sample.calibration is not None and (sample.calibration.focal_px, sample.calibration.size) == (50, (2, 1))


def test_broken_samples_are_named(tmp_path):
    touch(tmp_path, "left/0.png", "right/0.png")

    def other_sizes(files):
        return decode(files).replace(right=np.zeros((2, 4, 3), np.uint8))

    def right_view_of_another_size(files):
        return decode(files).replace(disparity_right=np.zeros((2, 4), np.float32))

    def broken(files):
        raise ValueError(f"{files['left']}: cut off")

    for function, message in (
        (other_sizes, r"own: 0: sizes differ: left 3x2, right 4x2, disparity 3x2"),
        (right_view_of_another_size, r"own: 0: sizes differ: .*disparity_right 4x2"),
        (broken, r"own: 0: .*left/0\.png: cut off"),
    ):
        with pytest.raises(SampleError, match=message):
            open_files("own", tmp_path, PAIR, function, key="{frame}").load(0)


def test_lines_are_what_was_put_in():
    texts = ["", "a", "größe/0001", "", "x\0y"]
    lines = Lines(texts)
    assert [lines[i] for i in range(len(lines))] == texts
