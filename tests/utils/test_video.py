"""Videos there and back, what a damaged one says, and that nothing else is printed."""

import numpy as np
import pytest

from tests.hostile import full_disk
from utils.errors import UserError
from utils.video import VideoReader, VideoWriter, is_video


def frames(count=5, height=48, width=64):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def write(path, pictures, fps=10):
    with VideoWriter(path, fps) as video:
        for picture in pictures:
            video.write(picture)
    return path


def test_without_loss_a_video_is_its_frames(tmp_path):
    pictures = frames()
    with VideoReader(write(tmp_path / "v.mkv", pictures)) as video:
        found = list(video)
        assert (video.frames, video.fps) == (5, 10)
    assert all((first == second).all() for first, second in zip(found, pictures, strict=True))


def test_colours_keep_their_order(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    for suffix in (".mp4", ".avi"):
        (found,) = VideoReader(write(tmp_path / f"v{suffix}", [red]))
        assert found[..., 0].mean() > 150 and found[..., 1:].mean() < 50


def test_videos_are_known_by_their_suffix(tmp_path):
    assert is_video(tmp_path / "a.MP4") and not is_video(tmp_path / "a.png")


def test_bad_videos_are_one_line(tmp_path, capfd):
    whole = write(tmp_path / "whole.mp4", frames(20)).read_bytes()
    for name, content, said in (("cut.mp4", whole[:300], "cannot be opened"), ("empty.avi", b"", "cannot be opened")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: {said}"):
            VideoReader(tmp_path / name)
    with pytest.raises(UserError, match=r"none\.mp4: no such file"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(UserError, match=r"v\.gif: cannot be written as \.gif; expected one of \.mp4"):
        VideoWriter(tmp_path / "v.gif", 10)
    with pytest.raises(UserError, match=r"cannot be written as a video of 64 x 48; is the folder there"):
        write(tmp_path / "nowhere" / "v.mkv", frames(1))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_video_that_a_full_disk_cuts_off_is_one_line(tmp_path, capfd, suffix):
    def write_and_fail():
        with VideoWriter(path, 10) as video:
            for picture in pictures:
                video.write(picture)
            raise ZeroDivisionError

    path, pictures = tmp_path / f"v{suffix}", frames(40)
    size = write(path, pictures).stat().st_size
    for limit in (size // 2, size - 6000):  # before and after the last time that the encoder's buffer is full
        with full_disk(limit):
            with pytest.raises(UserError, match=rf"v\{suffix}: holds \d+ of 40 frames; most likely the disk is full: make room"):
                write(path, pictures)
            with pytest.raises(ZeroDivisionError):  # which is not hidden
                write_and_fail()
    assert capfd.readouterr() == ("", "")
