"""Patches of the right image: how many, how large, what they show, and what becomes of the ground truth."""

import numpy as np

from train.augment.patches import cover, draw_boxes, eraser, occlusion
from train.sample import StereoSample

HEIGHT, WIDTH, DISPARITY = 40, 60, 3


def sample(disparity=DISPARITY):
    left, right = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
    values = np.full((HEIGHT, WIDTH), disparity, np.float32)
    known = np.ones((HEIGHT, WIDTH), bool)
    return StereoSample(left, right, values, known, values.copy(), known.copy(), np.zeros((HEIGHT, WIDTH), bool), key="made")


def only(**params):
    return {"probability": 1.0, "patches": (1, 1), "size": (10, 20), **params}


def touched(before, after):
    """The rectangle around the pixels of the right image that changed, as rows and columns."""
    rows, columns = np.nonzero((before.right != after.right).any(2))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_numbers_and_sides_are_those_asked_for():
    rng = np.random.default_rng(0)
    drawn = [draw_boxes((500, 700), rng, 0.5, (1, 2), (50, 99)) for _ in range(2000)]
    counts = np.bincount([len(boxes) for boxes in drawn]) / len(drawn)
    assert np.abs(counts - [0.5, 0.25, 0.25]).max() < 0.04
    inside = [box for boxes in drawn for box in boxes if box[0].stop < 500 and box[1].stop < 700]
    sides = np.array([[part.stop - part.start for part in box] for box in inside])
    assert sides.min() == 50 and sides.max() == 99 and np.abs(np.corrcoef(sides.T)[0, 1]) < 0.1
    starts = np.array([[box[0].start, box[1].start] for boxes in drawn for box in boxes])
    assert (starts.min(0) < 5).all() and (starts.max(0) > [494, 694]).all()


def test_a_patch_larger_than_the_image_covers_it_and_no_more():
    rows, columns = draw_boxes((8, 12), np.random.default_rng(0), 1, (1, 1), (500, 500))[0]
    assert rows.stop == 8 and columns.stop == 12


def test_eraser_paints_the_mean_colour_on_the_right_eye_only():
    before = sample()
    mean = np.rint(before.right.reshape(-1, 3).astype(float).mean(0))
    for seed in range(10):
        after = eraser(before, np.random.default_rng(seed), **only()).check()
        box = touched(before, after)
        assert (after.right[box] == mean).all() and after.left is before.left
    assert eraser(before, np.random.default_rng(0), probability=0.0) is before
    assert eraser(before, np.random.default_rng(0), **only(patches=(0, 0))) is before


def test_occlusion_shows_another_place_turned_by_half_a_turn():
    before = sample()
    for seed in range(10):
        after = occlusion(before, np.random.default_rng(seed), **only()).check()
        rows, columns = touched(before, after)
        patch = after.right[rows, columns][::-1, ::-1]
        tall, wide = patch.shape[:2]
        places = [(y, x) for y in range(HEIGHT - tall + 1) for x in range(WIDTH - wide + 1) if (before.right[y, x] == patch[0, 0]).all()]
        assert any((before.right[y : y + tall, x : x + wide] == patch).all() for y, x in places)
        assert after.left is before.left


def test_what_the_left_eye_sees_keeps_its_ground_truth():
    before = sample()
    for augment in (eraser, occlusion):
        after = augment(before, np.random.default_rng(0), **only())
        assert after.disparity is before.disparity and after.valid is before.valid


def test_what_the_right_eye_sees_no_more_loses_it_and_its_match_is_occluded():
    before = sample()
    box = (slice(2, 5), slice(4, 8))
    after = cover(before, [box], [np.zeros(3, np.uint8)]).check()
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[box] = False
    assert (after.valid_right == expected).all() and (after.disparity_right == DISPARITY * expected).all()
    hidden = np.zeros((HEIGHT, WIDTH), bool)
    hidden[2:5, 4 + DISPARITY : 8 + DISPARITY] = True  # x_left = x_right + disparity
    assert (after.occluded == hidden).all()
    assert not before.occluded.any() and before.valid_right.all() and (before.right[box] != 0).any()


def test_a_match_between_two_pixels_is_hidden_with_the_nearer_one():
    after = cover(sample(disparity=2.6), [(slice(2, 3), slice(4, 8))], [np.zeros(3, np.uint8)])
    assert np.nonzero(after.occluded[2])[0].tolist() == [7, 8, 9, 10]  # 7 - 2.6 = 4.4 lies in pixel 4, 10 - 2.6 = 7.4 in pixel 7


def test_unknown_pixels_are_not_called_occluded():
    before = sample()
    known = before.valid.copy()
    known[2, 8] = False
    after = cover(before.replace(valid=known), [(slice(2, 5), slice(4, 8))], [np.zeros(3, np.uint8)])
    assert not after.occluded[2, 8] and after.occluded[3, 8]


def test_a_sample_that_knows_neither_stays_so():
    alone = sample().replace(disparity_right=None, valid_right=None, occluded=None)
    after = eraser(alone, np.random.default_rng(0), **only()).check()
    assert after.disparity_right is None and after.valid_right is None and after.occluded is None
