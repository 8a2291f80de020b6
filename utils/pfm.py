"""Portable float maps, the format of SceneFlow, Middlebury and ETH3D, read and written. Which values are valid is the reader's business.

Two traps: rows are stored from bottom to top, and of the scale only the sign counts (byte order); its size is not a factor.
"""

import math
import re
from pathlib import Path

import numpy as np

from utils.files import write_atomic

HEADER = re.compile(rb"\A(P[Ff])[ \t]*\r?\n\s*(\d+)\s+(\d+)\s*?\n\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[ \t]*\r?\n")


def read_pfm(path: Path) -> np.ndarray:
    """float32 (H, W) or (H, W, 3), first row on top. Raises ValueError that names the file where it is not a whole PFM."""
    data = path.read_bytes()
    header = HEADER.match(data)
    if header is None:
        raise ValueError(f"{path}: not a PFM file (expected 'Pf' or 'PF', the size and the scale on three lines)")
    kind, width, height, scale = header.groups()
    if not int(width) or not int(height):
        raise ValueError(f"{path}: a PFM without pixels ({int(width)}x{int(height)})")
    shape = (int(height), int(width)) + ((3,) if kind == b"PF" else ())
    expected = 4 * math.prod(shape)  # as Python's numbers, which do not overflow
    found = len(data) - header.end()
    if found < expected:
        raise ValueError(f"{path}: the PFM is cut off ({found} of {expected} bytes)")
    values = np.frombuffer(data, "<f4" if float(scale) < 0 else ">f4", count=expected // 4, offset=header.end())
    return np.ascontiguousarray(values.reshape(shape)[::-1], dtype=np.float32)


def write_pfm(path: Path, values: np.ndarray) -> None:
    """Write float32 (H, W) or (H, W, 3), first row on top, little-endian."""
    assert values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3), values.shape
    kind = "PF" if values.ndim == 3 else "Pf"
    header = f"{kind}\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    write_atomic(path, header + np.ascontiguousarray(values[::-1], dtype="<f4").tobytes())
