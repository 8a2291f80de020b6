"""A procedural renderer of stereo pairs with exact sub-pixel ground truth. Every sample is a function of (seed, index).

A scene is a stack of surfaces, each of which either eye can look at, and then has its disparity at that eye's own pixel centres: computed,
not searched. Both eyes look the colour up at the same place of the surface, in one continuous texture. Where surfaces overlap the nearest
one wins, in each view by itself.

- `render`     painting the stack, occlusion
- `sheet`      surfaces given by a table of disparities and an outline, which `shapes` makes
- `solid`      bodies, ground and walls in perspective, cut by rays; `world` is what they stand in
- `abstract`, `places`   what stands where; `things` are built of bodies; `spread` says at which disparities
- `textures`, `materials`, `stencils`, `photos`   pictures; `skins` puts them on surfaces
- `camera`     what lens and sensor do to the two views; `pose` a right camera that is out of place
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from train.datasets.base import DATASETS
from train.datasets.synthetic.camera import Faults, photograph
from train.datasets.synthetic.photos import Photos
from train.datasets.synthetic.places import SCENES
from train.datasets.synthetic.pose import draw_pose, seen_from
from train.datasets.synthetic.render import Scene, occlusion, paint
from train.datasets.synthetic.skins import Skins
from train.datasets.synthetic.spread import draw_spread
from train.sample import StereoSample
from utils.errors import UserError, did_you_mean

Side = Annotated[int, Field(ge=32, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[float, Field(ge=0, le=20)]
GreyLevels = Annotated[float, Field(ge=0, le=50)]
Pose = tuple[Annotated[float, Field(ge=0, le=10)], Annotated[float, Field(ge=0, le=0.5)]]
MIXED = {"abstract": 0.35, "room": 0.2, "street": 0.15, "desk": 0.2, "garden": 0.1}


@DATASETS.register("synthetic")
class Synthetic:
    """`length` pairs of `size`, valid everywhere, with the right view's disparity and the occlusion mask.

    size: (width, height) in pixels.
    seed: another seed is another data set.
    min_disparity, max_disparity: every disparity of every sample lies between them, in pixels; 0.3 of the width where not given.
        Scenes differ in how much of the range they use: a scene's own largest is drawn from the upper three quarters.
    disparity_distribution: how a scene's largest disparity and those of its things are drawn: `log_uniform` (as many between 1 and 2 as
        between 50 and 100), `uniform`, or `near` (the more the larger).
    scenes: shares by name. abstract: anything, anywhere. room, street, desk, garden: what a camera might see there, in perspective.
    objects: least and greatest number of things before the background; in perspective fewer, where they are of many parts.
    textures: a folder of pictures (png, jpg, webp, ...), at any depth, that surfaces may carry; textures_share: how many of them do.
    reflections: share of surfaces that mirror what is far, which contradicts their own disparity.

    The rest are the largest faults of the cameras, of which each pair draws its own; at 0 both eyes are perfect and alike:
    noise, shot_noise: standard deviation in grey levels of 255: of any pixel, and of a white one, falling with the root of brightness.
    eye_difference: largest relative difference of gain, tint, gamma and brightness across the image between the eyes.
    vignetting: loss of light in the corners, a little different in the eyes.
    defocus, motion_blur, eye_blur: pixels; standard deviation where the disparity is farthest from the focus; length of the path; standard
        deviation in one of the eyes alone.
    residual_pose: largest rotation in degrees and displacement in baselines of the right camera from where it should be. The sample then
        has its `pose` (see `StereoOutput`), its disparity remains that of the rectified pair, and the right view has none.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        size: tuple[Side, Side] = (512, 384),
        length: Annotated[int, Field(gt=0, le=10**7)] = 10000,
        seed: Annotated[int, Field(ge=0)] = 0,
        min_disparity: Annotated[float, Field(ge=0.1)] = 0.5,
        max_disparity: Annotated[float, Field(gt=0)] | None = None,
        disparity_distribution: Literal["log_uniform", "uniform", "near"] = "log_uniform",
        scenes: dict[str, Annotated[float, Field(ge=0)]] = MIXED,
        objects: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(le=200)]] = (6, 20),
        textures: str | None = None,
        textures_share: Share = 0.5,
        reflections: Share = 0.1,
        noise: GreyLevels = 2.0,
        shot_noise: GreyLevels = 3.0,
        eye_difference: Annotated[float, Field(ge=0, le=0.5)] = 0.03,
        vignetting: Share = 0.3,
        defocus: Pixels = 1.0,
        motion_blur: Pixels = 3.0,
        eye_blur: Pixels = 0.7,
        residual_pose: Pose | None = None,
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
        for name in scenes:
            if name not in SCENES:
                raise UserError(f"synthetic: scenes: unknown scene '{name}'{did_you_mean(name, SCENES)}")
        if not any(share > 0 for share in scenes.values()):
            raise UserError("synthetic: scenes: no share is above 0; expected one at least")
        self.size, self.length, self.seed = size, length, seed
        self.limits, self.mode, self.objects = (min_disparity, max_disparity), disparity_distribution, objects
        self.scenes = {name: share for name, share in sorted(scenes.items()) if share > 0}
        self.photos = None if textures is None else Photos(Path(os.path.expandvars(textures)).expanduser())
        self.textures_share, self.reflections = textures_share, reflections
        self.faults = Faults(noise, shot_noise, eye_difference, vignetting, defocus, motion_blur, eye_blur)
        self.residual_pose = residual_pose
        self.has_right_disparity, self.has_pose = residual_pose is None, residual_pose is not None

    def __len__(self) -> int:
        return self.length

    def key(self, i: int) -> str:
        return f"{i:08d}"

    def files(self, i: int) -> list[Path]:
        return []

    def scene(self, i: int) -> Scene:
        """What sample `i` shows."""
        rng = np.random.default_rng([self.seed, i])
        shares = np.array(list(self.scenes.values()))
        build = SCENES[list(self.scenes)[int(rng.choice(len(shares), p=shares / shares.sum()))]]
        spread = draw_spread(rng, self.limits, self.mode)
        count = int(rng.integers(self.objects[0], self.objects[1] + 1))
        return build(rng, self.size, spread, count, Skins(rng, self.photos, self.textures_share, self.reflections))

    def load(self, i: int) -> StereoSample:
        scene, rng = self.scene(i), np.random.default_rng([self.seed, i, 1])
        left, right = (paint(scene.surfaces, self.size, eye) for eye in ("left", "right"))
        pose = None if self.residual_pose is None else draw_pose(np.random.default_rng([self.seed, i, 2]), *self.residual_pose)
        seen = right if pose is None else replace(right, image=seen_from(right, scene.lens, pose))
        images = photograph(left, seen, rng, self.faults)
        everywhere = np.ones(left.disparity.shape, bool)
        return StereoSample(
            left=images[0],
            right=images[1],
            disparity=left.disparity,
            valid=everywhere,
            disparity_right=right.disparity if pose is None else None,
            valid_right=everywhere.copy() if pose is None else None,
            occluded=occlusion(left, right),
            pose=pose,
            key=self.key(i),
        )
