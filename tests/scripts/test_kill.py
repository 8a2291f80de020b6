"""A run that is killed again and again, at any moment, ends as the run that was not, and loses no checkpoint on the way.

`uv run pytest -m slow tests/scripts/test_kill.py --log-cli-level=INFO` kills thirty times, processes started as users start them, and says
where each kill fell.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from tests.scripts.tiny import ROOT, TINY, assert_same_run
from train.checkpoint import Checkpoint, Checkpoints

log = logging.getLogger("tests.kill")

KEEP_LAST = 3
STAGED = ".[0-9]*.tmp"  # the hidden folder of a step


class Command:
    """A training process: `kill` it, or `wait` for its exit code."""

    def __init__(self, folder, options):
        words = [sys.executable, str(ROOT / "scripts" / "train.py"), *options]
        with open(folder / "output.txt", "ab") as output:
            self._process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=output, start_new_session=True)
        self.pid = self._process.pid

    def running(self):
        return self._process.poll() is None

    def wait(self):
        return self._process.wait(timeout=600)


class Forked:
    """The same, from a process that has everything imported: a second and not ten."""

    def __init__(self, server, folder, options):
        self._server = server
        server.stdin.write(json.dumps([str(folder), *options]) + "\n")
        server.stdin.flush()
        self.pid = int(self._answer("started"))

    def running(self):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(self.pid)], capture_output=True, text=True).stdout
        return state.strip()[:1] not in ("", "Z")

    def wait(self):
        return os.waitstatus_to_exitcode(int(self._answer("ended")))

    def _answer(self, word):
        found, _, value = self._server.stdout.readline().partition(" ")
        assert found == word
        return value


@pytest.fixture(scope="module")
def server():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(ROOT / "tests" / "scripts" / "fork_server.py")]
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def wait_until(process, happened):
    """Looks a thousand times a second. False when the process ended before."""
    looked = 0
    while not happened():
        time.sleep(0.001)
        looked += 1
        if looked % 200 == 0 and not process.running():
            return False
    return True


def still(process, happens):
    """Whether something that passes is there once the process is held; it goes on where it is not."""
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(0.005)
    if happens():
        return True
    os.killpg(process.pid, signal.SIGCONT)
    return False


def moments(checkpoints, metrics, generator, count):
    """What to wait for before each kill, by name, in an order that is random: any moment, also during imports, and each stage of a save.

    A save is a hidden folder that fills (`staging`), files that move out of it, the record that makes them count, the pointer, the pruning.
    """

    def some_steps():
        goal = lines() + int(generator.integers(0, 4))
        return lambda: lines() >= goal

    def lines():
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def begun():
        left_over = [True]  # by the last kill, until it has been seen to be gone

        def happened():
            there = any(checkpoints.folder.glob(STAGED))
            left_over[0] = left_over[0] and there
            return there and not left_over[0]

        return happened

    def new_record():
        known = set(checkpoints.folder.glob("0*.json"))
        return lambda: set(checkpoints.folder.glob("0*.json")) - known

    waits = {
        "any moment": (some_steps, 0.6),
        "start": (lambda: lambda: True, 6.0),
        "staging": (begun, 0.0),
        "writing": (begun, 0.08),
        "published": (new_record, 0.01),
    }
    names = np.resize(["staging", "any moment", "published", "writing", "start", "any moment"], count)
    for name in generator.permutation(names):
        wait, most = waits[str(name)]
        yield str(name), wait(), float(generator.uniform(0, most))


def kill_again_and_again(start, tmp_path, kills, steps, seed):
    options = ["--config", "tiny.json", "--batch_size_forward", "1", "--save_every", "2", "--log_every", "1", "--enable_mlflow", "false"]
    options += ["--num_iterations", str(steps), "--enable_gradient_checkpointing", "false", "--set", "data.image_sizes=[[64, 64]]"]
    options += ["--set", f"checkpoints.keep_last={KEEP_LAST}", "--set", "checkpoints.keep_every=10", "--checkpoint", "latest"]
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    assert start([*options, "--workspace", "whole"]).wait() == 0, (tmp_path / "output.txt").read_text()
    generator, checkpoints = np.random.default_rng(seed), Checkpoints(tmp_path / "run" / "checkpoint")
    newest, fell, torn = 0, Counter(), 0
    for kill, (name, happened, delay) in enumerate(moments(checkpoints, tmp_path / "run" / "metrics.jsonl", generator, kills)):
        process = start([*options, "--workspace", "run"])
        assert wait_until(process, happened), (tmp_path / "output.txt").read_text()
        while name == "staging" and not still(process, happened):  # held first: a busy machine may have let it write on
            assert wait_until(process, happened), (tmp_path / "output.txt").read_text()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed; give it more steps"
        records = checkpoints.records()
        for step, files in records.items():  # every one that ever counted, and that retention does not give up, is whole
            assert Checkpoint(checkpoints.folder, step).damage(files) is None
        assert max(records, default=0) >= newest
        newest = max(records, default=0)
        assert set(range(10, newest + 1, 10)) <= records.keys() and set(range(newest, 0, -2)[:KEEP_LAST]) <= records.keys()
        fell[name] += 1
        torn += any(checkpoints.folder.glob(STAGED)) if checkpoints.folder.exists() else 0
        log.info("kill %d, %s, %.3f s later: newest complete %d, %s", kill + 1, name, delay, newest, sorted(records))
    assert start([*options, "--workspace", "run"]).wait() == 0, (tmp_path / "output.txt").read_text()
    assert_same_run(tmp_path / "whole", tmp_path / "run", steps)
    kept = sorted({*range(steps, 0, -2)[:KEEP_LAST], *range(10, steps + 1, 10)})
    assert list(checkpoints.records()) == kept == checkpoints.steps()
    assert not [path for path in checkpoints.folder.iterdir() if path.name.startswith(".")]
    log.info("killed %s, %d of them with a half-written checkpoint; the rest of the run is the same, bit for bit", dict(fell), torn)
    return torn


def test_killed_three_times_a_run_ends_the_same(tmp_path, server):
    assert kill_again_and_again(lambda options: Forked(server, tmp_path, options), tmp_path, kills=3, steps=8, seed=3) > 0


@pytest.mark.slow
def test_killed_thirty_times_a_run_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert kill_again_and_again(lambda options: Command(tmp_path, options), tmp_path, kills=30, steps=100, seed=0) >= 5


def test_a_signal_to_the_whole_group_ends_a_run_with_loading_processes_in_order(tmp_path, server):
    """As schedulers and launchers do it: every process of the group gets it, the loading ones as well."""
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    options = ["--config", "tiny.json", "--batch_size_forward", "1", "--log_every", "1", "--enable_mlflow", "false", "--workspace", "run"]
    process = Forked(server, tmp_path, [*options, "--set", "data.workers=2", "--enable_gradient_checkpointing", "false"])
    assert wait_until(process, (tmp_path / "run" / "metrics.jsonl").exists)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 0
    said = (tmp_path / "output.txt").read_text()
    assert "SIGTERM: the run ends after this step" in said and "stopped by a signal after step" in said and "Traceback" not in said
    assert Checkpoints(tmp_path / "run" / "checkpoint").latest() is not None
