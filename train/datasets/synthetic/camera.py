"""What lens and sensor make of the two views: focus, exposure, vignetting, response, noise, and that no two cameras are alike."""

from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np

from train.datasets.synthetic.render import View

SHARPEST, SOFTEST = 0.2, 0.5  # standard deviation in pixels of what any lens and pixel blur

# A normal number of deviation 1 for each of 256 equal shares: drawn by the byte, which is much faster than drawing normal numbers.
NORMAL = np.array([NormalDist().inv_cdf((n + 0.5) / 256) for n in range(256)], np.float32)
NORMAL /= NORMAL.std()


@dataclass(frozen=True)
class Faults:
    """The largest of each; a pair draws its own below it, so that some are nearly free of it.

    noise, shot_noise: standard deviation in grey levels of 255: of any pixel, and of a white one, falling with the root of brightness.
    eye_difference: relative difference of gain and of gamma between the eyes. vignetting: loss of light in the corners.
    defocus, motion_blur, eye_blur: pixels: standard deviation at the disparity farthest from the focus; length of the path; standard
    deviation in one of the eyes alone.
    """

    noise: float = 0.0
    shot_noise: float = 0.0
    eye_difference: float = 0.0
    vignetting: float = 0.0
    defocus: float = 0.0
    motion_blur: float = 0.0
    eye_blur: float = 0.0


def photograph(left: View, right: View, rng: np.random.Generator, faults: Faults) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images of the two views."""
    # All draws come first and whatever the faults, so that the same sample with one fault less is the same sample otherwise.
    noise, shot, vignetting = (float(rng.uniform(0, 1) * most) for most in (faults.noise, faults.shot_noise, faults.vignetting))
    defocus, motion, eye_blur = (float(rng.uniform(0, 1) * most) for most in (faults.defocus, faults.motion_blur, faults.eye_blur))
    has_motion, has_defocus, blurred_eye, turn = rng.random() < 0.3, rng.random() < 0.5, int(rng.integers(2)), rng.uniform(0, np.pi)
    softness, focus = rng.uniform(SHARPEST, SOFTEST), left.disparity[tuple(rng.integers(0, left.disparity.shape))]
    exposure = rng.uniform(70, 150) / max(float(np.mean(cv2.mean(left.image)[:3])), 1.0)
    gamma = np.exp(rng.normal(0, 0.12))
    farthest = max(float(np.abs(left.disparity - focus).max()), 1e-3)

    gains = exposure * (1 + faults.eye_difference * (rng.uniform(-1, 1, size=(2, 1)) + 0.3 * rng.uniform(-1, 1, size=(2, 3))))
    gammas = gamma * (1 + faults.eye_difference * rng.uniform(-1, 1, size=2))
    tilts, off_centres = faults.eye_difference * rng.uniform(-1, 1, size=(2, 2)), rng.normal(0, 0.05, size=(2, 2))

    images = []
    for eye, view in enumerate((left, right)):
        image = view.image
        if has_defocus and defocus > 0.1:
            far = cv2.absdiff(view.disparity, np.full_like(view.disparity, focus)) * np.float32(1 / farthest)
            image = cv2.blendLinear(cv2.GaussianBlur(image, (0, 0), defocus), image, far, np.maximum(1 - far, 0))
        if has_motion and motion > 1:
            image = cv2.filter2D(image, -1, _path(motion, turn))
        image = cv2.GaussianBlur(image, (0, 0), float(np.hypot(softness, eye_blur if eye == blurred_eye else 0)))
        image = cv2.multiply(image, _light(image.shape[:2], gains[eye], vignetting, tilts[eye], off_centres[eye]))
        np.clip(image, 0, 255, out=image)
        image = cv2.pow(image, gammas[eye])
        image *= np.float32(255 ** (1 - gammas[eye]))
        images.append(_noisy(image, rng, noise, shot))
    return images[0], images[1]


def _light(shape: tuple[int, int], gain: np.ndarray, vignetting: float, tilt: np.ndarray, off_centre: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3), what of the light reaches the sensor."""
    height, width = shape
    x = np.linspace(-1, 1, 16, dtype=np.float32)
    y = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
    away = ((x - np.float32(off_centre[0])) ** 2 + (y - np.float32(off_centre[1])) ** 2) / 2
    light = (1 - np.float32(vignetting) * away) * (1 + np.float32(tilt[0]) * x + np.float32(tilt[1]) * y)
    light = cv2.resize(np.maximum(light, np.float32(0.1)), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.merge([light * np.float32(part) for part in gain])


def _path(length: float, turn: float) -> np.ndarray:
    """The kernel of a straight motion of `length` pixels."""
    side = 2 * int(np.ceil(length / 2)) + 1
    along = np.linspace(-length / 2, length / 2, 16 * side)[:, None]
    grid = np.arange(side) - side // 2
    x, y = (np.maximum(1 - np.abs(along * part - grid), 0) for part in (np.cos(turn), np.sin(turn)))  # shares of a place's neighbours
    kernel = y.T @ x
    return (kernel / kernel.sum()).astype(np.float32)


def _noisy(image: np.ndarray, rng: np.random.Generator, noise: float, shot: float) -> np.ndarray:
    """uint8, with noise of variance noise^2 + shot^2 * image / 255."""
    if noise or shot:
        draws = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
        spread = cv2.sqrt(image * np.float32(shot * shot / 255) + np.float32(noise * noise))
        image += cv2.multiply(cv2.LUT(draws, NORMAL), spread, dst=spread)
    return cv2.convertScaleAbs(np.maximum(image, 0, out=image))
