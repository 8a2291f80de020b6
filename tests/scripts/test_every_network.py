"""Every registered network through the real command: it learns, resumes exactly, is measured, and starts from its published weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from core import MODELS, build_model, load_model, offered
from core.convert import PUBLISHED, to_published
from scripts.evaluate import main as evaluate
from tests.core.networks import TINIES
from tests.scripts.tiny import QUICK, RESIDUAL_POSE, assert_same, tiny_run, weights

LIGHTER = [kind for kind in MODELS if kind != "foundation_stereo"]  # which the other tests of this room are about
PLAIN = ["--enable_gradient_checkpointing", "false"]


@pytest.fixture
def run_file(tmp_path):
    """run_file(kind): see `tiny_run`."""

    def write(kind: str, **model) -> str:
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(tiny_run(kind, **model)))
        return str(path)

    return write


@pytest.mark.parametrize("kind", LIGHTER)
def test_resume_is_exact(train, run_file, tmp_path, kind):
    common = [*QUICK, "--config", run_file(kind)]
    assert train(*common, "--workspace", "whole").code == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for path in (tmp_path / "parts" / "checkpoint").glob("00000004*"):
        path.unlink()
    outcome = train(*common, "--workspace", "parts", "--checkpoint", 2)
    assert outcome.code == 0, outcome.output
    for part in ("", "_ema"):
        assert_same(weights(tmp_path / "whole", 4, part), weights(tmp_path / "parts", 4, part))
    model = load_model(tmp_path / "whole" / "checkpoint" / "00000004_ema.pt")
    pair = np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), dtype=np.uint8)
    assert model.infer(*pair).shape == (50, 70)


@pytest.mark.parametrize("kind", LIGHTER)
def test_four_pairs_are_learned(train, run_file, tmp_path, kind):
    """The error of the last ten of forty steps is less than two thirds of that of the first ten."""
    options = ["--overfit", 4, "--num_iterations", 40, "--log_every", 10, "--save_every", 0, "--set", "optimizer.params[0].lr=2e-3"]
    assert train(*QUICK, "--config", run_file(kind), "--workspace", "run", *options).code == 0
    errors = [json.loads(line)["train/epe"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert errors[-1] < 0.65 * errors[0], errors


@pytest.mark.parametrize("kind", list(MODELS))
def test_is_measured_and_so_is_what_it_says_of_its_errors(kind, tmp_path):
    model = {"type": kind, **TINIES[kind]}
    torch.save({"model_config": model, "model": build_model(model).state_dict()}, tmp_path / "00000001.pt")
    made = {"name": "made", "type": "synthetic", "params": {"size": [80, 64], "length": 2, "max_disparity": 20, **RESIDUAL_POSE}}
    (tmp_path / "suite.json").write_text(json.dumps({"datasets": [made]}))
    options = ["--checkpoint", tmp_path / "00000001.pt", "--suite", tmp_path / "suite.json", "--output", tmp_path / "r.json"]
    result = CliRunner().invoke(evaluate, [*map(str, options), "--report", str(tmp_path / "page"), "--pictures", "1"])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["mean"]["epe"] > 0 and (tmp_path / "page" / "report.html").exists()
    assert found["mean"].get("pose_mse", 0) > 0 or "pose" not in offered(model)
    if "log_variance" not in MODELS[kind].offers:
        assert "ause" not in found["mean"] and found["sparsification"] is None
        return
    curve = found["sparsification"]["by_confidence"]
    assert found["mean"]["ause"] > 0 and curve[0] == 1 and "ause" in result.output
    assert (tmp_path / "page" / "sparsification.png").stat().st_size > 10_000


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_run_is_the_run_and_its_checkpoints_are_the_same(train, run_file, tmp_path, backend):
    common = [*QUICK, *PLAIN, "--config", run_file("unet"), "--workspace"]
    assert train(*common, "plain").code == 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert train(*common, "compiled", "--set", "compile.enabled=true", "--set", f"compile.backend={backend}").code == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for part in ("", "_ema"):
        plain, compiled = (weights(tmp_path / name, 4, part) for name in ("plain", "compiled"))
        assert plain.keys() == compiled.keys()
        for name, value in plain.items():
            torch.testing.assert_close(compiled[name], value, atol=1e-5, rtol=1e-4)
    assert load_model(tmp_path / "compiled" / "checkpoint" / "00000004.pt")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*PLAIN, "--set", "compile.backend=inducto"], ("compile.backend: found 'inducto'", "did you mean 'inductor'")),
        ([], ("compile.enabled: ", "--enable_gradient_checkpointing false")),
    ],
)
def test_what_cannot_be_compiled_is_one_line(train, run_file, options, words):
    outcome = train(*QUICK, *options, "--config", run_file("unet"), "--set", "compile.enabled=true")
    (line,) = (line for line in outcome.lines if line.startswith("error: "))
    assert outcome.code == 2 and all(word in line for word in words)


def test_a_compiler_that_fails_at_the_first_step_is_one_line(train, run_file):
    def no_compiler(graph, inputs):
        raise OSError("no C++ compiler")

    if "failing" not in torch.compiler.list_backends(exclude_tags=()):
        torch._dynamo.register_backend(no_compiler, name="failing")
    torch._dynamo.reset()
    options = [*PLAIN, "--set", "compile.enabled=true", "--set", "compile.backend=failing"]
    outcome = train(*QUICK, *options, "--config", run_file("unet"), "--workspace", "run")
    (line,) = (line for line in outcome.lines if line.startswith("error: "))
    assert outcome.code == 2 and "torch.compile failed" in line and "no C++ compiler" in line and "compile.enabled to false" in line


def test_a_loss_that_a_network_cannot_serve_is_one_line(train, run_file):
    outcome = train("--config", run_file("raft_stereo"), "--set", 'loss.stereo.start={"function": "initial_disparity_loss"}')
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert "loss.stereo.start.function: initial_disparity_loss needs a network with 'initial'" in outcome.lines[0]


@pytest.mark.parametrize("kind", [kind for kind in PUBLISHED if kind in LIGHTER])
def test_published_weights_are_fine_tuned_and_written_back(train, run_file, tmp_path, kind):
    source = build_model({"type": kind})
    state = to_published({"type": kind}, source.state_dict())
    torch.save({PUBLISHED[kind].prefix + key: value for key, value in state.items()}, tmp_path / "released.pth")
    config = run_file(kind, train_iters=2)
    options = ["--checkpoint", tmp_path / "released.pth", "--init_only", "--num_iterations", 1, "--save_every", 1, "--workspace", "run"]
    outcome = train(*QUICK, "--config", config, *options, "--batch_size_forward", 1)
    assert outcome.code == 0, outcome.output
    content = torch.load(tmp_path / "run" / "checkpoint" / "00000001.pt", weights_only=True)
    back = to_published(content["model_config"], content["model"], content["carried"])
    assert back.keys() == state.keys() and not all(torch.equal(back[name], state[name]) for name in state)
    assert all(torch.equal(back[name], state[name]) for name in content["carried"]) and content["carried"]
