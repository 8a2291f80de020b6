"""The networks by torch.compile: in one piece, the same numbers, once per size, and not for images of other sizes."""

from itertools import product

import pytest
import torch

from core import MODELS
from tests.core.networks import assert_as_near, images, tiny, tiny_of
from tests.scripts.tiny import tiny_run
from train.compilation import compile_network, recompile_limit
from train.config import CompileConfig
from train.loop import predict, update
from train.preview import StereoSample

PLAIN = {"enable_gradient_checkpointing": False, "enable_ema": False}


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_network_is_one_graph_without_a_break(kind):
    torch._dynamo.reset()
    found = torch._dynamo.explain(tiny_of(kind))(*images(batch=2, height=32, width=64))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


SMALLEST = {
    "foundation_stereo": {
        "cnn": "test_convnext3",
        "corr_levels": 1,
        "n_gru_layers": 1,
        "hidden_dims": [16],
        "context_dims": [8, 8, 8],
        "dropout": 0.0,  # inductor draws other numbers
        "train_iters": 1,
    },
    "raft_stereo": {"train_iters": 1},
}  # a compiler's time goes by the number of operations
ROUNDING = {"fp64": 1e-9, "fp32": 1e-5, "bf16": 0.02}


def step(kind, precision, backend=None):
    """Outputs and gradients of a training step in float64; uncompiled without a backend."""
    fixed = {"batch_norm": "frozen_statistics"} if "batch_norm" in MODELS.parameters(kind).model_fields else {}
    changes = {**SMALLEST.get(kind, {}), **fixed}
    model = tiny(**changes) if kind == "foundation_stereo" else tiny_of(kind, **changes)
    views = images(batch=2, height=32, width=64)
    if precision == "fp64":
        model, views = model.double(), tuple(view.double() for view in views)
    if backend is not None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compile_network(model, CompileConfig(enabled=True, backend=backend), forms=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs = {name: value for name, value in model(*views)._asdict().items() if value is not None}
    losses = [value.double().square().mean() for value in outputs.values() if value.requires_grad]
    sum(loss / loss.detach() for loss in losses).backward()  # each output counts alike
    if backend is not None:
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {name: value.detach().double() for name, value in (outputs | gradients).items()}


QUICK = {("aot_eager", *case) for case in product(("fp32", "bf16"), ("foundation_stereo", "unet"))} | {("aot_eager", "fp32", "crestereo")}


@pytest.mark.parametrize(
    ("backend", "precision", "kind"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in product(("aot_eager", "inductor"), ("fp32", "bf16"), MODELS)
    ],
)
def test_a_compiled_step_has_the_outputs_and_gradients_of_a_plain_one(backend, precision, kind):
    truth = step(kind, "fp64")
    assert_as_near(step(kind, precision, backend), step(kind, precision), truth, rounding=ROUNDING[precision])


def size_of_update(run, step):
    """Take the step, and say the shape of its images."""
    batches = list(run.loader.batches(step))
    run.loader.batches, real = (lambda step: iter(batches)), run.loader.batches
    update(run, step)
    run.loader.batches = real
    return batches[0].left.shape


def test_each_size_is_compiled_once_and_other_images_never(build):
    """Ten sizes, more than torch compiles before it gives up in silence."""
    torch._dynamo.reset()
    config = tiny_run("unet")
    config["data"] = {**config["data"], "image_sizes": [[32 + 16 * i, 32] for i in range(10)]}
    run = build("compile.enabled=true", "compile.backend=eager", config=config, **PLAIN)
    torch._dynamo.utils.counters.clear()
    sizes = set()
    for step in range(30):
        sizes.add(size_of_update(run, step))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(sizes)
    assert len(sizes) > 8
    image = torch.zeros(50, 70, 3, dtype=torch.uint8).numpy()
    blank = torch.zeros(50, 70).numpy()
    assert predict(run, run.measured, StereoSample(image, image, blank, blank > 0)).disparity.shape == (50, 70)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(sizes)


@torch._dynamo.config.patch({recompile_limit(): 1})
def test_a_size_is_compiled_with_a_start_and_without(build):
    torch._dynamo.reset()
    config = tiny_run("raft_stereo")
    config["data"] = {**config["data"], "image_sizes": [[64, 64], [96, 64]]}
    config["training"] = {**config.get("training", {}), "coarse_scale": 0.5}
    run = build("compile.enabled=true", "compile.backend=eager", config=config, **PLAIN)
    torch._dynamo.utils.counters.clear()
    forms = set()
    for step in range(12):
        forms.add((size_of_update(run, step), step % 2))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(forms)
    assert len(forms) == 4
