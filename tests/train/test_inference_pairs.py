"""Which files are a pair, by their names and never by their place in a list; and what has no partner is named."""

import numpy as np
import pytest

from tests.utils.test_video import write as write_video
from train.inference_pairs import halves, open_pairs
from utils.errors import UserError
from utils.images import write_image


def picture(path, value=0, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((size[1], size[0], 3), value, np.uint8))
    return str(path)


def values(pairs):
    return {pair.name: (int(pair.left[0, 0, 0]), int(pair.right[0, 0, 0])) for pair in pairs}


def test_two_files(tmp_path):
    pairs = open_pairs(picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2))
    assert len(pairs) == 1 and pairs.fps is None and values(pairs) == {"": (1, 2)}


def test_folders_by_the_names_of_their_files(tmp_path):
    for i, name in enumerate(("b", "a", "deep/a")):
        picture(tmp_path / f"left/{name}.png", i)
        picture(tmp_path / f"right/{name}.ppm", 10 + i)
    (tmp_path / "left" / "notes.txt").write_text("no picture")
    pairs = open_pairs(str(tmp_path / "left"), str(tmp_path / "right"))
    assert values(pairs) == {"a": (1, 11), "b": (0, 10), "deep/a": (2, 12)}
    assert [pair.name for pair in pairs] == ["a", "b", "deep/a"]


def test_names_that_say_the_eye(tmp_path):
    for i in range(3):
        picture(tmp_path / f"left/{i:03d}_left.png", i)
        picture(tmp_path / f"right/R_{i:03d}.png", 10 + i)
    assert values(open_pairs(str(tmp_path / "left"), str(tmp_path / "right"))) == {"000": (0, 10), "001": (1, 11), "002": (2, 12)}


def test_patterns_by_what_their_wildcards_stand_for(tmp_path):
    for i, scene in enumerate(("pipes", "art")):
        picture(tmp_path / scene / "im0.png", i)
        picture(tmp_path / scene / "im1.png", 10 + i)
        (tmp_path / scene / "calib.txt").write_text("here")
    root = str(tmp_path)
    pairs = open_pairs(f"{root}/*/im0.png", f"{root}/*/im1.png", calibration=f"{root}/*/calib.txt")
    assert values(pairs) == {"art": (1, 11), "pipes": (0, 10)}
    assert [pair.calibration for pair in pairs] == [tmp_path / "art" / "calib.txt", tmp_path / "pipes" / "calib.txt"]
    (tmp_path / "art" / "calib.txt").unlink()
    with pytest.raises(UserError, match="none for art; expected the wildcards of --left"):
        open_pairs(f"{root}/*/im0.png", f"{root}/*/im1.png", calibration=f"{root}/*/calib.txt")


def test_side_by_side_is_cut_in_the_middle(tmp_path):
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 5:] = 9
    left, right = halves(wide, "here")
    assert left.shape == right.shape == (4, 5, 3) and not left.any() and (right == 9).all()
    with pytest.raises(UserError, match="here: 9 pixels wide"):
        halves(wide[:, :9], "here")
    for name in ("x", "y"):
        write_image(tmp_path / f"{name}.png", wide)
    assert values(open_pairs(side_by_side=str(tmp_path))) == {"x": (0, 9), "y": (0, 9)}
    assert values(open_pairs(side_by_side=str(tmp_path / "x.png"))) == {"": (0, 9)}


def frame(value, width=64):
    return np.full((48, width, 3), value, np.uint8)


def test_videos_frame_by_frame(tmp_path):
    left = write_video(tmp_path / "left.mkv", [frame(10 * i) for i in range(4)])
    right = write_video(tmp_path / "right.mkv", [frame(10 * i + 5) for i in range(4)])
    pairs = open_pairs(str(left), str(right), calibration="c.txt")
    assert len(pairs) == 4 and pairs.fps == 10 and next(iter(pairs)).calibration.name == "c.txt"
    assert values(pairs) == {f"{i:06d}": (10 * i, 10 * i + 5) for i in range(4)}
    both = write_video(tmp_path / "both.mkv", [np.hstack([frame(10 * i), frame(10 * i + 5)]) for i in range(4)])
    assert values(open_pairs(side_by_side=str(both))) == values(pairs)


def test_a_video_that_ends_early_is_named_after_its_last_frame(tmp_path):
    left = write_video(tmp_path / "left.mkv", [frame(0)] * 4)
    with pytest.raises(UserError, match=r"left\.mkv has 4 frames, .*right\.mkv 3; expected videos of the same length"):
        open_pairs(str(left), str(write_video(tmp_path / "right.mkv", [frame(0)] * 3)))
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(30)]
    whole = write_video(tmp_path / "whole.avi", noise)
    content = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: len(content) // 2])
    pairs = open_pairs(str(whole), str(cut))
    seen = []
    with pytest.raises(UserError, match=r"cut\.avi: ended after \d+ frames, expected 30; .* what was found up to here is kept"):
        seen.extend(pairs)
    assert 5 < len(seen) < 25


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ("none.png", "a.png", "--left .*none.png: no such file or folder"),
        ("empty", "left", "--left .*empty: no picture found"),
        ("gone/*.png", "right/*.png", r"--left .*: no picture found; expected files such as 0000.png below .*gone"),
        ("left", "right", r"left \(3 files\) and .*right \(2\) do not pair: .*left.c.png has no right view; give both"),
        ("a.png", "right", "do not pair"),
        ("left/[ab].png", "right/[ab].png", "no such file or folder"),
        ("twice", "left", "two files for 'a'; remove one"),
        ("a.png", "large.png", r"a.png and .*large.png: 8 x 6 and 9 x 6; the views of a pair have one size"),
        ("a.png", "broken.png", "broken.png: the PNG is cut off"),
        ("a.mp4", "a.png", "expected two videos, or no video at all"),
        ("none.mp4", "none.mp4", "none.mp4: no such file; expected a video"),
        ("a.png", "a.png", r"a\.png would be both views of a pair; .* such as '\*_left\.png' and '\*_right\.png'"),
        ("left", "left", r"left.a\.png would be both views of a pair"),
        ("a.png", "link.png", r"a\.png would be both views of a pair"),
        ("same.mp4", "same.mp4", r"same\.mp4 would be both views of a pair"),
        (None, "a.png", "--left: not given; pass --left and --right"),
    ],
)
def test_what_is_no_pair_is_one_line(tmp_path, left, right, said):
    picture(tmp_path / "a.png")
    picture(tmp_path / "large.png", size=(9, 6))
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    for name in ("left/a.png", "left/b.png", "left/c.png", "right/a.png", "right/b.png", "twice/a.png", "twice/a.ppm"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "same.mp4").write_bytes(b"")
    paths = [None if spec is None else str(tmp_path / spec) for spec in (left, right)]
    with pytest.raises(UserError, match=said) as caught:
        list(open_pairs(*paths))
    assert "\n" not in str(caught.value)


def test_both_ways_at_once_are_refused(tmp_path):
    with pytest.raises(UserError, match="--left and --right do not go with it"):
        open_pairs("a", "b", side_by_side="c")
