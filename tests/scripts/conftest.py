"""Runs of the real command, in this process or launched on several."""

import json
import os
import socket
import subprocess
import sys

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.scripts.tiny import ROOT, TINY, Outcome


@pytest.fixture
def tiny(tmp_path):
    """A run file for seconds."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture
def train(monkeypatch, tmp_path):
    """train(*options) in this process, in an empty folder; the outcome has `code` and `output`."""
    from click.testing import CliRunner

    from scripts.train import main

    monkeypatch.chdir(tmp_path)

    def run(*options: object) -> Outcome:
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        result = CliRunner().invoke(main, [str(option) for option in options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.output)

    return run


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def launch(tmp_path):
    """launch(processes, *options): the command as users start it, on several processes."""

    def run(processes: int, *options: object) -> Outcome:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(_free_port())]
        command += [str(ROOT / "scripts" / "train.py"), *map(str, options)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        return Outcome(done.returncode, done.stdout + done.stderr)

    return run
