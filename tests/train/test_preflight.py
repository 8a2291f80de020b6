"""What is said before the first step, and that nothing is where nothing is off."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from tests.claims import claimed_by_another_process
from tests.scripts.tiny import TINY
from train import preflight
from train.run_file import load_config
from utils.errors import UserError
from utils.files import format_config

GIB = 2**30


def test_a_disk_for_all_checkpoints_is_not_mentioned():
    assert preflight.disk(Path("run"), 2 * GIB, 10, 20 * GIB) is None
    assert "19.0 GiB are free, and 10 checkpoints of about 2.00 GiB" in preflight.disk(Path("run"), 2 * GIB, 10, 19 * GIB)


def test_the_last_weights_beside_them_count_once_and_only_with_a_checkpoint():
    assert preflight.disk(Path("run"), 2 * GIB, 10, 21 * GIB, beside=GIB) is None
    assert "20.0 GiB are free" in preflight.disk(Path("run"), 2 * GIB, 10, 20 * GIB, beside=GIB)
    assert preflight.disk(Path("run"), 2 * GIB, 0, 0, beside=GIB) is None


def test_shared_memory_holds_what_the_workers_load_ahead():
    assert preflight.shared_memory(4, 4, 10 * 2**20, 200 * 2**20) is None
    line = preflight.shared_memory(4, 4, 10 * 2**20, 64 * 2**20)  # docker's default; 4 workers x (4 ahead + 1 at hand) x 10 MiB
    assert "64 MiB are free" in line and "can take 200;" in line and "--shm-size" in line
    assert preflight.shared_memory(0, 4, 10 * 2**20, 0) is None


def test_devices_that_are_not_used_are_named():
    assert preflight.idle_devices(8, 8) is None and preflight.idle_devices(1, 0) is None
    assert "8 GPUs are visible and 1 are used; `accelerate launch --num_processes 8`" in preflight.idle_devices(1, 8)


def test_a_validation_of_nothing_is_said():
    assert preflight.nothing_held(0, 0) is None and preflight.nothing_held(1000, 1) is None
    assert preflight.nothing_held(1000, 0).startswith("validation.every: 1000, but nothing is measured")


def test_processes_with_other_versions_are_named():
    same = {"torch": "2.6.0", "commit": "abc"}
    assert preflight.other_versions([same, dict(same)]) is None
    line = preflight.other_versions([same, same, {"torch": "2.7.0", "commit": "abc"}])
    assert "process 2 has torch 2.7.0, process 0 2.6.0" in line and "commit" not in line


def test_a_workspace_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    preflight.check_writable(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run: cannot be written \(.*file: is not a folder\)"):
        preflight.check_config_file(tmp_path / "mine.json", tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="read-only"):
        preflight.check_writable(tmp_path / "new" / "run")


def test_a_configuration_that_a_person_wrote_is_not_written_over(tmp_path):
    mine, workspace = tmp_path / "mine.json", tmp_path / "run"
    mine.write_text(json.dumps(TINY))
    preflight.check_config_file(mine, workspace)  # nothing is there
    workspace.mkdir()
    place = workspace / "config.json"
    place.write_text(json.dumps(TINY))
    for file, what in ((place, "is the run file itself"), (mine, "is there already, in a folder without a run")):
        with pytest.raises(UserError, match=f"run/config.json: {what}; .* pass another --workspace"):
            preflight.check_config_file(file, workspace)
    (workspace / preflight.LOCK_FILE).touch()  # as every run leaves it
    preflight.check_config_file(mine, workspace)
    with pytest.raises(UserError, match="is the run file itself"):
        preflight.check_config_file(place, workspace)
    place.write_text(format_config(load_config(mine).dump()))  # as a run has written it
    preflight.check_config_file(place, workspace)


def test_a_workspace_belongs_to_one_run_until_it_ends_in_whatever_way(tmp_path):
    with claimed_by_another_process(tmp_path / "run") as (process, loading):
        for _ in range(2):
            with pytest.raises(UserError, match=rf"run: process {process} on .* is training there .*--workspace"):
                preflight.claim_workspace(tmp_path / "run")
    os.kill(loading, 0)  # is there, and does not hold up the next run
    with preflight.claim_workspace(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    os.kill(loading, signal.SIGKILL)


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    preflight.claim_workspace(tmp_path).close()
