"""A process that dies or hangs ends the others of its run: with a line, an exit code, and all that was saved; never in a hang."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.scripts.conftest import _free_port
from tests.scripts.test_kill import Forked, wait_until
from tests.scripts.tiny import ROOT, TINY
from train.checkpoint import Checkpoints

TIMEOUT_S = 10
OPTIONS = ["--config", "tiny.json", "--workspace", "run", "--batch_size_forward", "1", "--log_every", "1", "--save_every", "2"]
OPTIONS += ["--enable_mlflow", "false", "--enable_gradient_checkpointing", "false", "--collective_timeout_s", str(TIMEOUT_S)]
OPTIONS += ["--set", "data.image_sizes=[[64, 64]]", "--num_iterations", "100000"]


@pytest.fixture(scope="module")
def servers():
    """Of the processes 0 and 1, told what a launcher tells them, without a launcher that looks after them."""
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, str(ROOT / "tests" / "scripts" / "fork_server.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    found = [subprocess.Popen(words, env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}, **pipes) for rank in "01"]
    yield found
    for server in found:
        server.kill()
        server.wait()


@pytest.fixture
def two(servers, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    first, second = (Forked(server, tmp_path, OPTIONS) for server in servers)
    yield first, second
    with contextlib.suppress(ProcessLookupError):
        os.killpg(second.pid, signal.SIGKILL)
    second.wait()


@pytest.mark.parametrize(("number", "least_s", "said"), [("SIGKILL", 0, "Connection"), ("SIGSTOP", TIMEOUT_S / 2, f"{TIMEOUT_S}000ms")])
def test_when_one_process_is_gone_the_other_ends_within_the_time_out(two, tmp_path, number, least_s, said):
    first, second = two
    checkpoints, metrics = Checkpoints(tmp_path / "run" / "checkpoint"), tmp_path / "run" / "metrics.jsonl"
    assert wait_until(first, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 4), (tmp_path / "output.txt").read_text()
    start = time.monotonic()
    os.kill(second.pid, getattr(signal, number))
    assert first.wait() == 2
    assert least_s <= time.monotonic() - start < TIMEOUT_S + 120  # a machine that is busy; torch's own time-out is half an hour
    output = (tmp_path / "output.txt").read_text()
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "another process of this run is gone or does not answer" in line and said in line and "--checkpoint latest" in line
    assert "Traceback" not in output
    assert checkpoints.latest().step >= 2 and not list(checkpoints.folder.glob(".*.tmp"))
