"""Coloured point clouds as PLY, the format that every viewer reads. Where the points come from is in `geometry`."""

from pathlib import Path

import numpy as np

from utils.files import write_atomic

VERTEX = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")])


def write_ply(path: Path, points: np.ndarray, colours: np.ndarray) -> None:
    """Binary, little-endian. points: (N, 3) metres; colours: uint8 (N, 3) RGB."""
    assert points.shape == colours.shape == (len(points), 3) and colours.dtype == np.uint8, (points.shape, colours.shape, colours.dtype)
    vertices = np.empty(len(points), VERTEX)
    for i, name in enumerate(("x", "y", "z")):
        vertices[name] = points[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        vertices[name] = colours[:, i]
    header = ["ply", "format binary_little_endian 1.0", "comment metres; x right, y down, z forward", f"element vertex {len(points)}"]
    header += [f"property float {name}" for name in ("x", "y", "z")] + [f"property uchar {name}" for name in ("red", "green", "blue")]
    write_atomic(path, "\n".join([*header, "end_header\n"]).encode() + vertices.tobytes())
