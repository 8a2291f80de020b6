"""Archives as the servers want them, read back by code that is not ours, and what they would refuse."""

import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from train.submission import BENCHMARKS, list_pairs, write_submission
from utils.errors import UserError
from utils.images import write_image

PICTURE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
DISPARITY = np.array([[0, 0.001, 1, 2.5, 100.25, 255]] * 4, np.float32)
PLACES = {
    "kitti2012": ["testing/colored_{view}/{n:06d}_10.png"],
    "kitti2015": ["testing/image_{kitti}/{n:06d}_10.png", "testing/image_{kitti}/{n:06d}_11.png"],
    "middeval3": ["trainingH/s{n}/im{view}.png", "testH/t{n}/im{view}.png", "trainingQ/s{n}/im{view}.png"],
    "eth3d": ["two_view_training/s{n}/im{view}.png", "two_view_testing/t{n}/im{view}.png"],
}
EXPECTED = {
    "kitti2012": ["000000_10.png", "000001_10.png"],
    "kitti2015": ["disp_0/000000_10.png", "disp_0/000001_10.png"],
    "middeval3": [
        f"{scene}/{file}"
        for scene in ("testH/t0", "testH/t1", "trainingH/s0", "trainingH/s1")
        for file in ("disp0Ours.pfm", "timeOurs.txt")
    ],
    "eth3d": [f"low_res_two_view/{name}{n}.{suffix}" for name in "st" for n in (0, 1) for suffix in ("pfm", "txt")],
}  # fmt: skip


@pytest.fixture
def images(tmp_path):
    def write(benchmark):
        for place in PLACES[benchmark]:
            for view in (0, 1):
                for n in (0, 1):
                    path = tmp_path / benchmark / place.format(view=view, kitti=view + 2, n=n)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_image(path, PICTURE + view)
        return tmp_path / benchmark

    return write


def decode(name, data):
    """Disparity by Pillow, and PFM by the words of its description."""
    if name.endswith(".png"):
        image = Image.open(io.BytesIO(data))
        assert image.mode in ("I;16", "I")
        return np.asarray(image).astype(np.float64) / 256
    kind, size, scale, values = data.split(b"\n", 3)
    width, height = map(int, size.split())
    assert kind == b"Pf" and float(scale) < 0
    rows = struct.unpack(f"<{width * height}f", values)
    return np.array(rows).reshape(height, width)[::-1]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_an_archive_holds_what_the_server_asks_for(images, tmp_path, benchmark):
    pairs = list_pairs(benchmark, images(benchmark), partial=True)
    write_submission(benchmark, pairs, lambda left, right: DISPARITY + (left != PICTURE).any(), tmp_path / "out.zip", "Ours")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == sorted(EXPECTED[benchmark]) and archive.testzip() is None
        for name in archive.namelist():
            if name.endswith(".txt"):
                text = archive.read(name).decode()
                assert float(text.removeprefix("runtime ")) >= 0 and text.startswith("runtime ") == (benchmark == "eth3d")
                continue
            found = decode(name, archive.read(name))
            assert found.shape == (4, 6)
            if name.endswith(".png"):
                assert found.min() == 1 / 256  # 0 would mean that nothing was estimated
            assert np.abs(found - DISPARITY).max() <= 1 / 256


def test_kitti_2012_takes_grey_images_where_there_are_no_others(images):
    root = images("kitti2012")
    for view in (0, 1):
        (root / f"testing/colored_{view}").rename(root / f"testing/image_{view}")
    assert [pair.left.parent.name for pair in list_pairs("kitti2012", root, partial=True)] == ["image_0", "image_0"]


def test_another_number_of_pairs_is_refused(images):
    root = images("kitti2015")
    with pytest.raises(UserError, match=r"found 2 pairs \(looked for testing/image_2.*holds 200; .*--partial"):
        list_pairs("kitti2015", root)
    with pytest.raises(UserError, match="found 0 pairs"):
        list_pairs("eth3d", root, partial=True)
    with pytest.raises(UserError, match="no such folder"):
        list_pairs("eth3d", root / "absent")
    (root / "testing/image_3/000001_10.png").unlink()
    with pytest.raises(UserError, match=r"000001_10\.png: the other view is missing"):
        list_pairs("kitti2015", root, partial=True)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.where(DISPARITY == 1, np.nan, DISPARITY), "4 predicted values are not finite"),
        (DISPARITY - 1, "negative"),
        (DISPARITY[:, :5], "the prediction is 5x4, the image 6x4"),
        (DISPARITY * 2, "disparity 510 does not fit"),
    ],
)
def test_what_the_server_would_refuse_leaves_no_archive(images, tmp_path, prediction, message):
    pairs = list_pairs("kitti2015", images("kitti2015"), partial=True)
    with pytest.raises(UserError, match=message):
        write_submission("kitti2015", pairs, lambda left, right: prediction, tmp_path / "out.zip", "Ours")
    assert not list(tmp_path.glob("*.zip*"))


@pytest.mark.parametrize(("broken", "message"), [("cut", "the PNG is cut off; restore"), ("size", "are 6x4 and 5x4; expected two views")])
def test_pictures_are_read_before_anything_is_predicted(images, tmp_path, broken, message):
    pairs = list_pairs("kitti2015", images("kitti2015"), partial=True)
    if broken == "cut":
        pairs[-1].right.write_bytes(pairs[-1].right.read_bytes()[:60])
    else:
        write_image(pairs[-1].right, PICTURE[:, :5])
    with pytest.raises(UserError, match=message):
        write_submission("kitti2015", pairs, lambda left, right: pytest.fail("predicted"), tmp_path / "out.zip", "Ours")


def test_nothing_is_overwritten_and_names_are_names(images, tmp_path):
    pairs = list_pairs("kitti2015", images("kitti2015"), partial=True)
    (tmp_path / "there.zip").write_text("x")
    for target, method, message in (
        ("there.zip", "Ours", "exists already"),
        ("a.tar", "Ours", r"is no \.zip"),
        ("a.zip", "a/b", "--method"),
    ):
        with pytest.raises(UserError, match=message):
            write_submission("kitti2015", pairs, lambda left, right: DISPARITY, tmp_path / target, method)


def test_the_command(images, tmp_path):
    from click.testing import CliRunner

    from scripts.submit import main

    options = ["kitti2015", "--checkpoint", "sgbm", "--data_root", str(images("kitti2015")), "--output", str(tmp_path / "out.zip")]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2 and result.output.startswith("error: ") and "--partial" in result.output
    for path in (tmp_path / "kitti2015").rglob("*.png"):
        write_image(path, np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    result = CliRunner().invoke(main, [*options, "--partial"])
    assert result.exit_code == 0 and "2 pairs of kitti2015" in result.output, result.output
