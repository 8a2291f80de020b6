"""What every registered network keeps, whatever it computes: a new one is tested here by a line in `networks.TINIES`."""

from typing import Annotated, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from core import MODELS, StereoOutput, load_model
from core.weight_export import read_checked, write_weights
from tests.core.networks import TINIES, images, tiny_of
from utils.errors import UserError

pytestmark = pytest.mark.parametrize("kind", list(MODELS))


def objective(output: StereoOutput) -> torch.Tensor:
    """Every output counts, no two values alike."""
    total = output.disparities.new_zeros(())
    for tensor in output:
        if tensor is not None:
            weights = torch.linspace(0.5, 1.5, tensor.numel(), dtype=tensor.dtype).view_as(tensor)
            total = total + (weights * tensor).mean() + 0.1 * tensor.square().mean()
    return total


def with_running_statistics(kind: str, **changes):
    """Batch statistics cancel the bias before a batch norm."""
    fixed = {"batch_norm": "frozen_statistics"} if "batch_norm" in MODELS.parameters(kind).model_fields else {}
    return tiny_of(kind, **fixed, **changes)


def step(kind: str, *, checkpointing: bool = False):
    """Outputs, gradients and buffers after one step in training mode."""
    model = tiny_of(kind)
    model.gradient_checkpointing = checkpointing
    torch.manual_seed(3)
    output = model(*images(batch=2, height=32, width=64))
    objective(output).backward()
    outputs = {name: value.detach() for name, value in output._asdict().items() if value is not None}
    return outputs | {name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers())


def test_has_a_tiny_configuration(kind):
    assert kind in TINIES


def test_what_comes_out(kind):
    model = tiny_of(kind)
    assert model.training and not model.gradient_checkpointing
    left, right = images(batch=2)
    output = model(left, right)
    assert output.disparities.dim() == 4 and output.disparities.shape[::2] == (2, 64) and output.disparities.shape[3] == 96
    assert {name for name, value in output._asdict().items() if value is not None} - {"disparities"} == model.offers
    model.eval()
    with torch.no_grad():
        last = model(left, right)
    assert last.disparities.shape == (2, 1, 64, 96) and last.disparity.shape == (2, 64, 96)
    assert {name for name, value in last._asdict().items() if value is not None} - {"disparities"} == model.offers
    if last.vertical is not None:
        assert last.vertical.shape == (2, 1, 64, 96)
    if last.confidence is not None:
        assert last.confidence.shape == (2, 64, 96) and (last.confidence >= 0).all() and (last.confidence <= 1).all()


def test_every_parameter_gets_a_gradient(kind):
    model = with_running_statistics(kind)
    objective(model(*images())).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()]
    assert not without


def test_entries_are_complete_and_loaded_strictly(kind):
    source, other = tiny_of(kind), tiny_of(kind)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(source.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(*images()).disparity, source.eval()(*images()).disparity)
    state = source.state_dict()
    del state[next(iter(state))]
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(state)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_written_file_is_the_same_network(kind, suffix, tmp_path):
    model = tiny_of(kind).eval()
    torch.save({"model": model.state_dict(), "model_config": {"type": kind, **TINIES[kind]}}, tmp_path / "00000001.pt")
    write_weights(tmp_path / f"written.{suffix}", read_checked(tmp_path / "00000001.pt"), "ours")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / f"written.{suffix}")(*images()).disparity, model(*images()).disparity)


def test_a_step_is_repeatable_bit_for_bit(kind):
    one, two = step(kind), step(kind)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_gradient_checkpointing_changes_no_bit(kind):
    plain, saving = step(kind), step(kind, checkpointing=True)
    assert plain.keys() == saving.keys()
    different = [name for name in plain if not torch.equal(plain[name], saving[name])]
    assert not different


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_two_is_two_of_one(kind, training):
    """Every output; of a network in training those of every iteration."""
    certain = {"dropout": 0.0} if "dropout" in MODELS.parameters(kind).model_fields else {}
    model = with_running_statistics(kind, **certain).double().train(training)
    left, right = (view.double() for view in images(batch=2))
    with torch.no_grad():
        both = model(left, right)
        single = [model(left[i : i + 1], right[i : i + 1]) for i in range(2)]
    for name, values in both._asdict().items():
        if values is not None:
            torch.testing.assert_close(values, torch.cat([getattr(one, name) for one in single]), atol=1e-9, rtol=0)


def test_bf16_is_finite_and_its_outputs_are_float32(kind):
    model = with_running_statistics(kind)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*images(batch=2))
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in output if value is not None)
    objective(output).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())


def refines(model) -> bool:
    """Whether a start can be given; a network that takes none says so."""
    try:
        model(*images(height=32, width=32), init=torch.zeros(1, 1, 32 // model.stride, 32 // model.stride))
    except UserError as error:
        if "does not refine a start" not in str(error):
            raise
        return False
    return True


def test_a_given_start_is_where_the_refinement_begins(kind):
    model = tiny_of(kind).eval()
    if not refines(model):
        with pytest.raises(UserError, match="does not refine a start"):
            model.infer(*np.zeros((2, 64, 96, 3), np.uint8), cascades=2)
        return
    left, right = images()
    start = torch.full((1, 1, 64 // model.stride, 96 // model.stride), 2.0)
    with torch.no_grad():
        one, two = model(left, right, init=start), model(left, right, init=start + 5)
    assert (two.disparity - one.disparity).mean() > 1
    with pytest.raises(UserError, match="init has shape"):
        model(left, right, init=torch.zeros(1, 1, 64, 96))


def test_what_does_not_fit_is_refused(kind):
    model = tiny_of(kind)
    left, right = images(height=64, width=100)
    with pytest.raises(UserError, match=r"100 x 64.* 96 x 64, "):
        model(left, right)
    left, right = images()
    with pytest.raises(UserError, match="same"):
        model(left, right[..., :64])
    with pytest.raises(UserError, match="iters is 0"):
        model(left, right, iters=0)


@pytest.mark.parametrize("size", [(50, 70), (33, 31)])
def test_any_size_is_inferred(kind, size):
    model = tiny_of(kind)
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    for way in [{}, {"hierarchical": True}, {"cascades": 2}] if refines(tiny_of(kind).eval()) else [{}]:
        disparity = model.infer(left, right, iters=2, **way)
        assert disparity.shape == size and disparity.dtype == np.float32
        assert np.isfinite(disparity).all() and (disparity >= 0).all()
    assert model.training  # as before


def test_every_key_of_the_configuration_is_described(kind):
    hints = get_type_hints(MODELS[kind].__init__, include_extras=True)
    for name in MODELS.parameters(kind).model_fields:
        assert get_origin(hints[name]) is Annotated, name
        assert any(getattr(extra, "description", None) for extra in get_args(hints[name])[1:]), name


def test_one_pair_is_learned(kind):
    """Two bands of disparity 4 and 12, whose best constant guess is 4 px off: matching is learned, not a mean. Within 120 steps."""
    model = tiny_of(kind)
    generator = torch.Generator().manual_seed(0)
    scene = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 40, generator=generator), scale_factor=2, mode="bilinear")
    left, right = scene[..., :64], torch.cat([scene[..., :16, 4:68], scene[..., 16:, 12:76]], 2)
    truth = torch.cat([torch.full((1, 1, 16, 64), 4.0), torch.full((1, 1, 16, 64), 12.0)], 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(120):
        output = model(left, right, iters=2)
        error = (output.disparities - truth).abs()[..., 12:]
        if error[:, -1].mean() < 1:
            return
        loss = error.mean()
        if output.initial is not None:
            loss = loss + (output.initial - truth[..., ::4, ::4] / 4).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    pytest.fail(f"{error[:, -1].mean():.2f} px after 120 steps")
