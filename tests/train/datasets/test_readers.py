"""Each encoding on a file a few pixels large, its values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from train.datasets.readers import encode_fsd, read_fsd_disparity, read_pfm_disparity, read_png16_disparity
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


@pytest.mark.data
def test_kitti_and_eth3d_originals(shared):
    formats = shared / "data" / "formats"
    disparity, valid = read_png16_disparity(formats / "kitti2012/training/disp_noc/000000_10.png", scale=256)
    assert valid.sum() == 159191 and disparity[valid].min() > 4.3 and disparity.max() < 70
    disparity, valid = read_pfm_disparity(formats / "eth3d/two_view_training_gt/terrace_2s/disp0GT.pfm")
    assert 0.52 < valid.mean() < 0.54 and disparity.max() < 17.5
