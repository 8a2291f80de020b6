"""The networks by torch.compile: in one piece, once per size, and not for images of other sizes."""

import pytest
import torch

from core import MODELS
from tests.core.networks import images, tiny_of
from tests.scripts.tiny import tiny_run
from train.compilation import recompile_limit
from train.loop import predict, update
from train.preview import StereoSample

PLAIN = {"enable_gradient_checkpointing": False, "enable_ema": False}


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_network_is_one_graph_without_a_break(kind):
    torch._dynamo.reset()
    found = torch._dynamo.explain(tiny_of(kind))(*images(batch=2, height=32, width=64))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


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


def test_a_size_is_compiled_with_a_start_and_without(build, monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, recompile_limit(), 1)
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
