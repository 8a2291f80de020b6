"""Saving behind the loop: what is written is the state of the step, whatever happens meanwhile, and a disk that fails stops nothing."""

import logging
import threading
from pathlib import Path

import pytest
import torch

from core.weight_files import read_file
from tests.hostile import full_disk
from train.checkpoint import Checkpoints
from train.config import CheckpointsConfig
from train.saving import Saver, Snapshot
from utils.errors import UserError


def parts(step):
    return {"model": {"model": {"w": torch.full((100_000,), float(step))}}, "optimizer": {"step": step}}


@pytest.fixture
def saver(tmp_path):
    """saver(**retention)"""

    def build(**keep):
        built = Saver(Checkpoints(tmp_path / "checkpoint"), CheckpointsConfig(**keep), lambda found: seen.append(found.step))
        built.seen = seen
        return built

    seen = []
    return build


def steps(saver):
    return saver._checkpoints.steps()


def test_a_snapshot_is_of_its_moment_and_equal_tensors_stay_one():
    weight = torch.randn(4, 3).to(memory_format=torch.preserve_format).t()
    state = {"w": weight, "again": weight.detach(), "moments": [weight[:2], (1, "x")], "none": None, "count": torch.tensor(3)}
    copy = (snapshot := Snapshot()).take(state)
    expected = weight.clone()
    weight.zero_()
    assert torch.equal(copy["w"], expected) and copy["again"] is copy["w"] and copy["w"].stride() == weight.stride()
    assert torch.equal(copy["moments"][0], expected[:2]) and copy["moments"][1] == (1, "x")
    assert copy["none"] is None and copy["count"] == 3
    again = snapshot.take(state)
    assert again["w"].data_ptr() == copy["w"].data_ptr() and not again["w"].any()  # the same memory, with what is there now


def test_a_file_holds_what_was_there_when_save_returned(saver, monkeypatch):
    saver, go = saver(), threading.Event()
    write = Checkpoints.write
    monkeypatch.setattr(Checkpoints, "write", lambda *a: (go.wait(10), write(*a))[1])
    state = parts(1)
    saver.save(1, state)
    state["model"]["model"]["w"].fill_(7)
    assert saver.newest is None and saver.seen == []  # the loop is not held up
    go.set()
    saver.finish()
    assert saver.seen == [1] and torch.equal(saver.newest.load("model")["model"]["w"], torch.full((100_000,), 1.0))


def test_one_step_is_written_at_a_time(saver, monkeypatch):
    saver, running, most = saver(), [], []
    write = Checkpoints.write

    def slow(*arguments):
        running.append(1)
        most.append(len(running))
        threading.Event().wait(0.05)
        running.pop()
        return write(*arguments)

    monkeypatch.setattr(Checkpoints, "write", slow)
    for step in (1, 2, 3):
        saver.save(step, parts(step))
    saver.finish()
    assert most == [1, 1, 1] and saver.seen == [1, 2, 3]
    assert [Checkpoints.find(saver._checkpoints, str(s)).load("model")["model"]["w"][0] for s in (1, 2, 3)] == [1, 2, 3]


def test_a_full_disk_stops_nothing_and_the_next_save_succeeds(saver, caplog):
    saver = saver(keep_last=2)
    for step in (10, 20, 30):
        saver.save(step, parts(step))
    saver.wait()
    assert steps(saver) == [20, 30]
    with full_disk():
        for step in (40, 50):
            saver.save(step, parts(step))
        saver.wait()
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2 and "the checkpoint of step 40 cannot be written (File too large)" in warnings[0]
    assert "the newest complete one is of step 30" in warnings[1]
    assert steps(saver) == [20, 30] and saver._checkpoints.latest().step == 30  # none went, nothing half-written is left
    assert not list(saver._checkpoints.folder.glob(".*"))
    saver.save(60, parts(60))
    saver.finish()
    assert steps(saver) == [30, 60] and saver.seen == [10, 20, 30, 60]


def test_the_last_step_is_tried_again_at_the_end(saver):
    saver = saver()
    with full_disk():
        saver.save(40, parts(40))
        saver.wait()
    saver.finish()
    assert saver.newest.step == 40 and torch.equal(saver.newest.load("model")["model"]["w"], torch.full((100_000,), 40.0))


def best(step):
    return {"model": {"w": torch.full((100_000,), float(step))}, "model_config": {}, "step": step}


def test_the_best_weights_are_those_of_their_moment_and_wait_for_a_step_that_is_written(saver):
    saver, found = saver(), best(5)
    saver.hold(found)
    found["model"]["w"].fill_(7)
    with full_disk():
        saver.save(10, parts(10))
        saver.wait()
    saver.save(20, parts(20))
    saver.hold(best(25))  # waits until 20 is written, which takes the first ones
    assert torch.equal(read_file(saver.newest.path("best"))["model"]["w"], torch.full((100_000,), 5.0))
    saver.hold(best(26))
    saver.save(30, parts(30))
    saver.save(40, parts(40))
    saver.finish()
    kept = {path.name: read_file(path)["step"] for path in sorted(saver._checkpoints.folder.glob("*_best.safetensors"))}
    assert kept == {"00000020_best.safetensors": 5, "00000030_best.safetensors": 26}


@pytest.mark.parametrize(("measured", "there"), [(10, True), (15, False)])
def test_measured_after_its_step_was_saved_the_best_is_added_to_it_and_to_no_other(saver, caplog, measured, there):
    saver = saver()
    saver.save(10, parts(10))
    saver.wait()
    saver.hold(best(measured))
    with full_disk():
        saver.finish()
    assert ("00000010_best.safetensors: cannot be written" in caplog.text) == there
    saver.finish()
    assert saver.newest.path("best").exists() == there


def test_a_last_step_that_cannot_be_written_is_an_error_and_the_one_before_stays(saver):
    saver = saver()
    saver.save(10, parts(10))
    saver.wait()
    with full_disk():
        saver.save(20, parts(20))
        with pytest.raises(UserError, match=r"the last checkpoint, of step 20, cannot be written; the newest complete one is of step 10"):
            saver.finish()
    assert saver._checkpoints.latest().step == 10


def test_a_folder_that_nothing_can_be_written_to_is_only_a_warning(caplog):
    saver = Saver(Checkpoints(Path("/proc/stereofoundry")), CheckpointsConfig(), lambda found: None)
    saver.save(1, parts(1))
    saver.wait()
    assert "the checkpoint of step 1 cannot be written" in caplog.text and "none is complete yet" in caplog.text
    with pytest.raises(UserError, match="there is no other"):
        saver.finish()


def test_what_no_disk_can_cause_ends_the_run(saver, caplog):
    saver = saver()
    saver.save(1, {"model": {"model": lambda: None}})
    with pytest.raises(Exception, match="pickle"):
        saver.wait()


def test_retention_is_checked_when_the_configuration_is_read():
    for wrong, words in [({"keep_last": 1}, "greater than or equal to 2"), ({"keep_every": 5}, "without keep_last")]:
        with pytest.raises(ValueError, match=words):
            CheckpointsConfig(**wrong)


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.WARNING, "stereofoundry")
