"""Each encoding on a file a few pixels large, its values worked out by hand."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from train.datasets.readers import (
    depth_disparity,
    encode_fsd,
    read_array,
    read_exr,
    read_fsd_disparity,
    read_grey8_disparity,
    read_half_depth,
    read_headless,
    read_mask,
    read_nocc_mask,
    read_npy_disparity,
    read_number,
    read_pfm_disparity,
    read_png16_depth,
    read_png16_disparity,
    read_sintel_disparity,
    read_spring_disparity,
)
from utils.calibration import Calibration
from utils.errors import UserError
from utils.images import write_image
from utils.pfm import write_pfm


def test_fsd_is_base_255_in_the_order_red_green_blue(tmp_path):
    path = tmp_path / "0000.png"
    Image.fromarray(np.array([[[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [2, 3, 4]]], np.uint8)).save(path)
    disparity, valid = read_fsd_disparity(path)
    # 255^0, 255^1 and 255^2 thousandths; 2 * 65025 + 3 * 255 + 4. With base 256 the second would be 0.256.
    assert disparity.dtype == np.float32 and disparity[0] == pytest.approx([0.001, 0.255, 65.025, 0, 130.819])
    assert (valid == [[True, True, True, False, True]]).all()


@given(st.lists(st.floats(0.001, 16_000), min_size=1, max_size=8))
def test_fsd_round_trip_to_half_of_a_thousandth(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("fsd") / "a.png"
    disparity = np.array([values])
    write_image(path, encode_fsd(disparity))
    decoded, valid = read_fsd_disparity(path)
    assert valid.all() and np.abs(decoded - disparity).max() <= 0.0005 + np.spacing(decoded.max())


def test_fsd_encodes_unknown_as_zero_and_refuses_what_does_not_fit():
    assert (encode_fsd(np.array([[np.inf, np.nan, -3.0, 0.0]])) == 0).all()
    with pytest.raises(ValueError, match="16646"):
        encode_fsd(np.array([[20000.0]]))


def test_fsd_of_the_wrong_kind_is_named(tmp_path):
    write_image(tmp_path / "grey.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(ValueError, match=r"grey\.png.*8-bit RGB.*uint16"):
        read_fsd_disparity(tmp_path / "grey.png")


def test_pfm_takes_inf_nan_and_zero_as_unknown(tmp_path):
    write_pfm(tmp_path / "a.pfm", np.array([[1.5, np.inf], [np.nan, 0], [-2, 300]], np.float32))
    disparity, valid = read_pfm_disparity(tmp_path / "a.pfm")
    assert (disparity == [[1.5, 0], [0, 0], [0, 300]]).all() and (valid == (disparity > 0)).all() and valid.dtype == bool


def test_png16_divides_by_its_scale(tmp_path):
    write_image(tmp_path / "a.png", np.array([[0, 256, 12345, 65535]], np.uint16))
    disparity, valid = read_png16_disparity(tmp_path / "a.png", scale=256)
    assert disparity.dtype == np.float32 and (disparity == [[0, 1, 48.22265625, 255.99609375]]).all()
    assert (valid == [[False, True, True, True]]).all()
    write_image(tmp_path / "b.png", np.zeros((1, 4), np.uint8))
    with pytest.raises(ValueError, match=r"b\.png.*16-bit"):
        read_png16_disparity(tmp_path / "b.png", scale=256)


def test_pfm_is_bottom_up_and_its_scale_is_no_factor(tmp_path):
    # As SceneFlow writes it, with blanks after the first two lines; rows 1 2 and 3 4 in the file are the lower and the upper one.
    for name, header, order in (("little.pfm", b"Pf \n2 2 \n-0.5\n", "<f4"), ("big.pfm", b"Pf\n2 2\n4\n", ">f4")):
        (tmp_path / name).write_bytes(header + np.array([1, 2, 3, 4], order).tobytes())
        assert read_pfm_disparity(tmp_path / name)[0].tolist() == [[3, 4], [1, 2]]


def test_pfm_with_signs_is_taken_by_its_size(tmp_path):
    write_pfm(tmp_path / "a.pfm", np.array([[-1.5, 2, 0, -np.inf, np.nan]], np.float32))
    disparity, valid = read_pfm_disparity(tmp_path / "a.pfm", signed=True)
    assert disparity.tolist() == [[1.5, 2, 0, 0, 0]] and valid.tolist() == [[True, True, False, False, False]]


def test_sintel_is_cast_before_it_is_multiplied(tmp_path):
    write_image(tmp_path / "a.png", np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [100, 128, 64]]], np.uint8))
    disparity, valid = read_sintel_disparity(tmp_path / "a.png")
    # 400 + 2 + 64 / 16384; as bytes 4 * 100 would be 144
    assert disparity.tolist() == [[0, 4, 2**-6, 2**-14, 402.00390625]] and disparity.dtype == np.float32
    assert valid.tolist() == [[False, True, True, True, True]]
    write_image(tmp_path / "b.png", np.zeros((1, 4), np.uint8))
    with pytest.raises(ValueError, match=r"b\.png: expected an 8-bit RGB PNG with disparity coded as in Sintel"):
        read_sintel_disparity(tmp_path / "b.png")


@pytest.mark.parametrize(("scale", "decoded"), [(32, [0, 0.03125, 1, 3.125]), (100, [0, 0.01, 0.32, 1])])
def test_crestereo_and_instereo2k_have_their_own_scales(tmp_path, scale, decoded):
    write_image(tmp_path / "a.png", np.array([[0, 1, 32, 100]], np.uint16))
    disparity, valid = read_png16_disparity(tmp_path / "a.png", scale)
    assert disparity[0].tolist() == pytest.approx(decoded) and valid.tolist() == [[False, True, True, True]]


def test_the_ends_of_16_bit_depth_are_unknown(tmp_path):
    write_image(tmp_path / "a.png", np.array([[0, 1, 12345, 65534, 65535]], np.uint16))
    for unit_m, metres in ((1e-4, [0, 1e-4, 1.2345, 6.5534, 0]), (0.01, [0, 0.01, 123.45, 655.34, 0])):
        depth = read_png16_depth(tmp_path / "a.png", unit_m)
        assert depth.dtype == np.float32 and depth[0].tolist() == pytest.approx(metres)


def test_half_depth_is_bits_and_not_a_number(tmp_path):
    # 0x3C00 is 1.0, 0x4248 3.140625, 0x0001 the smallest float16 6e-8, 0x7C00 inf, 0x7E00 nan, 0xBC00 -1.0
    write_image(tmp_path / "a.png", np.array([[0, 0x3C00, 0x4248, 0x0001, 0x7C00, 0x7E00, 0xBC00]], np.uint16))
    depth = read_half_depth(tmp_path / "a.png")
    assert depth.dtype == np.float32 and depth.tolist() == [[0, 1, 3.140625, 0, np.inf, 0, 0]]


def test_bare_bytes_are_blue_green_red(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(range(18)))
    picture = read_headless(tmp_path / "a.raw", (3, 2))
    assert picture.shape == (2, 3, 3) and picture[0, 1].tolist() == [5, 4, 3] and picture[1, 0].tolist() == [11, 10, 9]
    with pytest.raises(ValueError, match=r"a\.raw: expected 4x2 pixels of three bytes, found 18 bytes"):
        read_headless(tmp_path / "a.raw", (4, 2))


def test_npy_takes_inf_nan_and_what_is_not_positive_as_unknown(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.5, np.inf, np.nan, 0, -2, 600]]))
    disparity, valid = read_npy_disparity(tmp_path / "a.npy")
    assert disparity.tolist() == [[1.5, 0, 0, 0, 0, 600]] and disparity.dtype == np.float32 and (valid == (disparity > 0)).all()


def test_spring_is_every_second_value_as_it_is(tmp_path):
    h5py = pytest.importorskip("h5py")
    stored = np.array([[1.5, 9, np.nan, 9], [9, 9, 9, 9], [0, 9, 1800, 9], [9, 9, 9, 9]], np.float32)
    with h5py.File(tmp_path / "a.dsp5", "w") as file:
        file["disparity"] = stored
    disparity, valid = read_spring_disparity(tmp_path / "a.dsp5")
    # in pixels of the images already: halving the values with the size would give 0.75 and 900
    assert disparity.tolist() == [[1.5, 0], [0, 1800]] and valid.tolist() == [[True, False], [False, True]]
    with h5py.File(tmp_path / "flow.dsp5", "w") as file:
        file["flow"] = stored
    (tmp_path / "text.dsp5").write_text("no HDF5")
    for name in ("flow", "text"):
        with pytest.raises(ValueError, match=rf"{name}\.dsp5: expected HDF5 with 'disparity'"):
            read_spring_disparity(tmp_path / f"{name}.dsp5")
    with pytest.raises(OSError, match=r"none\.dsp5"):
        read_spring_disparity(tmp_path / "none.dsp5")


@pytest.mark.parametrize("name", ["a.png", "a.pgm"])
def test_grey8_divides_by_its_scale(tmp_path, name):
    write_image(tmp_path / name, np.array([[0, 1, 8, 255]], np.uint8))
    disparity, valid = read_grey8_disparity(tmp_path / name, scale=8)
    assert disparity.tolist() == [[0, 0.125, 1, 31.875]] and valid.tolist() == [[False, True, True, True]]
    write_image(tmp_path / "b.png", np.zeros((1, 4), np.uint16))
    with pytest.raises(ValueError, match=r"b\.png.*8-bit.*uint16"):
        read_grey8_disparity(tmp_path / "b.png", scale=8)


def test_in_a_nocc_mask_128_is_occluded_and_nothing_else(tmp_path):
    write_image(tmp_path / "mask0nocc.png", np.array([[0, 128, 255]], np.uint8))
    assert read_nocc_mask(tmp_path / "mask0nocc.png").tolist() == [[False, True, False]]
    write_image(tmp_path / "other.png", np.array([[0, 1, 255]], np.uint8))
    with pytest.raises(ValueError, match=r"other\.png: expected an 8-bit mask of 0, 128 and 255"):
        read_nocc_mask(tmp_path / "other.png")


def test_masks_are_whatever_is_not_zero(tmp_path):
    write_image(tmp_path / "grey.png", np.array([[0, 1, 255]], np.uint8))
    write_image(tmp_path / "colour.png", np.array([[[0, 0, 0], [0, 7, 0], [0, 0, 1]]], np.uint8))
    np.save(tmp_path / "array.npy", np.array([[False, True, True]]))
    for name in ("grey.png", "colour.png", "array.npy"):
        assert read_mask(tmp_path / name).tolist() == [[False, True, True]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_the_alpha_of_a_mask_is_no_part_of_it(tmp_path, mode):
    image = Image.fromarray(np.array([[0, 255, 1]], np.uint8)).convert(mode)
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[False, True, True]]


def test_what_float32_cannot_hold_is_unknown(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1e300, 2, 1e-300]]))
    disparity, valid = read_npy_disparity(tmp_path / "a.npy")
    assert disparity.tolist() == [[0, 2, 0]] and valid.tolist() == [[False, True, False]]


def test_arrays_are_read_as_stored(tmp_path):
    values = np.array([[0, 1.25, -3], [1, 2, 3]])
    np.save(tmp_path / "half.npy", values[None].astype(np.float16))
    np.save(tmp_path / "last.npy", values[..., None])
    np.savez(tmp_path / "one.npz", disparity=values)
    np.savez(tmp_path / "two.npz", disparity=values, valid=values > 0)
    for array in (
        read_array(tmp_path / "half.npy"),
        read_array(tmp_path / "last.npy"),
        read_array(tmp_path / "one.npz"),
        read_array(tmp_path / "two.npz", "disparity"),
    ):
        assert array.tolist() == values.tolist()


def test_arrays_that_cannot_be_read_are_named(tmp_path):
    np.savez(tmp_path / "two.npz", disparity=np.zeros((1, 2)), valid=np.ones((1, 2)))
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(3))
    (tmp_path / "empty.npy").touch()
    for name, old, new in (("huge", b"(3,)", b"(9000000000000,)"), ("open", b"{", b"(")):
        (tmp_path / f"{name}.npy").write_bytes(
            (tmp_path / "line.npy").read_bytes().replace(old, new).replace(b" " * (len(new) - 4), b"", 1)
        )
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:-30])
    for name, entry, said in (
        ("two.npz", None, "holds disparity, valid; say which"),
        ("two.npz", "depth", "has no 'depth'; it holds disparity, valid"),
        ("object.npy", None, "allow_pickle"),
        ("line.npy", None, r"expected numbers \(H, W\), found float64 \(3,\)"),
        ("empty.npy", None, ""),
        ("cut.npz", None, ""),
        ("huge.npy", None, "allocate"),
        ("open.npy", None, "EOF|parse"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: .*{said}"):
            read_array(tmp_path / name, entry)


def write_exr(path, **channels):
    openexr = pytest.importorskip("OpenEXR")
    with openexr.File({"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}, channels) as file:
        file.write(str(path))


def test_exr_is_its_only_channel_or_the_one_that_is_named(tmp_path):
    values = np.array([[1.5, 2], [np.inf, 0]], np.float32)
    write_exr(tmp_path / "one.exr", Y=values)
    write_exr(tmp_path / "half.exr", R=values.astype(np.float16), G=values.astype(np.float16) + 1)
    assert (read_exr(tmp_path / "one.exr") == values).all() and (read_exr(tmp_path / "half.exr", "G") == values + 1).all()
    with pytest.raises(ValueError, match=r"half\.exr: holds the channels G, R; expected one of them to be named"):
        read_exr(tmp_path / "half.exr")
    (tmp_path / "cut.exr").write_bytes((tmp_path / "one.exr").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut\.exr: cannot be decoded as EXR"):
        read_exr(tmp_path / "cut.exr")
    with pytest.raises(OSError, match=r"none\.exr"):
        read_exr(tmp_path / "none.exr")


@pytest.mark.parametrize(("read", "package"), [(read_exr, "OpenEXR"), (read_spring_disparity, "h5py")])
def test_a_missing_package_is_named_with_how_to_install_it(tmp_path, monkeypatch, read, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"a\.file: needs a package that is not installed; pip install {package}, or uv run --extra "):
        read(tmp_path / "a.file")


def test_a_number_is_all_that_its_file_holds(tmp_path):
    (tmp_path / "dmin.txt").write_text(" 270\n")
    (tmp_path / "other.txt").write_text("270 px")
    assert read_number(tmp_path / "dmin.txt") == 270
    with pytest.raises(ValueError, match=r"other\.txt: expected one number"):
        read_number(tmp_path / "other.txt")


def test_depth_becomes_disparity_with_the_offset_of_the_principal_points():
    depth = np.array([[0, 2, 4, np.inf, np.nan, 1000]], np.float32)  # 100 px * 0.5 m / depth - 2 px
    disparity, valid = depth_disparity(depth, Calibration(focal_px=100, baseline_m=0.5, size=(6, 1), doffs_px=2))
    assert disparity.tolist() == [[0, 23, 10.5, 0, 0, 0]] and valid.tolist() == [[False, True, True, False, False, False]]
    assert disparity.dtype == np.float32


@pytest.mark.data
def test_kitti_and_eth3d_originals(shared):
    formats = shared / "data" / "formats"
    disparity, valid = read_png16_disparity(formats / "kitti2012/training/disp_noc/000000_10.png", scale=256)
    assert valid.sum() == 159191 and disparity[valid].min() > 4.3 and disparity.max() < 70
    disparity, valid = read_pfm_disparity(formats / "eth3d/two_view_training_gt/terrace_2s/disp0GT.pfm")
    assert 0.52 < valid.mean() < 0.54 and disparity.max() < 17.5
