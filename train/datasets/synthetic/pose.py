"""A right camera that stands a little beside its place and is turned a little, as one that was calibrated long ago. What networks with a
pose head learn from: the pair is rendered rectified, and its right image is then seen from there.
"""

import cv2
import numpy as np

from train.datasets.synthetic.render import Lens, View


def draw_pose(rng: np.random.Generator, degrees: float, baselines: float) -> np.ndarray:
    """float32 (6,), see `StereoOutput.pose`: turned by at most `degrees` and at most `baselines` away, both in any direction."""
    directions = rng.standard_normal((2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (directions * rng.random((2, 1)) * [[np.radians(degrees)], [baselines]]).astype(np.float32).ravel()


def seen_from(view: View, lens: Lens, pose: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3), the image of the rectified right `view` from a camera at `pose`.

    A pixel's ray s, in the rectified frame, meets a point of inverse depth i at s (1 - t_z i) + t i, all divided by s_z: exact for the
    rotation; the inverse depth is the one that the rectified eye sees there, so that what only the moved one would see is not invented.
    """
    height, width = view.disparity.shape
    turn, _ = cv2.Rodrigues(pose[:3].astype(np.float64))
    x = (np.arange(width) - lens.centre[0])[None] / lens.focal
    y = (np.arange(height) - lens.centre[1])[:, None] / lens.focal
    away = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2]
    rays = [((row[0] * x + row[1] * y + row[2]) / away) for row in turn[:2]]
    inverse = np.zeros((height, width))
    for _ in range(3):
        places = [ray * (1 - pose[5] * inverse) + shift * inverse for ray, shift in zip(rays, pose[3:5], strict=True)]
        u, v = ((place * lens.focal + middle).astype(np.float32) for place, middle in zip(places, lens.centre, strict=True))
        inverse = cv2.remap(view.disparity, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE) / lens.focal
    return cv2.remap(view.image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
