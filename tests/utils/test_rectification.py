"""Raw cameras to a rectified pair: points and images of a known scene give equal rows and the depth that they have."""

import cv2
import numpy as np
import pytest

from utils.errors import UserError
from utils.geometry import disparity_to_depth
from utils.rectification import StereoRig, of_projections, rectify

SIZE = (640, 480)


def rig(baseline_m=0.12, tilt=(0.01, -0.02, 0.015)):
    """Two lenses that distort, of different focal lengths, the right one turned by a degree or so."""
    left = np.array([[520.0, 0, 315], [0, 522, 242], [0, 0, 1]])
    right = np.array([[515.0, 0, 324], [0, 514, 236], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array(tilt))[0]
    return StereoRig(
        matrices=(left, right),
        distortions=(np.array([-0.12, 0.03, 0.001, -0.002, 0]), np.array([-0.1, 0.02, 0.0005, 0.001, 0])),
        rotation=rotation,
        translation_m=rotation @ np.array([-baseline_m, 0.002, 0.001]),
        size=SIZE,
    )


def project(rig, points):
    """Pixels of both raw images that points of the left camera, (N, 3) metres, fall on."""
    turns = np.zeros(3), cv2.Rodrigues(rig.rotation)[0]
    shifts = np.zeros(3), rig.translation_m
    return [
        cv2.projectPoints(points, turn, shift, matrix, distortion)[0][:, 0]
        for turn, shift, matrix, distortion in zip(turns, shifts, rig.matrices, rig.distortions, strict=True)
    ]


def spots(rig, points):
    """A raw pair that shows every point as a soft white spot."""
    rows, columns = np.mgrid[: rig.size[1], : rig.size[0]]
    images = []
    for pixels in project(rig, points):
        image = sum(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2)) for x, y in pixels)
        images.append(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    return images


def centres(image):
    """Where the spots are, in the order of their columns."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats((image > 40).astype(np.uint8))
    found = []
    for x, y, width, height, _ in boxes[1:count]:
        cut = np.maximum(image[y : y + height, x : x + width].astype(float) - 40, 0)
        rows, columns = np.mgrid[y : y + height, x : x + width]
        found.append(((columns * cut).sum() / cut.sum(), (rows * cut).sum() / cut.sum()))
    return np.array(sorted(found))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_depth_of_spots_in_rectified_images(scale):
    """Drawn through the raw cameras, found in the rectified images: rows agree, and so does the depth to 0.1 %."""
    cameras = rig()
    size = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    cameras = cameras.scaled(size)
    points = np.array([[-0.3, -0.12, 1.0], [0.02, 0.1, 0.8], [0.3, -0.1, 1.2]])
    rectification = rectify(cameras)
    left, right = (centres(image) for image in rectification(*spots(cameras, points)))
    assert len(left) == len(right) == 3
    assert left[:, 1] == pytest.approx(right[:, 1], abs=0.05)
    calibration = rectification.calibration
    assert calibration.size == size and calibration.baseline_m == pytest.approx(np.linalg.norm(cameras.translation_m))
    depth = disparity_to_depth(left[:, 0] - right[:, 0], calibration.focal_px, calibration.baseline_m, calibration.doffs_px)
    # Depth is along the axis of the rectified left camera, which is turned against that of the raw one.
    (first, second), (lens, other) = cameras.matrices, cameras.distortions
    turn = cv2.stereoRectify(first, lens, second, other, size, cameras.rotation, cameras.translation_m[:, None])[0]
    assert depth == pytest.approx((points @ turn.T)[:, 2], rel=1e-3)


def test_a_rectified_pair_stays_what_it_is():
    plain = np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])
    still = StereoRig((plain, plain), (np.zeros(4), np.zeros(4)), np.eye(3), np.array([-0.1, 0, 0]), SIZE)
    rectification = rectify(still)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    left, right = rectification(image, image)
    difference = np.abs(left.astype(int) - image)
    assert rectification.calibration.focal_px == pytest.approx(500, rel=0.01) and rectification.calibration.baseline_m == pytest.approx(0.1)
    assert difference[100:-100, 100:-100].mean() < 8 and (left == right).all()


def test_images_of_another_size_are_refused():
    rectification = rectify(rig())
    image = np.zeros((480, 600, 3), np.uint8)
    with pytest.raises(UserError, match="found an image of 600 x 480; expected 640 x 480"):
        rectification(image, image)


def test_projections_by_hand():
    left = np.array([[500.0, 0, 320, 45], [0, 505, 240, 0], [0, 0, 1, 0]])
    right = np.array([[500.0, 0, 324, -15], [0, 505, 240, 0], [0, 0, 1, 0]])
    found = of_projections(left, right, size=SIZE, where="here")
    assert (found.focal_px, found.focal_y_px, found.doffs_px, found.centre, found.baseline_m) == (500, 505, 4, (320, 240), 0.12)
    assert of_projections(left, right, size=SIZE, where="here", unit_m=0.001).baseline_m == pytest.approx(0.00012)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda left, right: (right, left), "to the left of the first"),
        (lambda left, right: (left, left), "in the same place"),
        (lambda left, right: (left, right + np.array([[0, 0, 0, 60], [0, 0, 0, -60], [0, 0, 0, 0]])), "above or below"),
        (lambda left, right: (left, 0 * right), "no positive focal lengths"),
    ],
)
def test_what_is_no_pair_side_by_side_is_refused(change, said):
    left = np.array([[500.0, 0, 320, 45], [0, 505, 240, 0], [0, 0, 1, 0]])
    right = np.array([[500.0, 0, 324, -15], [0, 505, 240, 0], [0, 0, 1, 0]])
    with pytest.raises(UserError, match=f"here: .*{said}"):
        of_projections(*change(left, right), size=SIZE, where="here")


def test_cameras_the_wrong_way_round_are_refused():
    with pytest.raises(UserError, match="to the left of the first"):
        rectify(rig(baseline_m=-0.12))
