"""The FSD layout: what is found, under which names, and what is said when it is not there."""

import time

import numpy as np
import pytest

from tests.fsd_layout import write_pair, write_real_pairs
from train.datasets import SampleError, build_dataset
from utils.errors import UserError
from utils.geometry import warp_right

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
DISPARITY = np.linspace(0, 4.7, 48).reshape(6, 8)


def fsd(path, **params):
    return build_dataset("fsd", path, params, "data.datasets[0]")


def add(folder, *names):
    for name in names:
        write_pair(folder, name, IMAGE, IMAGE[:, ::-1].copy(), DISPARITY)


def keys(dataset):
    return [dataset.key(i) for i in range(len(dataset))]


def test_pairs_directly_under_the_path(tmp_path):
    add(tmp_path, "0001", "0000")
    dataset = fsd(tmp_path)
    assert keys(dataset) == ["0000", "0001"] and not dataset.has_right_disparity
    sample = dataset.load(0).check()
    assert (sample.left == IMAGE).all() and (sample.right == IMAGE[:, ::-1]).all() and sample.key == "0000"
    assert sample.disparity == pytest.approx(DISPARITY, abs=5.1e-4) and (sample.valid == (DISPARITY > 0)).all()


def test_scenes_at_any_depth_and_names_that_do_not_move(tmp_path):
    add(tmp_path / "b" / "dataset" / "data", "0000")
    add(tmp_path / "left" / "a", "left")  # folders called like ours, higher up and as a name
    before = keys(fsd(tmp_path))
    assert before == ["b/dataset/data/0000", "left/a/left"]
    add(tmp_path / "aa" / "dataset" / "data", "0007")
    add(tmp_path, "first")
    after = keys(fsd(tmp_path))
    assert set(before) < set(after) and len(after) == 4
    assert all(fsd(tmp_path).load(i).key == key for i, key in enumerate(after))


def test_jpg_and_png_may_be_mixed_and_strangers_are_ignored(tmp_path):
    add(tmp_path, "0000", "0001")
    (tmp_path / "left/rgb/0000.png").rename(tmp_path / "left/rgb/0000.PNG")
    for stranger in ("Thumbs.db", "._0001.png", "list.txt"):
        (tmp_path / "left/rgb" / stranger).write_bytes(b"x")
    assert [fsd(tmp_path).load(i).check().key for i in range(2)] == ["0000", "0001"]
    (tmp_path / "left/rgb/0001.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"left/rgb/0001\.jpg and left/rgb/0001\.png are two files for one place"):
        fsd(tmp_path)


def test_max_disparity_makes_the_rest_unknown(tmp_path):
    add(tmp_path, "0000")
    sample = fsd(tmp_path, max_disparity=2.0).load(0).check()
    assert 1.85 < sample.disparity.max() < 2 and (sample.valid == (DISPARITY > 0) & (DISPARITY < 2)).all()


def test_missing_and_empty_folders_say_how_to_lay_the_data_out(tmp_path):
    (tmp_path / "file").touch()
    for path, found in (
        (tmp_path / "no", "no such folder"),
        (tmp_path / "file", "is a file"),
        (tmp_path, "no sample under"),
        (None, "no path"),
    ):
        with pytest.raises(UserError) as error:
            fsd(path)
        message = str(error.value)
        assert message.startswith("fsd: ") and found in message and "\n" not in message
        for expected in ("left/rgb", "right/rgb", "left/disparity", "--config quickstart.json"):
            assert expected in message


def test_unpaired_files_are_counted_and_named(tmp_path):
    add(tmp_path / "s", "0000", "0001", "0002", "0003", "0004")
    (tmp_path / "s/right/rgb/0001.png").unlink()
    (tmp_path / "s/left/disparity/0001.png").unlink()
    (tmp_path / "s/left/rgb/0002.png").unlink()
    with pytest.raises(UserError) as error:
        fsd(tmp_path)
    message = str(error.value)
    assert "3 unpaired files beside 3 complete samples" in message and "s/left/rgb/0001.png has no right and no disparity" in message
    assert "s/left/disparity/0002.png has no left" in message and "s/right/rgb/0002.png has no left" in message
    assert "allow_unpaired" in message
    assert keys(fsd(tmp_path, allow_unpaired=True)) == ["s/0000", "s/0003", "s/0004"]


def test_only_left_images_is_an_error_even_when_unpaired_files_are_allowed(tmp_path):
    add(tmp_path, *"abcde")
    for name in "abcde":
        (tmp_path / f"right/rgb/{name}.png").unlink()
    for allow in (False, True):
        with pytest.raises(UserError, match=r"5 unpaired files beside 0 complete samples: left/rgb/a\.png has no right, .*and 3 more"):
            fsd(tmp_path, allow_unpaired=allow)


def test_broken_samples_are_named_and_do_not_stop_the_listing(tmp_path):
    add(tmp_path, "cut", "odd", "gone")
    dataset = fsd(tmp_path)
    cut = tmp_path / "right/rgb/cut.png"
    cut.write_bytes(cut.read_bytes()[:60])
    write_pair(tmp_path, "odd", IMAGE, IMAGE[:4], DISPARITY)
    (tmp_path / "left/disparity/gone.png").unlink()
    for i, said in enumerate((r"cut\.png.*cut off", r"gone\.png", "sizes differ: left 8x6, right 8x4, disparity 8x6")):
        with pytest.raises(SampleError, match=said):
            dataset.load(i)


def test_parameters_are_checked_with_their_place(tmp_path):
    with pytest.raises(UserError, match=r"data\.datasets\[0\]\.max_disparty: unknown key; did you mean 'max_disparity'"):
        fsd(tmp_path, max_disparty=3)
    with pytest.raises(UserError, match="unknown data set type 'fds'; did you mean 'fsd'"):
        build_dataset("fds", tmp_path, {}, "data.datasets[0]")


def test_a_link_in_a_circle_is_walked_once(tmp_path):
    add(tmp_path / "scene", "0000")
    (tmp_path / "scene" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert keys(fsd(tmp_path)) == ["scene/0000"]


def test_listing_touches_no_file(tmp_path):
    for side in ("left/rgb", "right/rgb", "left/disparity"):
        (tmp_path / side).mkdir(parents=True)
        for number in range(2000):
            (tmp_path / side / f"{number:06d}.png").touch()
    start = time.process_time()
    assert len(fsd(tmp_path)) == 2000
    assert time.process_time() - start < 1  # 15 ms; a second leaves room for a busy machine


@pytest.mark.data
def test_real_pairs_written_in_this_layout_are_read_back_right(shared, tmp_path):
    assert write_real_pairs(shared, tmp_path) == 18
    dataset = fsd(tmp_path)
    assert len(dataset) == 18 and dataset.key(0) == "adirondack/dataset/data/0000"
    for i in range(0, 18, 4):
        sample = dataset.load(i).check()
        errors = []
        for disparity in (sample.disparity, np.zeros_like(sample.disparity), 0.5 * sample.disparity):
            warped, inside = warp_right(sample.right, disparity)
            errors.append(np.abs(warped - sample.left)[sample.valid & inside].mean())
        assert errors[0] < 0.75 * min(errors[1:]), sample.key
