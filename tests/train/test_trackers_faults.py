"""MLflow stores that are dead, die, are slow or full while a run goes on: it goes on as fast, says so once, every number is in
`metrics.jsonl`, and `scripts/sync_metrics.py` brings the store what it missed.
"""

import json
import logging
import threading
import time

import pytest
from click.testing import CliRunner

from scripts.sync_metrics import main
from tests.hostile import full_disk
from tests.train.mlflow_server import MlflowServer
from train.config import TrackersConfig
from train.trackers import build_trackers, read_metrics

STEPS = 30


@pytest.fixture
def server(monkeypatch):
    found = MlflowServer()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{found.port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def _messages(caplog):
    caplog.set_level(logging.WARNING, logger="stereofoundry")


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "stereofoundry"]


class Training:
    """As much of a run as trackers see: a configuration, numbers at each step, an end. `longest`: seconds that a step spent on them."""

    def __init__(self, workspace, step=0):
        workspace.mkdir(exist_ok=True)
        (workspace / "config.json").write_text(json.dumps({"trackers": {"experiment": "faults"}, "training": {"clip_norm": 1.0}}))
        self.tracker, self.longest = build_trackers(TrackersConfig(experiment="faults"), workspace, step=step), 0.0
        self.tracker.start({"training": {"clip_norm": 1.0}})

    def steps(self, first, last):
        for step in range(first, last + 1):
            start = time.perf_counter()
            self.tracker.log({"train/loss": 1.0 / step, "lr": 0.1}, step)
            self.longest = max(self.longest, time.perf_counter() - start)

    def end(self, timeout_s=20.0):
        start = time.perf_counter()
        self.tracker.close(timeout_s=timeout_s)
        return time.perf_counter() - start


def arrived(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def assert_nothing_lost(workspace, steps=STEPS):
    assert [line["step"] for line in read_metrics(workspace / "metrics.jsonl")] == list(range(1, steps + 1))


def sync(workspace, *options):
    result = CliRunner().invoke(main, [str(workspace), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def assert_synced(server, workspace, steps=STEPS):
    """Each number once in one run, with its parameters; and a second call sends nothing."""
    assert sync(workspace).exit_code == 0
    (run,) = server.runs.values()
    assert sorted(run["metrics"]) == sorted(
        [("train/loss", 1.0 / step, step) for step in range(1, steps + 1)] + [("lr", 0.1, step) for step in range(1, steps + 1)]
    )
    assert run["params"]["training.clip_norm"] == "1.0"
    before = len(run["metrics"])
    again = sync(workspace)
    assert again.exit_code == 0 and f"has {2 * steps} numbers, lacks 0" in again.output and len(run["metrics"]) == before


def test_a_server_that_is_dead_at_the_start_costs_one_warning_and_gets_everything_later(server, tmp_path, caplog):
    server.stop()
    run = Training(tmp_path / "run")
    run.steps(1, STEPS)
    assert run.end() < 10 and run.longest < 0.1
    assert_nothing_lost(tmp_path / "run")
    first, last = told(caplog)
    assert first.startswith("MLflow: start failed") and "metrics.jsonl" in first
    assert "sync_metrics.py" in last and not (tmp_path / "run" / "mlflow_run.json").exists()
    server.restart()
    assert_synced(server, tmp_path / "run")
    (stored,) = server.runs.values()
    assert stored["run_name"] == "run" and stored["status"] == "FINISHED"


@pytest.mark.parametrize("how", ["gone", "broken"])
def test_a_server_that_dies_in_the_middle_misses_nothing_in_the_end(server, tmp_path, caplog, how):
    run = Training(tmp_path / "run")
    run.steps(1, 10)
    arrived(lambda: len(server.metrics) == 20)
    if how == "gone":
        server.stop()
    server.broken = how == "broken"
    run.steps(11, STEPS)
    assert run.end() < 10 and run.longest < 0.1
    assert_nothing_lost(tmp_path / "run")
    assert len(told(caplog)) == 2 and told(caplog)[0].startswith("MLflow: log failed")
    if how == "gone":
        server.restart()
    server.broken = False
    assert_synced(server, tmp_path / "run")
    (stored,) = server.runs.values()
    assert stored["status"] == "RUNNING"  # the store was never told, and the run may as well go on
    assert sync(tmp_path / "run", "--status", "KILLED").exit_code == 0 and stored["status"] == "KILLED"
    sync(tmp_path / "run")
    assert stored["status"] == "KILLED"


def test_a_server_that_dies_while_it_learns_of_the_run_is_given_no_second_one(server, tmp_path):
    server._do, whole = lambda path, body: (500, {}) if "log-batch" in path else whole(path, body), server._do
    run = Training(tmp_path / "run")
    run.steps(1, STEPS)
    run.end()
    assert len(server.runs) == 1 and not server.metrics
    server._do = whole
    assert_synced(server, tmp_path / "run")


def test_a_server_that_takes_five_seconds_a_call_slows_no_step(server, tmp_path, caplog):
    server.seconds = 5.0
    run = Training(tmp_path / "run")
    run.steps(1, STEPS)
    assert run.longest < 0.1
    assert run.end(timeout_s=0.5) < 1.5
    assert_nothing_lost(tmp_path / "run")
    (line,) = told(caplog)
    assert f"{STEPS + 2} were not done in time" in line  # with the start, that hangs, and the end
    server.hurry.set()
    arrived(lambda: not any(thread.name == "MLflow tracker" for thread in threading.enumerate()))


def test_a_full_disk_below_the_store_costs_one_warning_and_no_number(tmp_path, monkeypatch, caplog):
    """The disk of MLflow's sqlite: no file of this process may grow beyond the store's size."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.chdir(tmp_path)
    first = Training(tmp_path / "first")  # makes the store
    first.end(60.0)
    assert told(caplog) == []
    run = Training(tmp_path / "run")
    run.steps(1, 5)
    arrived(lambda: run.tracker.run_id and (tmp_path / "run" / "mlflow_run.json").exists())
    with full_disk(4096 * 8):  # also of its journal; metrics.jsonl stays below
        run.steps(6, STEPS)
        assert run.end() < 20 and run.longest < 0.1
    assert_nothing_lost(tmp_path / "run")
    lines = told(caplog)
    assert len(lines) == 2 and "failed" in lines[0] and "disk" in lines[0]
    found = sync(tmp_path / "run")
    assert found.exit_code == 0, found.output
    from mlflow.tracking import MlflowClient

    run_id = json.loads((tmp_path / "run" / "mlflow_run.json").read_text())["run_id"]
    history = MlflowClient().get_metric_history(run_id, "train/loss")
    assert sorted(metric.step for metric in history) == list(range(1, STEPS + 1))


# ---- the command ------------------------------------------------------------------------------------------------------------------------


def test_numbers_keep_their_time_and_what_is_not_finite_is_left_out(server, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    lines = [{"step": 1, "time": 12.5, "a": 1, "b": None, "odd é@": 2.0, "text": "x"}, {"step": 2, "time": 13.0, "a": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "a')
    assert "has 0 numbers, lacks 3" in sync(tmp_path).output
    assert sorted(server.metrics) == [("a", 1.0, 1), ("a", 3.0, 2), ("odd é_", 2.0, 1)]
    sent = [metric for path, body, _ in server.requests if path.endswith("log-batch") for metric in body.get("metrics", [])]
    assert {(metric["key"], metric["step"], metric["timestamp"]) for metric in sent} >= {("a", 1, 12500), ("a", 2, 13000)}


def test_a_store_that_dies_while_it_is_told_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr("train.metrics_sync.MLFLOW_METRICS", 10)
    server.stop()
    run = Training(tmp_path / "run")
    run.steps(1, STEPS)
    run.end()
    server.restart()
    server._do, whole = lambda path, body: (500, {}) if len(server.metrics) >= 20 else whole(path, body), server._do
    broken = sync(tmp_path / "run")
    assert broken.exit_code == 2 and "nothing is sent twice" in broken.output
    server._do = whole
    assert_synced(server, tmp_path / "run")


def test_what_cannot_be_sent_is_one_line_without_the_password(tmp_path, monkeypatch, server):
    nothing = sync(tmp_path / "none")
    assert nothing.exit_code == 2 and "metrics.jsonl: no such file; expected the workspace of a run" in nothing.output
    server.stop()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{server.port}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 1.0, "a": 1}\n')
    (tmp_path / "config.json").write_text("{}")
    dead = sync(tmp_path)
    assert dead.exit_code == 2 and len(dead.output.splitlines()) == 1 and "check MLFLOW_TRACKING_URI" in dead.output
    assert "hunter2" not in dead.output
    server.restart()
