"""The renderer's ground truth against surfaces worked out by hand, against brute force, and against the pictures themselves."""

import cv2
import numpy as np
import pytest

from train.datasets import build_dataset
from train.datasets.synthetic.abstract import abstract, fit
from train.datasets.synthetic.materials import MATERIALS
from train.datasets.synthetic.places import SCENES
from train.datasets.synthetic.render import Skin, occlusion, paint
from train.datasets.synthetic.shapes import GROUNDS, RELIEFS, SOLID, THIN, frame
from train.datasets.synthetic.sheet import MAX_SLOPE, Sheet
from train.datasets.synthetic.skins import Skins
from train.datasets.synthetic.solid import Solid
from train.datasets.synthetic.spread import MODES, draw, draw_spread
from train.datasets.synthetic.stencils import STENCILS
from train.datasets.synthetic.textures import MAKERS, flat
from utils.errors import UserError
from utils.geometry import warp_right

SIZE = (160, 96)
LIMITS = (0.5, 48.0)
FAULTS = ("reflections", "noise", "shot_noise", "eye_difference", "vignetting", "defocus", "motion_blur", "eye_blur")
PERFECT = dict.fromkeys(FAULTS, 0)


def synthetic(**params):
    return build_dataset("synthetic", None, {"size": SIZE, **params}, "data")


def scene(index, size=SIZE, limits=LIMITS, count=8):
    rng = np.random.default_rng([7, index])
    return abstract(rng, size, draw_spread(rng, limits, "log_uniform"), count, Skins(rng, None, 0, 0)).surfaces


def surface_of(disparity, corner=(0, 0), inside=None, grey=100.0):
    disparity = np.asarray(disparity, np.float32)
    skin = Skin(np.full((4, 4, 4), grey, np.uint8))
    return Sheet(corner, disparity, inside, np.ones_like(disparity), skin, np.array([[1.0, 0, 0], [0, 1.0, 0]]))


def test_right_view_of_a_plane_is_its_inverse():
    x = np.arange(60)
    surface = surface_of(np.tile(2 + 0.25 * x, (3, 1)))
    part = surface.right(width=40)
    assert part.corner == (0, 0) and part.x.shape == (3, 40)
    shown = np.arange(40)
    expected = (shown + 2) / 0.75  # x - (2 + 0.25 x) = shown
    assert part.x == pytest.approx(np.tile(expected, (3, 1)), abs=1e-4)
    assert part.disparity == pytest.approx(np.tile(expected - shown, (3, 1)), abs=1e-5)


def test_right_view_of_a_piecewise_surface_by_hand():
    part = surface_of([[1.0, 1.5, 1.0, 3.0 - 1.2, 1.8]], corner=(10, 5)).right(width=30)
    # columns 10..14 appear at 9, 9.5, 11, 11.2, 12.2: pixel 10 lies a third of the way from column 11 to 12
    assert part.corner == (9, 5)
    assert part.x[0] == pytest.approx([10, 11 + 1 / 3, 12, 13.8], abs=1e-5)
    assert part.disparity[0] == pytest.approx([1, 4 / 3, 1, 1.8], abs=1e-5)


def test_a_surface_out_of_one_view_is_not_in_it():
    assert surface_of(np.full((2, 4), 20), corner=(50, 0)).look("left", (50, 2)) is None
    assert surface_of(np.full((2, 4), 20), corner=(3, 0)).look("right", (50, 2)) is None
    assert surface_of(np.full((2, 4), 20), corner=(80, 0)).look("right", (50, 2)) is None


def test_nearest_wins_in_each_view_and_what_it_covers_is_occluded():
    wall, post = surface_of(np.full((4, 40), 2)), surface_of(np.full((4, 6), 7), corner=(15, 0), grey=200)
    left, right = paint([wall, post], (30, 4), "left"), paint([wall, post], (30, 4), "right")
    assert (left.disparity[0, 15:21] == 7).all() and (np.delete(left.disparity[0], np.r_[15:21]) == 2).all()
    assert (right.disparity[0, 8:13] == 7).all() and np.allclose(
        right.image[0, 8:13], 200, atol=0.01
    )  # columns 15..20 appear at 8..13, 13 is its end
    assert (np.delete(right.disparity[0], np.r_[8:14]) == 2).all()
    hidden = np.flatnonzero(occlusion(left, right)[0])
    assert hidden.tolist() == [0, 1, 10, 11, 12, 13, 14]  # wall at 10..14 appears at 8..12, behind the post; 0 and 1 leave the view


def test_outlines_are_softened_but_ground_truth_is_not():
    inside = np.tile(np.array([-1, -0.25, 0.25, 1, 1], np.float32), (2, 1))
    post = surface_of(np.full((2, 5), 3), corner=(4, 0), inside=inside, grey=200)
    left = paint([surface_of(np.full((2, 20), 1)), post], (12, 2), "left")
    assert left.image[0, 3:9, 0] == pytest.approx([100, 100, 125, 175, 200, 200], abs=1)
    assert left.disparity[0, 3:9].tolist() == [1, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 4), (1, 2), (2, 1)])
def test_a_thing_of_a_few_pixels_is_painted(shape):
    """Of which OpenCV takes some for a scalar, not for an image."""
    speck = surface_of(np.full(shape, 3), corner=(5, 1), inside=np.full(shape, 2, np.float32), grey=200)
    left = paint([surface_of(np.full((6, 20), 1)), speck], (12, 6), "left")
    expected = np.ones((6, 12), np.float32)
    expected[1 : 1 + shape[0], 5 : 5 + shape[1]] = 3
    assert np.array_equal(left.disparity, expected) and left.image[expected == 3] == pytest.approx(200, abs=0.01)


def brute_right(surface, row, shown):
    """Disparity and distance to the outline at one place of the right view, by NumPy's interpolation; None where it is not."""
    y = row - surface.corner[1]
    if not 0 <= y < surface.disparity.shape[0]:
        return None
    x = surface.corner[0] + np.arange(surface.disparity.shape[1], dtype=np.float64)
    t = x - surface.disparity[y]
    if not t[0] <= shown < t[-1]:
        return None
    place = np.interp(shown, t, x)
    inside = 1.0 if surface.inside is None else np.interp(place, x, surface.inside[y])
    return (place - shown, inside) if inside > 0 else None


@pytest.mark.parametrize("index", range(3))
def test_right_view_and_occlusion_equal_brute_force(index):
    size = (64, 20)
    surfaces = scene(index, size, (0.5, 24.0), 6)
    left, right = paint(surfaces, size, "left"), paint(surfaces, size, "right")
    for row in range(0, size[1], 3):
        winner = np.full(size[0], -1)
        nearest = np.zeros(size[0])
        doubtful = np.zeros(size[0], bool)  # an outline or a crossing within rounding
        for shown in range(size[0]):
            found = {number: entry for number, s in enumerate(surfaces) if (entry := brute_right(s, row, shown)) is not None}
            ranking = sorted(found, key=lambda number: -found[number][0])
            winner[shown], nearest[shown] = ranking[0], found[ranking[0]][0]
            doubtful[shown] = any(abs(inside) < 1e-3 for _, inside in found.values()) or (
                len(ranking) > 1 and found[ranking[0]][0] - found[ranking[1]][0] < 1e-3
            )
        assert (right.surface[row] == winner)[~doubtful].all() and doubtful.mean() < 0.1
        assert np.abs(right.disparity[row] - nearest)[(right.surface[row] == winner)].max() < 1e-3
        match = np.arange(size[0]) - left.disparity[row]
        seen = np.clip(np.rint(match), 0, size[0] - 1).astype(int)
        expected = (match < 0) | ((winner[seen] != left.surface[row]) & (nearest[seen] > left.disparity[row]))
        assert (occlusion(left, right)[row] == expected)[~doubtful[seen]].all()


@pytest.mark.parametrize("index", range(4))
def test_both_views_show_the_same_surface_point(index):
    surfaces = scene(index)
    left, right = paint(surfaces, SIZE, "left"), paint(surfaces, SIZE, "right")
    # A right pixel names a place x + d of the left view; the left's disparity there, linear between two columns of that surface, is d.
    place = np.arange(SIZE[0]) + right.disparity.astype(np.float64)
    first = np.floor(place).astype(int)
    rows, columns = np.nonzero(first < SIZE[0] - 1)
    first, place = first[rows, columns], place[rows, columns]
    same = (left.surface[rows, first] == right.surface[rows, columns]) & (left.surface[rows, first + 1] == right.surface[rows, columns])
    assert same.mean() > 0.5
    low, high = left.disparity[rows, first], left.disparity[rows, first + 1]
    error = np.abs(low + (high - low) * (place - first) - right.disparity[rows, columns])[same]
    assert error.max() < 1e-3
    # And the other way: the right's disparity at x - d, where its neighbours show that surface and do not bend within the pixel.
    warped, inside = warp_right(right.disparity, left.disparity)
    error = np.abs(warped - left.disparity)[inside & ~occlusion(left, right)]
    assert np.median(error) < 5e-3 and np.percentile(error, 90) < 0.05


def test_no_surface_turns_over_between_the_eyes():
    for index in range(10):
        for surface in scene(index):
            assert np.abs(np.diff(surface.disparity, axis=1)).max() <= MAX_SLOPE + 1e-3


def test_fit_respects_range_spread_and_slope():
    relief = np.tile(np.linspace(-3, 9, 13, dtype=np.float32), (2, 1))
    assert fit(relief, 20, 2, (1, 50))[0, [0, 12]] == pytest.approx([18, 22])
    assert fit(relief, 20, 30, (1, 50))[0, [0, 12]] == pytest.approx([17, 23])  # half a pixel per column at most
    assert fit(relief, 2, 30, (1, 50))[0, [0, 12]] == pytest.approx([1, 3])
    assert (fit(np.zeros((2, 3), np.float32), 4, 1, (1, 9)) == 4).all()


@pytest.mark.parametrize("make", [*RELIEFS.values(), *GROUNDS.values(), *SOLID, *THIN])
def test_shapes_are_finite_and_fill_their_window(make):
    for seed in range(5):
        at = frame((3, 4, 50, 40), (28, 24), (22.0, 15.0), 0.1 * seed)
        values = make(at, np.random.default_rng(seed))
        assert values.shape == (40, 50) and values.dtype == np.float32 and np.isfinite(values).all()
        if make in SOLID:
            assert values.max() > 3 and max(values[0].max(), values[-1].max()) < 3  # there is something, and it ends


@pytest.mark.parametrize("make", [*MAKERS, flat, *MATERIALS.values()])
def test_textures_are_pictures(make):
    for seed in range(5):
        picture = make(np.random.default_rng(seed), 50, 70)
        assert picture.shape == (50, 70, 3) and picture.dtype == np.uint8 and 3 < picture.mean() < 252


@pytest.mark.parametrize("make", list(STENCILS.values()))
def test_stencils_are_thin_and_end_before_their_border(make):
    for seed in range(5):
        picture = make(np.random.default_rng(seed), 160, 160)
        assert picture.shape == (160, 160, 4) and picture.dtype == np.uint8
        coverage = picture[..., 3]
        assert 0.01 < (coverage > 127).mean() < 0.9
        assert not (coverage[0].any() or coverage[-1].any() or coverage[:, 0].any() or coverage[:, -1].any())


@pytest.mark.parametrize("name", list(SCENES))
def test_warping_right_by_the_disparity_gives_left(name):
    dataset = synthetic(**PERFECT, scenes={name: 1}, seed=3)
    errors = []
    for index in range(5):
        sample = dataset.load(index)
        gradient = cv2.morphologyEx(sample.disparity, cv2.MORPH_GRADIENT, np.ones((3, 3)))
        smooth = cv2.dilate((gradient > 1).astype(np.uint8), np.ones((3, 3))) == 0
        for disparity in (sample.disparity, sample.disparity + 1, 1.2 * sample.disparity, 0 * sample.disparity):
            warped, inside = warp_right(sample.right, disparity)
            errors.append(np.abs(warped - sample.left)[~sample.occluded & smooth & inside].mean())
    here, *wrong = np.reshape(errors, (-1, 4)).mean(0)
    assert here < 2.5  # grey levels of 255, left of resampling textures that are sharp to a pixel or two
    assert min(wrong) > 2 * here


def test_a_sample_is_a_function_of_seed_and_index():
    first, again = synthetic(seed=1, residual_pose=(1, 0.02)), synthetic(seed=1, residual_pose=(1, 0.02))
    for index in range(6):
        one = first.load(index)
        again.load(index + 1)
        two = again.load(index)
        for field in ("left", "right", "disparity", "valid", "occluded", "pose"):
            assert (getattr(one, field) == getattr(two, field)).all(), field
        assert one.key == two.key == first.key(index) == f"{index:08d}"
        assert (first.load(index + 1).left != one.left).any() and (synthetic(seed=2).load(index).left != one.left).any()


@pytest.mark.parametrize(("lowest", "highest"), [(0.5, 20), (4, 100), (30, 31)])
@pytest.mark.parametrize("name", list(SCENES))
def test_samples_keep_the_contract_and_the_range(name, lowest, highest):
    dataset = synthetic(min_disparity=lowest, max_disparity=highest, length=12, scenes={name: 1})
    assert len(dataset) == 12 and dataset.has_right_disparity
    for index in range(5):
        sample = dataset.load(index).check()
        assert sample.disparity.shape == SIZE[::-1] and sample.valid.all() and sample.occluded.dtype == bool and sample.pose is None
        for disparity in (sample.disparity, sample.disparity_right):
            assert lowest - 1e-3 <= disparity.min() and disparity.max() <= highest + 1e-3


@pytest.mark.parametrize("size", [(32, 32), (64, 320), (400, 48)])
def test_any_size_is_rendered(size):
    for name in SCENES:
        assert synthetic(size=size, scenes={name: 1}).load(0).check().disparity.shape == size[::-1]


def test_small_and_large_disparities_occur_and_scenes_differ():
    dataset = synthetic(max_disparity=64)
    maps = [dataset.load(index).disparity for index in range(24)]
    everything = np.concatenate([disparity.ravel() for disparity in maps])
    assert np.mean(everything < 8) > 0.1 and np.mean(everything > 24) > 0.08
    assert np.std([np.median(disparity) for disparity in maps]) > 4


def test_distributions_by_hand():
    assert [MODES[mode](0.25, 1, 16) for mode in ("log_uniform", "uniform", "near")] == pytest.approx([2, 4.75, 8.5])
    for mode in MODES:
        values = [draw(np.random.default_rng(seed), 2, 50, mode) for seed in range(200)]
        assert 2 <= min(values) < 12 and 45 < max(values) <= 50


def test_the_distribution_of_disparities_follows_its_mode():
    def upper(mode):  # share of pixels in the upper half of the range
        dataset = synthetic(size=(64, 48), max_disparity=32, disparity_distribution=mode, scenes={"abstract": 1})
        return np.mean([dataset.load(index).disparity > 16 for index in range(80)])

    shares = [upper(mode) for mode in ("log_uniform", "uniform", "near")]
    assert shares[0] + 0.03 < shares[1] < shares[2] - 0.01


@pytest.mark.parametrize("name", ["abstract", "room", "street", "garden"])
def test_thin_structures_appear(name):
    dataset = synthetic(size=(256, 160), scenes={name: 1})
    thin = []
    for index in range(6):  # what stands at least a pixel of disparity before all that surrounds it, and is less than 5 pixels wide
        disparity = dataset.load(index).disparity
        thin.append((disparity - cv2.morphologyEx(disparity, cv2.MORPH_OPEN, np.ones((5, 5))) > 1).mean())
    assert np.mean(thin) > 0.004


def test_shares_of_scenes_are_kept():
    dataset = synthetic(scenes={"abstract": 3, "desk": 1, "room": 0})
    camera_like = [any(isinstance(surface, Solid) for surface in dataset.scene(index).surfaces) for index in range(200)]
    assert 0.17 < np.mean(camera_like) < 0.33


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"min_disparity": 9, "max_disparity": 8}, "min < max"),
        ({"max_disparity": 150}, "three quarters of the width 160"),
        ({"min_disparity": 0}, r"data\.min_disparity"),
        ({"disparity_distribution": "gauss"}, r"data\.disparity_distribution: found 'gauss'"),
        ({"scenes": {"steet": 1}}, "unknown scene 'steet'; did you mean 'street'"),
        ({"scenes": {"street": 0}}, "no share is above 0"),
        ({"scenes": {"street": -1}}, r"data\.scenes\.street"),
        ({"scenes": {}}, "no share is above 0"),
        ({"objects": [5, 2]}, "least number first"),
        ({"objects": [-1, 2]}, r"data\.objects\[0\]"),
        ({"size": [16, 96]}, r"data\.size"),
        ({"length": 0}, r"data\.length"),
        ({"seed": -1}, r"data\.seed"),
        ({"textures": "no/such/folder"}, "no/such/folder is not a folder"),
        ({"textures_share": 1.5}, r"data\.textures_share"),
        ({"reflections": -0.1}, r"data\.reflections"),
        ({"noise": 51}, r"data\.noise"),
        ({"shot_noise": -1}, r"data\.shot_noise"),
        ({"eye_difference": 0.6}, r"data\.eye_difference"),
        ({"vignetting": 2}, r"data\.vignetting"),
        ({"defocus": -1}, r"data\.defocus"),
        ({"motion_blur": 21}, r"data\.motion_blur"),
        ({"eye_blur": "much"}, r"data\.eye_blur"),
        ({"residual_pose": [1]}, r"data\.residual_pose"),
        ({"residual_pose": [-1, 0]}, r"data\.residual_pose\[0\]"),
        ({"lenght": 5}, "did you mean 'length'"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(params, said):
    with pytest.raises(UserError, match=said) as caught:
        synthetic(**params)
    assert "\n" not in str(caught.value)


def test_a_path_is_refused():
    with pytest.raises(UserError, match="leave the path out"):
        build_dataset("synthetic", "./data", {}, "data")
