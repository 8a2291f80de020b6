"""A cloud as another program reads it: by the PLY specification, property by property."""

import struct

import numpy as np
import pytest

from utils.ply import write_ply

TYPES = {"float": ("f", 4), "uchar": ("B", 1)}


def read_by_the_specification(path):
    """The vertices as dictionaries, from the header's own words."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex "))
    properties = [line.split()[1:] for line in lines if line.startswith("property ")]
    form = "<" + "".join(TYPES[kind][0] for kind, _ in properties)
    assert len(body) == count * struct.calcsize(form)
    return [dict(zip([name for _, name in properties], values, strict=True)) for values in struct.iter_unpack(form, body)]


def test_a_cloud_reads_back(tmp_path):
    points = np.array([[1.5, -2, 3], [0, 0.25, 70]])
    colours = np.array([[255, 0, 7], [1, 2, 3]], np.uint8)
    write_ply(tmp_path / "cloud.ply", points, colours)
    assert read_by_the_specification(tmp_path / "cloud.ply") == [
        {"x": 1.5, "y": -2, "z": 3, "red": 255, "green": 0, "blue": 7},
        {"x": 0, "y": 0.25, "z": 70, "red": 1, "green": 2, "blue": 3},
    ]


def test_an_empty_cloud_is_a_cloud(tmp_path):
    write_ply(tmp_path / "none.ply", np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    assert read_by_the_specification(tmp_path / "none.ply") == []


def test_what_is_no_cloud_is_refused(tmp_path):
    with pytest.raises(AssertionError):
        write_ply(tmp_path / "cloud.ply", np.zeros((2, 3)), np.zeros((2, 3), np.float32))
