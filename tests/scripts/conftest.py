"""Runs of the real command, in this process or launched on several."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

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


def _launch(folder: Path, processes: int, script: Path, *options: object) -> Outcome:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(_free_port())]
    command += [str(script), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    return Outcome(done.returncode, done.stdout + done.stderr)


@pytest.fixture
def commands_on_two(tmp_path):
    """commands_on_two(*commands): each as `commands.py` describes it, all on the same two processes; what both said of each."""

    def run(*commands: dict) -> list[str]:
        file = tmp_path / "commands.json"
        file.write_text(json.dumps([command | {"argv": [str(word) for word in command["argv"]]} for command in commands]))
        outcome = _launch(tmp_path, 2, ROOT / "tests" / "scripts" / "commands.py", file)
        said = ["".join(path.read_text() for path in sorted(tmp_path.glob(f"commands.json.{i}.*"))) for i in range(len(commands))]
        assert outcome.code == 0, outcome.output + said[-1]
        return said

    return run
