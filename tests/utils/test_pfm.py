"""Float maps byte by byte: order of rows, order of bytes, headers as the data sets write them."""

import struct

import numpy as np
import pytest

from utils.pfm import read_pfm, write_pfm


@pytest.mark.parametrize(("scale", "order"), [("-1", "<"), ("-0.003922", "<"), ("1.0", ">")])
def test_rows_go_from_bottom_to_top_and_only_the_sign_of_the_scale_counts(tmp_path, scale, order):
    path = tmp_path / "a.pfm"
    path.write_bytes(f"Pf\n2 3\n{scale}\n".encode() + struct.pack(f"{order}6f", 1, 2, 3, 4, 5, 6))
    values = read_pfm(path)
    assert values.dtype == np.float32 and values.flags.c_contiguous
    assert (values == [[5, 6], [3, 4], [1, 2]]).all()


def test_header_with_trailing_blanks_and_dos_line_ends(tmp_path):
    for number, header in enumerate([b"Pf \n2 1 \n-1.0\n", b"Pf\r\n2 1\r\n-1.0\r\n", b"Pf\n2\n1\n-1e0\n"]):
        path = tmp_path / f"{number}.pfm"
        path.write_bytes(header + struct.pack("<2f", 10, float("inf")))  # the first byte after the header must not be taken for it
        assert (read_pfm(path) == [[10, np.inf]]).all()


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_round_trip(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    write_pfm(tmp_path / "a.pfm", values)
    assert (read_pfm(tmp_path / "a.pfm") == values).all()


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "broken.pfm"
    path.write_bytes(b"Pf\n2 2\n-1\n" + b"\0" * 15)
    with pytest.raises(ValueError, match=r"broken\.pfm.*15 of 16"):
        read_pfm(path)
    for header, said in (
        (b"Pf\n0 0\n-1\n", "without pixels"),
        (b"Pf\n1 1\n-.\n", "not a PFM"),
        (b"Pf\n4294967296 4294967296\n-1\n", "cut off"),
    ):
        path.write_bytes(header + bytes(8))
        with pytest.raises(ValueError, match=rf"broken\.pfm.*{said}"):
            read_pfm(path)
    path.write_bytes(b"P6\n2 2\n255\n")
    with pytest.raises(ValueError, match=r"broken\.pfm.*not a PFM"):
        read_pfm(path)


@pytest.mark.data
def test_files_as_the_data_sets_write_them(shared):
    formats = shared / "data" / "formats"
    flying = read_pfm(formats / "sceneflow/FlyingThings3D/disparity/TRAIN/A/0000/left/0006.pfm")
    assert flying.shape == (540, 960) and 1.1 < flying.min() < 1.2 and 75 < flying.max() < 76
    middlebury = read_pfm(formats / "middlebury2014/MiddEval3/trainingQ/Adirondack/disp0GT.pfm")
    known = np.isfinite(middlebury)
    assert middlebury.shape == (496, 718) and middlebury[known].min() > 9.4 and middlebury[known].max() < 63.1 and not known.all()
