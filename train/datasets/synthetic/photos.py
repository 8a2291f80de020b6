"""The user's own pictures as textures: a folder, read when needed and kept. What they are put on is decided in `skins`."""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError
from utils.geometry import resize_image
from utils.images import read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
LONGEST = 1024  # pixels that are kept of a picture's longer side
KEPT = 64  # pictures in memory, per process: 150 MB of the largest


class Photos:
    """The pictures in `folder` and below. `UserError` where there is none, or none that can be read; single broken ones are passed over."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"synthetic: textures: {folder} is not a folder; pass one with pictures ({', '.join(SUFFIXES)})")
        self.files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not self.files:
            raise UserError(f"synthetic: textures: no picture under {folder} (looked for {', '.join(SUFFIXES)})")
        if all(_picture(path) is None for path in self.files):
            raise UserError(
                f"synthetic: textures: none of the {len(self.files)} pictures under {folder} can be read, as {self.files[0].name}"
            )

    def piece(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3) RGB: a random piece of a random picture, at a random scale."""
        start = int(rng.integers(len(self.files)))
        picture = next(found for n in range(len(self.files)) if (found := _picture(self.files[(start + n) % len(self.files)])) is not None)
        largest = min(picture.shape[0] / height, picture.shape[1] / width)
        scale = largest * rng.uniform(0.3, 1)
        high, wide = max(int(height * scale), 1), max(int(width * scale), 1)
        y, x = (int(rng.integers(0, most - part + 1)) for most, part in zip(picture.shape, (high, wide), strict=False))
        piece = cv2.flip(picture[y : y + high, x : x + wide], 1) if rng.random() < 0.5 else picture[y : y + high, x : x + wide]
        return resize_image(piece, (width, height))


@lru_cache(maxsize=KEPT)
def _picture(path: Path) -> np.ndarray | None:
    """uint8 (H, W, 3) of at most `LONGEST`; None for a file that cannot be read."""
    try:
        picture = read_image(path)
    except (OSError, ValueError):
        return None
    scale = LONGEST / max(picture.shape)
    size = (max(int(picture.shape[1] * scale), 1), max(int(picture.shape[0] * scale), 1))
    return resize_image(picture, size) if scale < 1 else picture
