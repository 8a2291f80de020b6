"""The best and the last weights of a run as users meet them: chosen by the metric they name, kept, followed back, recorded, loaded."""

import json

import pytest
from safetensors.torch import load_file

from core import load_model
from tests.scripts.tiny import QUICK, assert_same, weights
from tests.train.mlflow_server import MlflowServer
from train import loop

MEASURED = ["--set", "validation.every=1", "--set", "validation.max_samples=1", "--set", "validation.fraction=0.3"]
RUN = [*QUICK, *MEASURED, "--set", "data.image_sizes=[[64, 64]]", "--workspace", "run", "--config"]
FILES = {"best.json", "best.safetensors", "last.json", "last.safetensors"}


@pytest.fixture
def measured(monkeypatch):
    """measured(*epes): what validations find from here on, beside the truth. `3px` of it is its negative."""
    rest, validate = [], loop.validate

    def found(held, *arguments, **options):
        return validate(held, *arguments, **options) | ({"epe": (value := rest.pop(0)), "made/3px": -value} if rest else {})

    monkeypatch.setattr(loop, "validate", found)
    return lambda *values: rest.__setitem__(slice(None), values)


def said(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("metric", ["epe", "made/3px"])
def test_the_best_is_that_of_the_named_metric_whether_or_not_its_step_was_saved(train, tiny, tmp_path, measured, metric):
    measured(5, 4, 2, 1, 3)  # before the first step, and after each of four
    outcome = train(*RUN, tiny, "--set", f"validation.best={metric}", "--set", "checkpoints.keep_last=2")
    assert outcome.code == 0, outcome.output
    folder = tmp_path / "run" / "checkpoint"
    assert said(folder, "best")["step"] == 3 and outcome.output.count("the best so far") == 4
    assert said(folder, "best")["validation"]["metrics"]["epe"] == 1 and said(folder, "last")["validation"]["metrics"]["epe"] == 3
    assert (metric == "epe") == ("3px" not in said(folder, "best")["validation"]["metrics"])  # what is named is measured
    assert_same(load_file(folder / "last.safetensors"), weights(tmp_path / "run", 4, "_ema"))
    assert train(*RUN, tiny, "--workspace", "all", "--save_every", 1, "--set", "validation.best=null").code == 0
    assert {path.name for path in (tmp_path / "all" / "checkpoint").iterdir()} & FILES == {"last.json", "last.safetensors"}
    assert_same(load_file(folder / "best.safetensors"), weights(tmp_path / "all", 3, "_ema"))
    assert_same(load_model(folder / "best.safetensors").state_dict(), load_file(folder / "best.safetensors"))


def test_going_back_the_best_is_what_it_was_then(train, tiny, tmp_path, measured):
    measured(5, 2, 3, 1, 4)
    assert train(*RUN, tiny).code == 0
    folder = tmp_path / "run" / "checkpoint"
    assert said(folder, "best")["step"] == 3
    best_of_two = load_file(folder / "00000002_best.safetensors")
    measured(3, 3)
    outcome = train(*RUN, tiny, "--checkpoint", 2, "--set", "data.image_augmentation=[]")  # another run from here on
    assert outcome.code == 0 and "the best so far" not in outcome.output
    assert (said(folder, "best")["step"], said(folder, "last")["step"]) == (1, 4)
    assert_same(load_file(folder / "best.safetensors"), best_of_two)
    (aside,) = folder.glob("set_aside_*")
    assert {"00000004_best.safetensors", "00000004.pt"} <= {path.name for path in aside.iterdir()}
    measured(1)
    assert train(*RUN, tiny, "--checkpoint", "latest", "--num_iterations", 5).code == 0
    assert said(folder, "best")["step"] == 5


def test_in_another_workspace_the_best_comes_along(train, tiny, tmp_path, measured):
    measured(5, 2, 3, 4, 4)
    assert train(*RUN, tiny).code == 0
    measured(3, 3)
    outcome = train(*RUN, tiny, "--workspace", "other", "--checkpoint", tmp_path / "run" / "checkpoint" / "00000002.pt")
    assert outcome.code == 0, outcome.output
    folder = tmp_path / "other" / "checkpoint"
    assert said(folder, "best")["step"] == 1 and said(folder, "best")["validation"]["metrics"]["epe"] == 2
    assert_same(load_file(folder / "best.safetensors"), load_file(tmp_path / "run" / "checkpoint" / "best.safetensors"))


def test_measured_by_another_metric_the_best_begins_anew(train, tiny, tmp_path, measured):
    measured(5, 1, 3, 4, 4)
    assert train(*RUN, tiny).code == 0
    measured(9)
    changed = ["--set", "validation.max_samples=2", "--checkpoint", "latest", "--num_iterations", 5]
    outcome = train(*RUN, tiny, *changed)
    assert outcome.code == 0 and "another validation.max_samples; the best so far begins anew" in outcome.output
    assert said(tmp_path / "run" / "checkpoint", "best")["validation"]["metrics"]["epe"] == 9


@pytest.mark.parametrize("options", [["--save_every", 0], ["--set", "validation.best=null"], ["--enable_ema", "false"]])
def test_without_checkpoints_without_a_metric_without_an_average(train, tiny, tmp_path, options):
    assert train(*RUN, tiny, "--num_iterations", 2, *options).code == 0
    folder = tmp_path / "run" / "checkpoint"
    found = {path.name for path in folder.glob("*")} & FILES
    assert found == {"--save_every": set(), "--set": {"last.json", "last.safetensors"}, "--enable_ema": FILES}[options[0]]
    if options[0] == "--enable_ema":
        assert_same(load_file(folder / "last.safetensors"), weights(tmp_path / "run", 2))


@pytest.mark.parametrize("policy", ["none", "final", "all"])
def test_mlflow_gets_them_as_it_gets_checkpoints(train, tiny, tmp_path, monkeypatch, policy):
    server = MlflowServer(artifacts=tmp_path / "artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
    outcome = train(*RUN, tiny, "--enable_mlflow", "true", "--num_iterations", 2, "--set", f"trackers.log_checkpoints={policy}")
    server.stop()
    assert outcome.code == 0 and outcome.output.count("`mlflow ui` shows the run") == 1, outcome.output
    stored = {path.name for path in (tmp_path / "artifacts" / "checkpoint").glob("*")}
    steps = {"00000002.pt", "00000002_optimizer.pt", "00000002_ema.pt"}
    assert stored == {"none": set(), "final": FILES | {"00000002_ema.pt"}, "all": FILES | steps}[policy]
    for name in stored & FILES:
        assert (tmp_path / "artifacts" / "checkpoint" / name).read_bytes() == (tmp_path / "run" / "checkpoint" / name).read_bytes()


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ("ep", "validation.best: found 'ep'; unknown metric 'ep'; did you mean 'epe'?"),
        ("mad/epe", "validation.best: no held samples of 'mad'; did you mean 'made'?"),
    ],
)
def test_a_metric_that_is_not_measured_is_one_line(train, tiny, tmp_path, best, words):
    outcome = train(*RUN, tiny, "--set", f"validation.best={best}")
    (line,) = [line for line in outcome.lines if line.startswith("error: ")]
    assert outcome.code == 2 and words in line and not (tmp_path / "run").exists()
