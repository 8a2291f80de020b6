"""Picture files to arrays and back. What the values mean (a colour, a coded disparity) is the caller's business.

Whatever the file holds, `read_image` gives 8-bit RGB: grey is repeated, alpha dropped, 16 bits reduced to 8, palettes and CMYK
converted. An orientation tag is ignored: turning a picture would part it from its pair and its ground truth.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
PNG_END = b"IEND"


def read_image(path: Path | str) -> np.ndarray:
    """uint8 (H, W, 3) RGB. Raises OSError where the file cannot be opened, ValueError that names it where it cannot be decoded."""
    path = Path(path)
    data = path.read_bytes()
    _refuse_cut_off(data, path)
    image = _decode(data, COLOUR)
    if image is not None:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    try:  # formats that this build of OpenCV leaves out
        with Image.open(io.BytesIO(data)) as picture:
            deep, converted = picture.mode in ("F", "I"), picture.convert("RGB")
    except Exception as error:  # Pillow raises whatever its decoders raise
        raise ValueError(f"{path}: cannot be decoded as an image ({type(error).__name__})") from None
    if deep:  # Pillow cuts off at 255, which leaves black or white
        raise ValueError(f"{path}: an image of 32 bits per value, whose white is not known; save it with 8 or 16 bits")
    return np.array(converted)


def read_raw(path: Path) -> np.ndarray:
    """The stored values, uint8 or uint16, (H, W) or (H, W, C) in RGB(A) order: for pictures that carry coded numbers."""
    data = path.read_bytes()
    _refuse_cut_off(data, path)
    values = _decode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError(f"{path}: cannot be decoded as an image")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        return cv2.cvtColor(values, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return values


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB, or uint8 or uint16 (H, W); the format follows the name. The folder must exist."""
    path.write_bytes(encode_image(path, image))


def encode_image(path: Path, image: np.ndarray) -> bytes:
    """What `write_image` writes."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(path.suffix, bgr)
    if not done:
        raise ValueError(f"{path}: cannot be written as {path.suffix}")
    return data.tobytes()


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    if not data:
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _refuse_cut_off(data: bytes, path: Path) -> None:
    """OpenCV fills what is missing of a truncated file with grey and says nothing, which would be learned as a picture."""
    if not data:
        raise ValueError(f"{path}: the file is empty")
    if data.startswith(b"\x89PNG") and PNG_END not in data[-4096:]:
        raise ValueError(f"{path}: the PNG is cut off")
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]:
        raise ValueError(f"{path}: the JPEG is cut off")
