"""A procedural renderer of stereo pairs with exact sub-pixel ground truth. No file is read; every sample is a function of (seed, index).

A scene is a stack of surfaces. A surface is a disparity function d(x, y) over the left view, given at the pixel columns and linear
between them, and an outline. Along a row x -> x - d(x, y) always increases, so that it has an inverse, and the inverse of a piecewise
linear function is one: the right view's disparity at its own pixel centres is computed, not searched. Both eyes look the colour up at
the same place of the surface, in one continuous texture. Where surfaces overlap the nearest one wins, in each view by itself.

- `shapes`    disparity functions (planes, curved, meshes) and outlines (solid, thin, with holes)
- `textures`  pictures to put on them: noise, collages, repeated patterns, nearly nothing
- `render`    a surface in the left and in the right view; painting, occlusion
- `scene`     what stands where: a background and objects, in a chosen range of disparity
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from train.datasets.base import DATASETS
from train.datasets.synthetic.render import occlusion, paint, photograph
from train.datasets.synthetic.scene import build_scene
from train.sample import StereoSample
from utils.errors import UserError

Side = Annotated[int, Field(ge=32, le=4096)]


@DATASETS.register("synthetic")
class Synthetic:
    """`length` pairs of `size`, valid everywhere, with the right view's disparity and the occlusion mask.

    size: (width, height) in pixels.
    seed: another seed is another data set.
    min_disparity, max_disparity: every disparity of every sample lies between them, in pixels; 0.3 of the width where not given.
        Scenes differ in how much of the range they use: a scene's own largest is drawn log-uniformly from the upper three quarters.
    objects: least and greatest number of things before the background.
    noise: largest standard deviation of the sensor noise, in grey levels of 255; each pair draws its own below it.
    eye_difference: largest relative difference of gain and gamma between the eyes.
    """

    has_right_disparity = True

    def __init__(
        self,
        path: Path | None,
        *,
        size: tuple[Side, Side] = (512, 384),
        length: Annotated[int, Field(gt=0)] = 10000,
        seed: Annotated[int, Field(ge=0)] = 0,
        min_disparity: Annotated[float, Field(ge=0.1)] = 0.5,
        max_disparity: Annotated[float, Field(gt=0)] | None = None,
        objects: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(le=200)]] = (6, 20),
        noise: Annotated[float, Field(ge=0, le=50)] = 2.0,
        eye_difference: Annotated[float, Field(ge=0, le=0.5)] = 0.03,
    ) -> None:
        if path is not None:
            raise UserError(f"synthetic: found path {path}; samples are computed, leave the path out")
        if max_disparity is None:
            max_disparity = 0.3 * size[0]
        if not min_disparity < max_disparity <= 0.75 * size[0]:
            raise UserError(
                f"synthetic: found min_disparity {min_disparity:g} and max_disparity {max_disparity:g}; expected min < max, "
                f"and max at most three quarters of the width {size[0]}"
            )
        if objects[0] > objects[1]:
            raise UserError(f"synthetic: found objects {list(objects)}; expected the least number first")
        self.size, self.length, self.seed = size, length, seed
        self.min_disparity, self.max_disparity, self.objects = min_disparity, max_disparity, objects
        self.noise, self.eye_difference = noise, eye_difference

    def __len__(self) -> int:
        return self.length

    def key(self, i: int) -> str:
        return f"{i:08d}"

    def files(self, i: int) -> list[Path]:
        return []

    def load(self, i: int) -> StereoSample:
        rng = np.random.default_rng([self.seed, i])
        surfaces = build_scene(rng, self.size, (self.min_disparity, self.max_disparity), self.objects)
        left, right = (paint(surfaces, self.size, eye) for eye in ("left", "right"))
        images = photograph(left, right, rng, noise=self.noise, eye_difference=self.eye_difference)
        everywhere = np.ones(left.disparity.shape, bool)
        return StereoSample(
            left=images[0],
            right=images[1],
            disparity=left.disparity,
            valid=everywhere,
            disparity_right=right.disparity,
            valid_right=everywhere.copy(),
            occluded=occlusion(left, right),
            key=self.key(i),
        )
