"""How a pair is looked at: any scale gives the same disparity at the pair's own size, the other eye says what is hidden."""

import numpy as np
import pytest
import torch
from torch import nn

from core import MODELS
from core.inference import Estimate, estimate
from core.output import StereoOutput
from tests.core.networks import TINY, tiny, tiny_of
from train.inference import Estimator, Settings, _seen, _tiles, build_estimator, network_estimator
from utils.errors import UserError

HEIGHT, WIDTH = 60, 120
CPU = torch.device("cpu")


def slope(height=HEIGHT, width=WIDTH):
    """The disparity of a slanted wall in a picture of that size: 20 to 40 px of the full width."""
    columns = (np.arange(width) + 0.5) / width
    return np.broadcast_to(((20 + 20 * columns) * width / WIDTH).astype(np.float32), (height, width)).copy()


def knows_the_wall(left, right):
    """With a standard deviation of one pixel of the pair, which is less of a smaller picture's."""
    deviation = left.shape[1] / WIDTH
    return Estimate(slope(*left.shape[:2]), np.full(left.shape[:2], 2 * np.log(deviation), np.float32))


def pair(height=HEIGHT, width=WIDTH, seed=0):
    return tuple(np.random.default_rng(seed + eye).integers(0, 256, (height, width, 3), np.uint8) for eye in range(2))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 0.3])
def test_any_scale_gives_the_disparity_of_the_pair(scale):
    found = Estimator(knows_the_wall, Settings(scale=scale))(*pair())
    inner = slice(4, -4)  # beyond the centres of the outermost small pixels nothing is known
    assert found.disparity.shape == (HEIGHT, WIDTH)
    assert found.disparity[:, inner] == pytest.approx(slope()[:, inner], rel=1e-3)
    assert found.confidence == pytest.approx(np.full((HEIGHT, WIDTH), 0.6827), abs=1e-4)  # of one standard deviation
    assert found.agree is None


def test_the_look_sees_the_scaled_pair():
    sizes = []

    def look(left, right):
        sizes.append((left.shape, right.shape))
        return knows_the_wall(left, right)

    Estimator(look, Settings(scale=0.5))(*pair())
    assert sizes == [((30, 60, 3), (30, 60, 3))]


def test_the_other_eye_says_what_is_hidden():
    """A near bar before a far wall, known to both eyes; the mirrored pair is told from the plain one by its first pixel."""
    left, right = (np.zeros((2, 20, 3), np.uint8) for _ in range(2))
    left[..., 0], right[..., 0] = 10, 20
    near_left, near_right = np.full((2, 20), 2, np.float32), np.full((2, 20), 2, np.float32)
    near_left[:, 10:14] = 5
    near_right[:, 5:9] = 5

    def look(first, second):
        if first[0, 0, 0] == 10:
            return Estimate(near_left)
        assert second[0, 0, 0] == 10
        return Estimate(near_right[:, ::-1].copy())

    found = Estimator(look, Settings(left_right=True))(left, right)
    beyond_the_border, behind_the_bar = [0, 1], [7, 8, 9]  # right columns x - 2 below 0, and those from 5 to 8 that show the bar
    assert np.flatnonzero(~found.agree[0]).tolist() == beyond_the_border + behind_the_bar
    assert (found.disparity == near_left).all()


def test_a_network_is_asked_as_the_settings_say():
    model = tiny().eval()
    views = pair(64, 96)
    np.testing.assert_array_equal(network_estimator(model, Settings(iterations=1))(*views).disparity, model.infer(*views, iters=1))
    hierarchical = network_estimator(model, Settings(iterations=1, hierarchical=True))
    np.testing.assert_array_equal(hierarchical(*views).disparity, model.infer(*views, iters=1, hierarchical=True))
    assert network_estimator(model, Settings(scale=0.5)).limit_px == 2 * TINY["max_disp"]
    assert hierarchical.limit_px == 2 * TINY["max_disp"]
    scales = network_estimator(model, Settings(scales=(0.5, 1)))
    np.testing.assert_array_equal(scales(*views).disparity, estimate(model, *views, scales=(1, 0.5)).disparity)
    assert scales.limit_px == 2 * TINY["max_disp"]
    for asked, range_px in (
        (Settings(tile=(512, 512), max_disparity=100), 140),
        (Settings(tile=(512, 512), max_disparity=100, cascades=2), 100),
    ):
        assert _tiles(asked, None, _seen(asked, (1.0, 1.4))).range_px == pytest.approx(range_px)
    low = network_estimator(model, Settings(iterations=1, precision="bf16"))(*views).disparity
    assert low.dtype == np.float32 and np.isfinite(low).all()


def test_by_file_and_by_name(tmp_path):
    torch.save({"model_config": TINY, "model": tiny().state_dict()}, tmp_path / "w.pt")
    settings = Settings(iterations=1)
    views = pair(64, 96)
    found = build_estimator(str(tmp_path / "w.pt"), CPU, settings)(*views).disparity
    np.testing.assert_array_equal(found, tiny().eval().infer(*views, iters=1))
    assert build_estimator("sgbm", CPU, Settings(max_disparity=30))(*views).disparity.shape == (64, 96)


@pytest.mark.parametrize("kind", list(MODELS))
def test_every_network_at_every_setting(kind):
    model = tiny_of(kind).eval()
    plain = network_estimator(model)(*pair())
    assert plain.disparity.shape == (HEIGHT, WIDTH) and (plain.confidence is None) == ("log_variance" not in model.offers)
    settings = Settings(iterations=2, scale=1.5, tile=(128, 64), tile_overlap=8, max_disparity=16, left_right=True, precision="bf16")
    found = network_estimator(model, settings)(*pair())
    for part in (found.disparity, found.agree, *([] if plain.confidence is None else [found.confidence])):
        assert part.shape == (HEIGHT, WIDTH) and np.isfinite(part).all()


class Nothing(nn.Module):
    """A network without a range of its own."""

    padding, stride = 8, 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, left, right, iters=None, init=None):
        return StereoOutput(self.weight * left.mean(1, keepdim=True))


class Failing(Nothing):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, left, right, iters=None, init=None):
        raise self.error

    def compile(self):
        """What fails is found at the first call."""


def test_tiles_need_a_range():
    with pytest.raises(UserError, match="--tile: this network has no range of its own; say with --max_disparity"):
        network_estimator(Nothing(), Settings(tile=(64, 64)))
    found = network_estimator(Nothing(), Settings(tile=(64, 48), tile_overlap=8, max_disparity=16))(*pair())
    assert found.disparity.shape == (HEIGHT, WIDTH)
    assert network_estimator(Nothing()).limit_px is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "not enough memory on cpu for 120 x 60 at once; use --tile"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory on cpu"),
        (torch._dynamo.exc.TorchDynamoException("no\ncompiler"), r"--compile: torch.compile failed \(no compiler\); leave it out"),
    ],
)
def test_what_the_machine_cannot_do_is_one_line(error, said):
    with pytest.raises(UserError, match=said):
        network_estimator(Failing(error), compiled=True)(*pair())


def test_our_own_faults_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shape"):
        network_estimator(Failing(RuntimeError("shape mismatch")))(*pair())


def test_half_precision_needs_a_gpu():
    with pytest.raises(UserError, match="--precision fp16: needs a GPU"):
        network_estimator(Nothing(), Settings(precision="fp16"))


@pytest.mark.slow
def test_a_compiled_network_gives_what_it_gave():
    views = pair(64, 96)
    plain = network_estimator(tiny().eval(), Settings(iterations=1))(*views).disparity
    compiled = network_estimator(tiny().eval(), Settings(iterations=1), compiled=True)(*views).disparity
    np.testing.assert_allclose(compiled, plain, atol=1e-3)
