"""Losses by values worked out by hand, by their gradients and by what they must refuse; the objective by what a mixture gets."""

import json
import math

import numpy as np
import pytest
import torch

from core.cost_volume import soft_argmin
from core.output import StereoOutput
from train.losses import LOSSES, Objective
from train.sample import StereoBatch
from utils.errors import UserError

EXTRA = {"multi_scale_loss": {"weights": [0.5, 0.7, 1.0]}}


def batch_of(disparity, valid=None, label_types=None, left=None):
    disparity = torch.as_tensor(disparity, dtype=torch.float32)
    size, height, width = disparity.shape
    valid = torch.ones_like(disparity, dtype=torch.bool) if valid is None else torch.as_tensor(valid)
    image = torch.zeros(size, 3, height, width) if left is None else left
    names = [str(row) for row in range(size)]
    return StereoBatch(image, image, disparity, valid, names, ["made"] * size, label_types or ["stereo"] * size)


def output_of(disparity, initial=None):
    disparity = torch.as_tensor(disparity, dtype=torch.float32)
    return StereoOutput(disparity[:, None] if disparity.dim() == 3 else disparity, initial)


def objective_of(function, **params):
    return Objective({"stereo": {"one": {"function": function, "params": params}}})


def random_case(seed=0, height=8, width=12, iterations=3):
    generator = torch.Generator().manual_seed(seed)
    disparities = 20 * torch.rand(2, iterations, height, width, generator=generator)
    initial = 5 * torch.rand(2, 1, height // 4, width // 4, generator=generator)
    vertical = torch.rand(disparities.shape, generator=generator) - 0.5
    log_variance = torch.rand(2, height, width, generator=generator)
    scores, correlation = (4 * torch.rand(2, 6, height // 4, width // 4, generator=generator) for _ in range(2))
    left = torch.rand(2, 3, height, width, generator=generator)
    batch = batch_of(20 * torch.rand(2, height, width, generator=generator), left=left)
    batch.valid = torch.rand(2, height, width, generator=generator) > 0.4
    batch.valid[:, 0, 0] = True
    pose, batch.pose = (torch.rand(2, 6, generator=generator) for _ in range(2))
    return StereoOutput(disparities, initial, vertical, log_variance, pose, scores, correlation), batch


def leaves_of(output):
    """The same numbers, each field a leaf of the graph."""
    return StereoOutput(*(tensor.requires_grad_() for tensor in output))


@pytest.mark.parametrize("name", ["disparity_l1_loss", "epe_loss"])
def test_l1_is_the_mean_over_the_valid_pixels_of_a_sample(name):
    batch = batch_of([[[1.0, 2.0], [3.0, 100.0]], [[1.0, 1.0], [1.0, 1.0]]], [[[True, True], [True, False]], [[True] * 2] * 2])
    output = output_of([[[2.0, 2.0], [6.0, 0.0]], [[1.0, 1.0], [1.0, 3.0]]])
    assert LOSSES[name](output, batch).tolist() == pytest.approx([(1 + 0 + 3) / 3, 0.5])


def test_max_disparity_leaves_out_ground_truth_that_reaches_it():
    output, batch = output_of([[[0.0, 0.0, 0.0]]]), batch_of([[[1.0, 4.0, 5.0]]])
    assert LOSSES["disparity_l1_loss"](output, batch, max_disparity=5.0).tolist() == [2.5]


def test_smooth_l1_by_hand():
    output, batch = output_of([[[0.5, 3.0]]]), batch_of([[[0.0, 0.0]]])
    assert LOSSES["smooth_l1_loss"](output, batch, beta=1.0).tolist() == pytest.approx([(0.125 + 2.5) / 2])
    assert LOSSES["smooth_l1_loss"](output, batch, beta=2.0).tolist() == pytest.approx([(0.0625 + 2.0) / 2])


def test_multi_scale_is_coarse_to_fine_and_averages_valid_pixels_only():
    disparity = [[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    valid = [[[True, False, True, True], [True, False, False, False]]]
    output, batch = output_of([[[1.0, 50.0, -1.0, 3.0], [3.0, 50.0, 50.0, 50.0]]]), batch_of(disparity, valid)
    fine, half = (1 + 1 + 3 + 3) / 4, (2 + 1) / 2  # blocks: mean(1, 3) = 2 and mean(-1, 3) = 1
    quarter = (1 - 1 + 3 + 3) / 4  # one block of everything valid
    found = LOSSES["multi_scale_loss"](output, batch, weights=[100.0, 10.0, 1.0], loss_type="l1")
    assert found.tolist() == pytest.approx([100 * quarter + 10 * half + fine])


def test_multi_scale_of_one_level_is_the_plain_loss_and_odd_sizes_fit():
    output, batch = random_case(height=8, width=12)
    one = LOSSES["multi_scale_loss"](output, batch, weights=[1.0], loss_type="l1")
    torch.testing.assert_close(one, LOSSES["disparity_l1_loss"](output, batch))
    small = LOSSES["multi_scale_loss"](
        output_of([[[1.0, 2.0, 3.0]] * 5]), batch_of([[[0.0, 0.0, 0.0]] * 5]), weights=[1.0] * 5, loss_type="l1"
    )
    assert small.tolist() == pytest.approx([2.0 + 2.0 + 2.0 + (1.5 + 3) / 2 + 2.0])


def test_sequence_weighs_the_last_iteration_most():
    output, batch = output_of([[[[3.0]], [[2.0]], [[1.0]]]]), batch_of([[[0.0]]])
    assert LOSSES["sequence_loss"](output, batch, gamma=0.5).tolist() == pytest.approx([0.25 * 3 + 0.5 * 2 + 1])
    assert LOSSES["sequence_loss"](output, batch, gamma=0.5, loss_type="smooth_l1").tolist() == pytest.approx(
        [0.25 * 2.5 + 0.5 * 1.5 + 0.5]
    )


@pytest.mark.parametrize("iterations", [1, 2, 22])
def test_adjusted_gamma_gives_the_first_iteration_the_same_weight(iterations):
    output = output_of(torch.zeros(1, iterations, 1, 1).index_fill(1, torch.tensor([0]), 1.0))
    expected = 1.0 if iterations == 1 else 0.9**15
    assert LOSSES["sequence_loss"](output, batch_of([[[0.0]]]), adjust_gamma=True).tolist() == pytest.approx([expected])


def test_initial_disparity_takes_every_fourth_pixel_divided_by_four():
    disparity = torch.full((1, 8, 8), 1000.0)
    disparity[0, ::4, ::4] = torch.tensor([[4.0, 8.0], [12.0, 40.0]])
    batch = batch_of(disparity)
    batch.valid[0, 4, 4] = False
    initial = torch.tensor([[[[1.5, 2.0], [5.0, float("nan")]]]])
    found = LOSSES["initial_disparity_loss"](output_of(disparity, initial), batch)
    assert found.tolist() == pytest.approx([(0.125 + 0 + 1.5) / 3])


def test_initial_disparity_at_full_size_is_upsampled_and_scaled():
    initial = torch.tensor([[[[1.0, 2.0]]]])
    batch = batch_of([[[4.0] * 8] * 4])
    ramp = 4 * torch.linspace(1, 2, 8) - 4
    expected = torch.where(ramp < 1, ramp**2 / 2, ramp - 0.5).mean()
    assert LOSSES["initial_disparity_loss"](output_of(batch.disparity, initial), batch, resolution="full").item() == pytest.approx(
        expected.item()
    )


def test_cross_entropy_shares_the_truth_between_the_two_planes_next_to_it():
    disparity = torch.zeros(1, 8, 8)
    disparity[0, 0, 0], disparity[0, 0, 4], disparity[0, 4, 0], disparity[0, 4, 4] = 5.0, 8.0, 8.5, 0.0  # 1.25, 2, beyond the last, 0
    scores = torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    total = math.log(1 + math.exp(2) + math.exp(1))
    output = output_of(disparity)._replace(plane_scores=scores)
    found = LOSSES["plane_cross_entropy"](output, batch_of(disparity))
    assert found.tolist() == pytest.approx([total - (0.75 * 2 + 0.25 * 1 + 1 + 0) / 3])


def test_cross_entropy_of_the_features_is_that_of_sharper_scores():
    output, batch = random_case()
    sharper = output._replace(plane_scores=3 * output.plane_correlation)
    expected = LOSSES["plane_cross_entropy"](sharper, batch)
    torch.testing.assert_close(LOSSES["correlation_cross_entropy"](output, batch, sharpness=3.0), expected)


def test_cross_entropy_is_least_where_the_mean_plane_is_the_truth():
    disparity = torch.full((1, 4, 4), 6.0)  # between planes 1 and 2
    scores = torch.full((1, 4, 1, 1), -30.0)
    scores[0, 1:3] = 0.0
    scores.requires_grad_()
    LOSSES["plane_cross_entropy"](output_of(disparity)._replace(plane_scores=scores), batch_of(disparity)).sum().backward()
    assert soft_argmin(scores).item() == pytest.approx(1.5) and scores.grad.abs().max() < 1e-6


def test_initial_disparity_needs_a_network_that_has_one():
    with pytest.raises(UserError, match="'initial' in its output, and this one has none"):
        LOSSES["initial_disparity_loss"](output_of([[[1.0]]]), batch_of([[[1.0]]]))


def test_vertical_loss_by_hand():
    """Two iterations, an invalid pixel: 0.5 * mean(1, 3) + mean(0, 2)."""
    vertical = torch.tensor([[[[1.0, -3.0, 9.0]], [[0.0, 2.0, 9.0]]]])
    batch = batch_of([[[4.0, 4.0, 4.0]]], [[[True, True, False]]])
    output = StereoOutput(torch.zeros(1, 2, 1, 3), vertical=vertical)
    assert LOSSES["vertical_loss"](output, batch, gamma=0.5).tolist() == [0.5 * 2 + 1]
    with pytest.raises(UserError, match="'vertical' in its output, and this one has none"):
        LOSSES["vertical_loss"](output_of([[[1.0]]]), batch_of([[[1.0]]]))


def test_uncertainty_loss_by_hand():
    """Errors 2 and 0 with variances 4 and 1; b = sqrt(2) and sqrt(1 / 2) for the Laplace distribution."""
    batch = batch_of([[[3.0, 5.0, 0.0]]], [[[True, True, False]]])
    log_variance = torch.tensor([[[math.log(4.0), 0.0, 7.0]]])
    output = StereoOutput(torch.tensor([[[[5.0, 5.0, 9.0]]]]), log_variance=log_variance)
    gaussian = ((4 / 4 + math.log(4.0)) / 2 + 0.0) / 2
    laplace = (2 / math.sqrt(2) + math.log(math.sqrt(2)) + math.log(math.sqrt(0.5))) / 2
    assert LOSSES["uncertainty_loss"](output, batch).tolist() == pytest.approx([gaussian])
    assert LOSSES["uncertainty_loss"](output, batch, distribution="laplace").tolist() == pytest.approx([laplace])


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_the_best_variance_is_that_of_the_errors(distribution):
    """Errors of +-3 everywhere: variance 9; 2 * 3^2 where the mean absolute error is the scale."""
    _, batch = random_case()
    log_variance = torch.zeros(2, 8, 12, requires_grad=True)
    disparities = (batch.disparity + 3)[:, None]
    best = math.log(9.0 if distribution == "gaussian" else 18.0)
    for shift, sign in ((-0.1, -1), (0.0, 0), (0.1, 1)):
        values = LOSSES["uncertainty_loss"](
            StereoOutput(disparities, log_variance=log_variance + best + shift), batch, distribution=distribution
        )
        slope = float(torch.autograd.grad(values.sum(), log_variance)[0].sum())
        assert abs(slope) < 1e-5 if sign == 0 else sign * slope > 0.01


def test_confidence_is_the_chance_of_less_than_a_pixel():
    output = StereoOutput(torch.zeros(1, 1, 1, 2), log_variance=torch.tensor([[[0.0, math.log(4.0)]]]))
    assert output.confidence.flatten().tolist() == pytest.approx([0.68269, 0.38292], abs=1e-5)  # one sigma, half a sigma
    assert StereoOutput(torch.zeros(1, 1, 1, 2)).confidence is None


def test_a_loss_of_what_a_network_has_not_is_refused_when_the_run_is_built():
    objective = Objective({"stereo": {"start": {"function": "initial_disparity_loss"}}})
    objective.check_network("foundation_stereo", {"initial"}, "run.json: loss")
    with pytest.raises(UserError, match=r"^run\.json: loss\.stereo\.start\.function: .*'initial'.* raft_stereo has the disparities alone"):
        objective.check_network("raft_stereo", set(), "run.json: loss")


def test_pose_loss_by_hand():
    """Off by 0.1 in one number and 0.2 in another; by 3 in all of a sample without the label."""
    batch, output = batch_of([[[0.0]]] * 2), output_of([[[0.0]]] * 2)._replace(pose=torch.tensor([[0.1, 0, 0, 0, 0, 0.5], [3.0] * 6]))
    assert LOSSES["pose_loss"](output, batch).tolist() == [0, 0]
    batch.pose = torch.tensor([[0, 0, 0, 0, 0, 0.7], [math.nan] * 6])
    assert LOSSES["pose_loss"](output, batch).tolist() == pytest.approx([(0.01 + 0.04) / 6, 0])
    objective = Objective({"stereo": {"pose": {"function": "pose_loss", "weight": 600.0}}, "other": {}})
    batch.label_types, batch.pose, output = ["other", "stereo"], batch.pose.flip(0), output._replace(pose=output.pose.flip(0))
    total, parts = objective(output, batch)
    assert (total.item(), parts["pose"].item()) == pytest.approx((600 * 0.05 / 6 / 2, 0.05 / 6))
    batch.pose = None
    assert objective(output, batch)[0] == 0


def test_what_a_key_switches_on_is_named_where_it_is_missing():
    objective, switches = objective_of("pose_loss"), {"pose": "predict_pose"}
    objective.check_network("unet", {"pose"}, "loss", switches)
    with pytest.raises(UserError, match=r"^loss\.stereo\.one\.function: .*; set model\.predict_pose to true, or remove the loss$"):
        objective.check_network("unet", {"log_variance"}, "loss", switches)
    assert objective.needing("pose") == [("stereo", "one", 1.0)] and objective.needing("vertical") == []


def test_gradient_loss_is_cheap_where_the_image_has_an_edge():
    left = torch.zeros(1, 3, 2, 3)
    left[..., 2] = 0.5  # an edge between the last two columns
    batch = batch_of([[[0.0] * 3] * 2], left=left)
    output = output_of([[[0.0, 1.0, 5.0], [0.0, 1.0, 5.0]]])
    found = LOSSES["gradient_loss"](output, batch, edge_weight=2.0)
    assert found.tolist() == pytest.approx([(1 + 4 * math.exp(-1)) / 2])  # nothing changes from row to row
    assert LOSSES["gradient_loss"](output_of([[[0.0, 0.0], [3.0, 3.0]]]), batch_of([[[0.0] * 2] * 2]), edge_weight=2.0).tolist() == [3.0]


@pytest.mark.parametrize("name", LOSSES)
def test_a_sample_without_valid_pixels_contributes_nothing_even_when_all_is_nan(name):
    output, batch = random_case()
    batch.valid[1] = False
    output.disparities[1], output.initial[1], batch.disparity[1, :4] = float("nan"), float("inf"), float("inf")
    output.vertical[1], output.log_variance[1], output.plane_scores[1] = float("nan"), -float("inf"), float("nan")
    output.pose[1], batch.pose[1], output.plane_correlation[1] = float("nan"), float("nan"), float("inf")
    batch.disparity[1, 4:] = float("nan")
    leaves = leaves_of(output)
    values = LOSSES[name](leaves, batch, **EXTRA.get(name, {}))
    assert values.shape == (2,) and values[0] > 0 and values[1] == 0
    values.sum().backward()
    for leaf in leaves:
        if leaf.grad is not None:
            assert torch.isfinite(leaf.grad).all() and not leaf.grad[1].any()


@pytest.mark.parametrize("name", LOSSES)
def test_rubbish_at_invalid_pixels_changes_neither_value_nor_gradient(name):
    def run(rubbish):
        output, batch = random_case()
        if name == "gradient_loss":  # looks at every pixel; only what is not finite may be left out
            batch.valid[:] = True
        hidden = ~batch.valid
        batch.disparity[hidden] = rubbish
        output.disparities.movedim(1, -1)[hidden] = rubbish
        output.vertical.movedim(1, -1)[hidden] = rubbish
        output.log_variance[hidden] = rubbish
        if name == "initial_disparity_loss":
            output.initial[:, 0][hidden[:, ::4, ::4]] = rubbish
        if name.endswith("cross_entropy"):
            for planes in (output.plane_scores, output.plane_correlation):
                planes.movedim(1, -1)[hidden[:, ::4, ::4]] = rubbish
        leaves = leaves_of(output)
        values = LOSSES[name](leaves, batch, **EXTRA.get(name, {}))
        values.sum().backward()
        return [values.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    clean = run(0.0)
    for rubbish in (float("nan"), float("inf"), -float("inf"), 1e38):
        for found, expected in zip(run(rubbish), clean, strict=True):
            assert torch.equal(found, expected)


def test_gradient_loss_passes_over_what_is_not_finite_without_ground_truth():
    output, batch = output_of([[[0.0, 1.0, float("nan"), 2.0]]]), batch_of([[[0.0] * 4]], [[[True, True, False, True]]])
    output.disparities.requires_grad_()
    value = LOSSES["gradient_loss"](output, batch)
    value.sum().backward()
    assert value.tolist() == [1.0] and torch.isfinite(output.disparities.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_derivatives(name):
    output, batch = random_case(height=4, width=8)
    batch.left, batch.disparity = batch.left.double(), batch.disparity.double()

    def function(*tensors):
        return LOSSES[name](StereoOutput(*tensors), batch, **EXTRA.get(name, {}))

    inputs = tuple(tensor.double().requires_grad_() for tensor in output)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("name", LOSSES)
def test_values_are_float32_whatever_the_precision_of_the_network(name):
    output, batch = random_case()
    half = StereoOutput(*(tensor.bfloat16() for tensor in output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LOSSES[name](half, batch, **EXTRA.get(name, {}))
    expected = LOSSES[name](StereoOutput(*(tensor.float() for tensor in half)), batch, **EXTRA.get(name, {}))
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_samples_do_not_know_each_other(name):
    output, batch = random_case()
    whole = LOSSES[name](output, batch, **EXTRA.get(name, {}))
    for row in range(2):
        one = StereoOutput(*(tensor[row : row + 1] for tensor in output))
        torch.testing.assert_close(LOSSES[name](one, batch.select([row]), **EXTRA.get(name, {}))[0], whole[row])


FOUNDATION_STEREO = {
    "stereo": {
        "initial": {"function": "initial_disparity_loss"},
        "sequence": {"function": "sequence_loss", "params": {"gamma": 0.9, "loss_type": "l1"}},
    }
}


def test_the_objective_of_foundation_stereo_by_hand():
    batch = batch_of(torch.full((1, 4, 4), 8.0))
    output = output_of(torch.stack([torch.full((1, 4, 4), d) for d in (5.0, 6.0, 8.5)], dim=1), torch.tensor([[[[1.5]]]]))
    total, parts = Objective(FOUNDATION_STEREO)(output, batch)
    assert parts["initial"].item() == pytest.approx(0.125)  # 1.5 against 8 / 4
    assert parts["sequence"].item() == pytest.approx(0.81 * 3 + 0.9 * 2 + 0.5)
    assert total.item() == parts["loss"].item() == pytest.approx(0.125 + 4.73)


@pytest.mark.data
@pytest.mark.parametrize("run", ["b.eval", "b.train"])
def test_loss_terms_of_the_published_objective(shared, run):
    """First and last term of the stored runs; the disparities in between are not stored."""
    with np.load(shared / "reference" / "golden_vits.npz") as golden:
        truth, initial, final, terms = (
            torch.from_numpy(golden[name]) for name in ("b.disp_gt", f"{run}.init_disp", f"{run}.final_disp", f"{run}.loss_terms")
        )
    _, parts = Objective(FOUNDATION_STEREO)(StereoOutput(final, initial), batch_of(truth[:, 0]))
    assert parts["initial"].item() == pytest.approx(terms[0].item(), abs=2e-5)
    assert parts["sequence"].item() == pytest.approx(terms[-2].item(), abs=2e-5)
    weighted = terms[0] + sum(0.9 ** (3 - k) * terms[k] for k in (1, 2, 3))
    assert weighted.item() == pytest.approx(terms[-1].item(), abs=1e-3)


MIXED = {
    "dense": {"l1": {"function": "disparity_l1_loss", "weight": 2.0}, "watched": {"function": "epe_loss", "weight": 0.0}},
    "laser": {"smooth": {"function": "smooth_l1_loss", "weight": 1.0}},
    "invalid": {},
}


def test_each_sample_gets_the_losses_of_its_label_type():
    batch = batch_of(torch.zeros(4, 1, 1), label_types=["dense", "invalid", "laser", "dense"])
    output = output_of(torch.tensor([1.0, float("nan"), 4.0, 3.0])[:, None, None])
    batch.valid[1] = False
    objective = Objective(MIXED)
    total, parts = objective(output, batch)
    assert list(parts) == objective.keys == ["loss", "dense/l1", "dense/watched", "laser/smooth"]
    assert {key: value.item() for key, value in parts.items()} == {"loss": 2.875, "dense/l1": 2, "dense/watched": 2, "laser/smooth": 3.5}
    assert total.item() == (2 * 1 + 0 + 3.5 + 2 * 3) / 4
    assert objective.counts(batch) == {"loss": 4, "dense/l1": 2, "dense/watched": 2, "laser/smooth": 1}
    assert objective.per_sample(output, batch)[0].tolist() == [2, 0, 3.5, 6]


def test_splitting_a_batch_changes_nothing():
    output, batch = random_case()
    batch.label_types = ["dense", "laser"]
    objective = Objective(MIXED)
    whole, _ = objective(output, batch)
    halves = [objective(StereoOutput(*(tensor[row : row + 1] for tensor in output)), batch.select([row])) for row in range(2)]
    torch.testing.assert_close(whole, (halves[0][0] + halves[1][0]) / 2)
    assert list(halves[0][1]) == list(halves[1][1]) == objective.keys  # the same keys on every rank


def test_an_all_invalid_batch_still_reaches_every_output():
    output, batch = random_case()
    batch.valid[:] = False
    output.disparities[:] = float("nan")
    leaves = leaves_of(output)
    total, _ = objective_of("disparity_l1_loss")(leaves, batch)
    total.backward()
    assert total.item() == 0
    for leaf in leaves:
        assert leaf.grad is not None and not leaf.grad.any()


def test_a_watched_loss_has_no_gradient():
    output, batch = random_case()
    batch.label_types = ["dense", "dense"]
    output.disparities.requires_grad_()
    total, _ = Objective({"dense": MIXED["dense"]})(output, batch)
    total.backward()
    expected = 2 / 2 * torch.sign(output.disparities[:, -1] - batch.disparity) * batch.valid / batch.valid.sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(output.disparities.grad[:, -1], expected.detach())


def test_the_example_of_the_documentation_builds():
    text = """{"stereo": {
        "disparity_l1": {"function": "disparity_l1_loss", "weight": 1.0, "params": {"max_disparity": 192.0}},
        "multi_scale": {"function": "multi_scale_loss", "weight": 0.3,
                        "params": {"weights": [0.5, 0.7, 1.0], "loss_type": "smooth_l1"}}}}"""
    total, parts = Objective(json.loads(text))(*random_case())
    assert total.item() == pytest.approx(parts["disparity_l1"].item() + 0.3 * parts["multi_scale"].item())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"function": "disparity_l1"}, "loss.stereo.a.function: unknown loss 'disparity_l1'; did you mean 'disparity_l1_loss'?"),
        ({"function": "epe_loss", "wieght": 1}, "loss.stereo.a.wieght: unknown key; did you mean 'weight'?"),
        ({"function": "epe_loss", "weight": -1}, "loss.stereo.a.weight: found -1"),
        ({"function": "epe_loss", "weight": math.nan}, "loss.stereo.a.weight: found nan"),
        ({"function": "epe_loss", "params": {"max_disp": 1}}, "loss.stereo.a.params.max_disp: unknown key; did you mean 'max_disparity'?"),
        ({"function": "multi_scale_loss"}, "loss.stereo.a.params.weights: required, but not given"),
        ({"function": "multi_scale_loss", "params": {"weights": []}}, "loss.stereo.a.params.weights: found []"),
        ({"function": "multi_scale_loss", "params": {"weights": ["x"]}}, "loss.stereo.a.params.weights[0]: found 'x'"),
        ({"function": "sequence_loss", "params": {"gamma": 1.5}}, "loss.stereo.a.params.gamma: found 1.5"),
        ({"function": "sequence_loss", "params": {"loss_type": "l2"}}, "loss.stereo.a.params.loss_type: found 'l2'"),
        ({"weight": 1.0}, "loss.stereo.a.function: required, but not given"),
        (3, "loss.stereo.a: found 3; expected an object"),
    ],
)
def test_bad_entries_are_refused_when_the_run_is_built(entry, message):
    with pytest.raises(UserError) as error:
        Objective({"stereo": {"a": entry}})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("config", [{}, {"stereo": {}}, {"stereo": {"a": {"function": "epe_loss", "weight": 0}}}])
def test_an_objective_without_losses_is_refused(config):
    with pytest.raises(UserError, match="no loss with a positive weight"):
        Objective(config)


def test_label_types_of_data_sets_are_checked():
    objective = objective_of("epe_loss")
    objective.check_labels(["stereo", "invalid"], "data")
    with pytest.raises(
        UserError, match=r"^data.datasets\[1\]: label type 'setreo' has no entry in the loss section; did you mean 'stereo'\?"
    ):
        objective.check_labels(["setreo"], "data.datasets[1]")
