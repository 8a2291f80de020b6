"""Which picture goes on which surface. The pictures are `textures`', `materials`', `stencils`' and the user's (`photos`)."""

import cv2
import numpy as np

from train.datasets.synthetic.materials import MATERIALS
from train.datasets.synthetic.photos import Photos
from train.datasets.synthetic.render import COARSER, Gloss, Skin
from train.datasets.synthetic.stencils import STENCILS
from train.datasets.synthetic.textures import fractal, texture

POOL = 2  # pictures of one kind in a scene, shared by its surfaces: things in one place are of like make
MIXED_POOL = 6  # the same, of photos and of textures of no material
SIDE = 160  # texels
LARGE, FINE = 320, 256  # texels, of ground and walls, and of cut-outs
TEXELS = (0.5, 1.0)  # per pixel, where a surface is at its usual distance: below one, so that neither eye undersamples
DULL = ("leaves", "sky", "cloth", "books")  # never reflect
ODD = 0.2  # share of the camera-like surfaces with a texture that is of no material


class Skins:
    """The skins of one scene.

    share: of the surfaces that carry one of the user's pictures, where there are any. reflections: of the surfaces that reflect.
    """

    def __init__(self, rng: np.random.Generator, photos: Photos | None, share: float, reflections: float) -> None:
        self.rng, self.photos, self.share, self.reflections = rng, photos, share, reflections
        self._pool: dict[tuple[str, int], list[np.ndarray]] = {}
        self._world: np.ndarray | None = None

    def picture(self, height: int, width: int) -> Skin:
        """A texture of its own, of any look."""
        make = self.photos.piece if self.rng.random() < self.share and self.photos is not None else texture
        return Skin(_opaque(make(self.rng, height, width)), gloss=self._gloss())

    def material(self, *kinds: str, large: bool = False) -> Skin:
        """One of these materials, or now and then any texture; `large` ones have coarser copies of themselves."""
        side = LARGE if large else SIDE
        make, kind = texture, "odd"
        if self.rng.random() < self.share and self.photos is not None:
            make, kind = self.photos.piece, "photo"
        elif self.rng.random() >= ODD:
            kind = kinds[int(self.rng.integers(len(kinds)))]
            make = MATERIALS[kind]
        pool = self._pool.setdefault((kind, side), [])
        if not pool or (len(pool) < (POOL if kind in MATERIALS else MIXED_POOL) and self.rng.random() < 0.6):
            pool.append(_opaque(make(self.rng, side, side)))
        picture = pool[int(self.rng.integers(len(pool)))]
        return Skin(picture, coarse=_coarser(picture) if large else (), gloss=None if kind in DULL else self._gloss())

    def stencil(self, kind: str) -> Skin:
        """A cut-out. It fills its picture, which is square."""
        pool = self._pool.setdefault((kind, 0), [])
        if not pool or (len(pool) < POOL and self.rng.random() < 0.4):
            pool.append(STENCILS[kind](self.rng, FINE, FINE))
        return Skin(pool[int(self.rng.integers(len(pool)))], cutout=True)

    def _gloss(self) -> Gloss | None:
        """What a surface reflects; None for most."""
        if self.rng.random() >= self.reflections:
            return None
        if self._world is None:
            self._world = _surroundings(self.rng)
        dull = cv2.GaussianBlur(self._world, (0, 0), np.exp(self.rng.uniform(np.log(0.7), np.log(10))))
        return Gloss(dull * np.float32(self.rng.uniform(0.1, 0.8)))


def _opaque(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA)


def _coarser(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """Two steps down; what is finer than a texel is averaged."""
    steps = [picture]
    for _ in range(2):
        height, width = (side // COARSER for side in steps[-1].shape[:2])
        steps.append(cv2.resize(steps[-1], (width, height), interpolation=cv2.INTER_AREA))
    return tuple(steps[1:])


def _surroundings(rng: np.random.Generator, side: int = 192) -> np.ndarray:
    """float32 (side, side), grey levels by direction: dim, with lamps and windows that outshine everything."""
    picture = 60 * fractal(rng, side, side, 64, 0.7)
    for _ in range(int(rng.integers(1, 7))):
        x, y, wide, high = (int(value) for value in (*rng.integers(0, side, size=2), *np.exp(rng.uniform(np.log(3), np.log(40), size=2))))
        bright = float(rng.uniform(100, 500))
        if rng.random() < 0.5:
            cv2.rectangle(picture, (x, y), (x + wide, y + high), bright, cv2.FILLED)
        else:
            cv2.ellipse(picture, (x, y), (wide // 2 + 1, high // 2 + 1), 0, 0, 360, bright, cv2.FILLED)
    return picture
