"""best.* and last.*: which weights they are, what is said of them, and that they are right after every kill."""

import hashlib
import itertools
import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file

from core import load_model
from core.weight_files import read_about, read_file
from tests.core.networks import TINY, tiny
from tests.train.test_checkpoint import killed_before
from train.checkpoint import Checkpoint, Checkpoints
from train.config import RunConfig, ValidationConfig
from train.marks import MARKS, Best, mark, marked, newest_validation, of_validation, unmark
from utils.files import remove_leftovers, sha256

ENTRY = {"name": "made", "type": "synthetic"}
CONFIG = RunConfig(data={"datasets": [ENTRY], "image_sizes": [[32, 32]]}, loss={"stereo": {"epe": {"function": "epe_loss"}}})


def content(step, *, value=None):
    about = {
        "model_config": TINY,
        "config": CONFIG.dump(),
        "carried": {"x": torch.ones(2)},
        "step": step,
        "model": {"w": torch.ones(3) * step},
    }
    return (
        about if value is None else about | {"validation": of_validation(step, {"epe": value, "made/rmse": 2 * value, "bad_1": math.nan})}
    )


def write(checkpoints, step, best=None):
    parts = {"model": content(step), "optimizer": {"step": step}, "ema": content(step) | {"model": {"w": torch.ones(3) * -step}}}
    return checkpoints.write(step, parts if best is None else parts | {"best": content(best[0], value=best[1])})


@pytest.fixture
def checkpoints(tmp_path):
    lines = [{"step": step, "val/epe": 10 / step, "val/seconds": 3.0, "val/epe_constant": 1.0} for step in (10, 20, 30)]
    lines.insert(2, {"step": 25, "train/loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Checkpoints(tmp_path / "checkpoint")


def said(checkpoints, name):
    return json.loads((checkpoints.folder / f"{name}.json").read_text())


def weights(checkpoints, name):
    return load_file(checkpoints.folder / f"{name}.safetensors")["w"].tolist()


def test_the_files_are_the_weights_to_use_and_what_was_measured_of_them(checkpoints):
    mark(write(checkpoints, 20, best=(15, 0.5)))
    assert weights(checkpoints, "best") == [15, 15, 15] and weights(checkpoints, "last") == [-20, -20, -20]  # the average
    assert said(checkpoints, "best")["validation"] == {"step": 15, "metrics": {"epe": 0.5, "made/rmse": 1.0, "bad_1": None}}
    assert said(checkpoints, "last")["validation"] == {"step": 20, "metrics": {"epe": 0.5}}
    for name, step in (("best", 15), ("last", 20)):
        path = checkpoints.folder / f"{name}.safetensors"
        found = said(checkpoints, name)
        assert (found["step"], found["weights"], found["size"]) == (step, path.name, path.stat().st_size)
        assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        whole = read_file(path)
        assert whole["model_config"] == TINY and whole["config"] == CONFIG.dump() and whole["step"] == step
        assert torch.equal(whole["carried"]["x"], torch.ones(2))
    assert [path.name for path in marked(checkpoints.folder)] == ["best.safetensors", "best.json", "last.safetensors", "last.json"]
    unmark(checkpoints.folder)
    assert marked(checkpoints.folder) == []


def test_they_follow_the_steps_forward_and_back(checkpoints):
    newest = {step: write(checkpoints, step, best) for step, best in {10: None, 20: (15, 0.5), 30: None, 40: (35, 0.25)}.items()}
    for step, best in ((40, 35), (30, 15), (10, None), (20, 15)):
        mark(newest[step])
        assert weights(checkpoints, "last") == [-step] * 3 and said(checkpoints, "last")["step"] == step
        if best is None:
            assert not list(checkpoints.folder.glob("best.*"))
        else:
            assert weights(checkpoints, "best") == [best] * 3 and said(checkpoints, "best")["step"] == best


def test_what_is_up_to_date_is_left_alone_and_what_is_not_is_mended(checkpoints):
    newest = write(checkpoints, 20, best=(15, 0.5))
    mark(newest)
    before = {path: path.stat().st_mtime_ns for path in marked(checkpoints.folder)}
    mark(newest)
    assert {path: path.stat().st_mtime_ns for path in marked(checkpoints.folder)} == before
    for path, damage in itertools.product(before, (b"", b"{}", None)):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        mark(newest)
        for name, value in (("best", 15), ("last", -20)):
            assert weights(checkpoints, name) == [value] * 3, (path, damage)
            assert said(checkpoints, name)["sha256"] == sha256(checkpoints.folder / f"{name}.safetensors"), (path, damage)


def test_a_file_system_without_second_names_gets_a_copy(checkpoints, monkeypatch):
    newest = write(checkpoints, 20, best=(15, 0.5))
    mark(newest)
    assert os.path.samefile(newest.path("best"), checkpoints.folder / "best.safetensors")  # costs no room
    unmark(checkpoints.folder)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    mark(newest)
    assert not os.path.samefile(newest.path("best"), checkpoints.folder / "best.safetensors")
    assert weights(checkpoints, "best") == [15, 15, 15]


def test_killed_at_any_moment_they_are_those_of_the_newest_step(tmp_path):
    """Before every change to the disk that saving step 30, with other best weights, takes; then the next start mends what is left."""
    found = []
    for operation in itertools.count():
        checkpoints = Checkpoints(tmp_path / str(operation) / "checkpoint")
        mark(write(checkpoints, 20, best=(15, 0.5)))

        def save(checkpoints=checkpoints):
            mark(write(checkpoints, 30, best=(25, 0.25)))

        killed = killed_before(operation, save)
        newest = checkpoints.latest()
        for name in MARKS:  # whole at every moment, though perhaps of the step before
            assert weights(checkpoints, name) in ([[15] * 3, [25] * 3] if name == "best" else [[-20] * 3, [-30] * 3])
        remove_leftovers(checkpoints.folder)
        checkpoints.rewind(newest.step)
        mark(newest)
        best = {20: 15, 30: 25}[newest.step]
        assert weights(checkpoints, "best") == [best] * 3 and said(checkpoints, "best")["step"] == best
        assert weights(checkpoints, "last") == [-newest.step] * 3 and said(checkpoints, "last")["step"] == newest.step
        found.append(newest.step)
        if not killed:
            break
    assert found == sorted(found) and found.count(20) > 10 and found.count(30) > 10, found


def test_a_disk_that_takes_no_more_is_a_warning(checkpoints, caplog, monkeypatch):
    newest = write(checkpoints, 20, best=(15, 0.5))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    mark(newest)
    assert "best.* and last.* are not up to date (No space left on device)" in caplog.text
    flip_first(newest.path("best"))
    mark(newest)
    assert "not a readable safetensors file" in caplog.text


def flip_first(path):
    data = bytearray(path.read_bytes())
    data[9] ^= 255
    path.write_bytes(data)


def test_the_newest_validation_is_that_of_the_step_and_no_later_one(checkpoints):
    path = checkpoints.folder.parent / "metrics.jsonl"
    assert newest_validation(path, 29) == {"step": 20, "metrics": {"epe": 0.5}}
    assert newest_validation(path, 30) == {"step": 30, "metrics": {"epe": 10 / 30}}
    assert newest_validation(path, 9) is None and newest_validation(path.with_name("none.jsonl"), 9) is None


# ---- which is the best ------------------------------------------------------------------------------------------------------------------


def test_the_best_is_by_the_direction_of_its_metric_and_the_first_of_equals():
    values = [5.0, 4.0, math.nan, 4.0, math.inf, 6.0, 3.0]
    for name, expected in (("epe", [1, 1, 0, 0, 0, 0, 1]), ("made/3px", [1, 0, 0, 0, 0, 1, 0])):
        best = Best(name)
        assert [best.improved({name: value, "other": 0.0}) for value in values] == [bool(one) for one in expected], name
    assert not Best("epe").improved({"epe": math.inf})


def test_what_was_not_measured_makes_nothing_the_best(caplog):
    best = Best("pose_mse")  # of a network that predicts none
    assert not best.improved({"epe": 1.0, "bad_1": 2.0})
    assert "'pose_mse' was not measured, so no weights are the best; measured are epe, bad_1" in caplog.text
    assert best.improved({"epe": 1.0, "pose_mse": 3.0}) and ValidationConfig(best="made/pose_mse").best == "made/pose_mse"


def test_it_goes_on_from_a_file_that_was_measured_alike(checkpoints, caplog):
    path = write(checkpoints, 20, best=(15, 0.5)).path("best")
    best = Best("epe")
    assert best.resume(path, CONFIG) and best.value == 0.5
    assert not best.improved({"epe": 0.6}) and best.improved({"epe": 0.4})
    assert Best("made/rmse").resume(path, CONFIG)
    other = CONFIG.model_copy(update={"validation": ValidationConfig(max_samples=3, every=7)})
    best = Best("epe")
    assert not best.resume(path, other) and "another validation.max_samples" in caplog.text and best.improved({"epe": 9.0})
    assert best.resume(path, CONFIG.model_copy(update={"validation": ValidationConfig(every=7)}))
    for metric in ("bad_1", "made/epe"):  # was not finite; was not measured
        best = Best(metric)
        assert not best.resume(path, CONFIG) and best.improved({metric: 100.0})
    flip_first(path)
    assert not Best("epe").resume(path, CONFIG) and "the best so far begins anew" in caplog.text


def test_it_begins_anew_where_the_ground_truth_was_another(checkpoints, caplog):
    path = write(checkpoints, 20, best=(15, 0.5)).path("best")

    def counts(entry, validation=None, **data):
        section = CONFIG.data.model_dump() | {"datasets": [ENTRY | entry]} | data
        return Best("epe").resume(path, RunConfig(data=section, loss=CONFIG.loss, validation=validation or {}))

    assert counts({}) and counts({"weight": 2.0, "max_samples": 5, "image_augmentation": ["jittering"]}, workers=3)  # of the training alone
    for entry in ({"params": {"scale": 100}}, {"path": "other"}, {"list_file": "a.txt"}, {"val_fraction": 0.5}):
        caplog.clear()
        assert not counts(entry) and "was measured with another data.datasets; the best so far begins anew" in caplog.text
    assert not counts({}, max_disparity=100.0) and "another data.max_disparity" in caplog.text
    own = {"datasets": [ENTRY]}
    assert not counts({}, own) and "another validation.datasets" in caplog.text
    about = CONFIG.model_copy(update={"validation": ValidationConfig(**own)}).dump()
    path = checkpoints.write(30, {"model": {}, "optimizer": {}, "best": content(25, value=0.5) | {"config": about}}).path("best")
    assert counts({"params": {"scale": 100}}, own)  # measured on others


def test_none_is_the_best_where_nothing_is_measured():
    for changes, there in (({}, True), ({"every": 0}, False), ({"best": None}, False), ({"best": "made/3px"}, True)):
        config = CONFIG.model_copy(update={"validation": ValidationConfig(**changes)})
        assert (Best.of(config) is not None) == there
    with pytest.raises(ValueError, match="unknown metric 'ep'; did you mean 'epe'"):
        ValidationConfig(best="made/ep")


def test_a_network_loads_from_it(tmp_path):
    checkpoints, model = Checkpoints(tmp_path / "checkpoint"), tiny()
    state = {key: 2 * value if value.is_floating_point() else value for key, value in model.state_dict().items()}
    whole = content(5, value=0.5) | {"model": state, "carried": {}}
    mark(checkpoints.write(10, {"model": whole | {"step": 10}, "optimizer": {}, "best": whole}))
    for name in MARKS:
        found = load_model(checkpoints.folder / f"{name}.safetensors").state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())
    assert read_about(checkpoints.folder / "best.safetensors")["step"] == 5
    assert Checkpoint(checkpoints.folder, 10).weights.name == "00000010.pt"
