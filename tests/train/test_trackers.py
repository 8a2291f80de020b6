"""Trackers by what arrives, by what they do with a store that is dead, slow or gone, and by what must never arrive: credentials."""

import json
import logging
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from train.config import TrackersConfig
from train.tracker_backends import MlflowTracker, TensorBoardTracker, flatten
from train.trackers import Background, JsonLinesTracker, Tracker, TrackerGroup, build_trackers, read_metrics
from utils.errors import UserError
from utils.images import write_image


class Recorder(Tracker):
    """Keeps calls; fails or waits when told to."""

    def __init__(self, *, fail=lambda number: False, seconds=0.0):
        self.calls, self._fail, self._seconds, self._number = [], fail, seconds, 0

    def _note(self, *call):
        time.sleep(self._seconds)
        self._number += 1
        if self._fail(self._number):
            raise ConnectionError("no route to https://me:hunter2@host/api\nsecond line")
        self.calls.append(call)

    def start(self, params, tags=None):
        self._note("start", params, tags)

    def log(self, metrics, step):
        self._note("log", metrics, step)

    def image(self, path, name, step):
        self._note("image", path, name, step)

    def artifact(self, path, folder=None):
        self._note("artifact", path, folder)

    def tag(self, key, value):
        self._note("tag", key, value)

    def close(self, status="FINISHED", timeout_s=0.0):
        self._note("close", status)


def steps(recorder):
    return [call[2] for call in recorder.calls if call[0] == "log"]


def test_the_plain_tracker_and_an_empty_group_do_nothing(tmp_path):
    for tracker in (Tracker(), TrackerGroup([])):
        tracker.start({"a": 1})
        tracker.log({"loss": 1.0}, 1)
        tracker.image(tmp_path, "x", 1)
        tracker.artifact(tmp_path)
        tracker.tag("a", "b")
        tracker.close()
        assert tracker.run_id is None


def test_calls_arrive_in_order_and_the_end_last(tmp_path):
    recorder = Recorder()
    tracker = TrackerGroup([Background(recorder, "fake")])
    tracker.start({"a": {"b": 1}}, {"commit": "abc"})
    tracker.log({"loss": 1.0}, 1)
    tracker.image(tmp_path / "a.png", "a", 1)
    tracker.artifact(tmp_path / "config.json", "folder")
    tracker.tag("checkpoint", "x")
    tracker.close("KILLED")
    tracker.log({"loss": 2.0}, 2)  # too late, and no error
    assert recorder.calls == [
        ("start", {"a": {"b": 1}}, {"commit": "abc"}),
        ("log", {"loss": 1.0}, 1),
        ("image", tmp_path / "a.png", "a", 1),
        ("artifact", tmp_path / "config.json", "folder"),
        ("tag", "checkpoint", "x"),
        ("close", "KILLED"),
    ]


def test_the_first_failure_is_told_once_and_without_the_password(caplog):
    recorder = Recorder(fail=lambda number: number in (2, 3))
    tracker = Background(recorder, "fake")
    tracker.start({})
    for step in range(1, 6):
        tracker.log({"loss": 1.0}, step)
    tracker.close()
    assert steps(recorder) == [3, 4, 5] and tracker.failures == 2
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("fake: log failed (ConnectionError: no route to https://***@host/api second line); the run goes on")
    assert last.startswith("fake: 2 calls failed, 0 were dropped, 0 were not done in time")


def test_a_slow_server_slows_nothing_and_loses_the_oldest(caplog):
    recorder = Recorder(seconds=0.05)
    tracker = Background(recorder, "fake", capacity=5)
    start = time.perf_counter()
    tracker.start({"a": 1})
    for step in range(100):
        tracker.log({"loss": 1.0}, step)
    assert time.perf_counter() - start < 0.05
    tracker.close()
    assert recorder.calls[0][0] == "start" and recorder.calls[-1][0] == "close"
    assert steps(recorder)[-4:] == [96, 97, 98, 99]
    assert tracker.dropped + len(steps(recorder)) == 100
    assert f"{tracker.dropped} were dropped" in caplog.records[-1].getMessage()


def test_a_server_that_hangs_does_not_keep_the_run_from_ending(caplog):
    released = threading.Event()
    recorder = Recorder()
    recorder.log = lambda metrics, step: released.wait(20)
    tracker = Background(recorder, "fake")
    tracker.start({})
    for step in range(3):
        tracker.log({}, step)
    start = time.perf_counter()
    tracker.close(timeout_s=0.2)
    assert 0.1 < time.perf_counter() - start < 2
    assert "4 were not done in time" in caplog.records[-1].getMessage()  # the one that hangs, two more, the end
    released.set()


def test_a_group_shares_one_time_limit():
    released = threading.Event()
    hanging = [Recorder(), Recorder()]
    for recorder in hanging:
        recorder.log = lambda metrics, step: released.wait(20)
    tracker = TrackerGroup([Background(recorder, "fake") for recorder in hanging])
    tracker.log({}, 1)
    start = time.perf_counter()
    tracker.close(timeout_s=0.3)
    assert time.perf_counter() - start < 0.6
    released.set()


# ---- metrics.jsonl ----------------------------------------------------------------------------------------------------------------------


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_per_call_with_step_and_time_and_null_for_what_is_not_finite(tmp_path):
    tracker = JsonLinesTracker(tmp_path / "new" / "metrics.jsonl")
    before = time.time()
    tracker.log({"train/loss": 0.5, "broken": math.nan, "huge": -math.inf, "numpy": np.float32(2)}, 10)
    tracker.log({}, 20)
    first, second = lines(tmp_path / "new" / "metrics.jsonl")
    assert abs(first.pop("time") - before) < 10
    assert first == {"step": 10, "train/loss": 0.5, "broken": None, "huge": None, "numpy": 2.0} and second["step"] == 20


def test_a_resumed_run_repeats_no_step_and_loses_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonLinesTracker(path)
    for step in (0, 10, 20, 30):
        tracker.log({"loss": float(step)}, step)
    path.write_text(path.read_text() + '{"step": 40, "lo')  # killed while it wrote
    tracker = JsonLinesTracker(path, step=20)
    tracker.log({"loss": -1.0}, 30)
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(0, 0.0), (10, 10.0), (20, 20.0), (30, -1.0)]
    assert len(lines(path)) == 4
    superseded = (tmp_path / "metrics.superseded.jsonl").read_text().splitlines()
    assert [json.loads(superseded[0])["step"], superseded[1]] == [30, '{"step": 40, "lo']


def test_a_new_run_in_an_old_workspace_begins_a_new_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    JsonLinesTracker(path).log({"loss": 1.0}, 0)
    JsonLinesTracker(path).log({"loss": 2.0}, 0)
    assert [line["loss"] for line in read_metrics(path)] == [2.0]
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.superseded.jsonl")] == [1.0]


def test_a_file_that_cannot_be_written_is_told_once_and_recovers(tmp_path, caplog):
    path = tmp_path / "folder" / "metrics.jsonl"
    tracker = JsonLinesTracker(path)
    path.parent.rmdir()
    tracker.log({"loss": 1.0}, 1)
    tracker.log({"loss": 1.0}, 2)
    path.parent.mkdir()
    tracker.log({"loss": 1.0}, 3)
    tracker.close()
    assert [line["step"] for line in read_metrics(path)] == [3]
    told, counted = (record.getMessage() for record in caplog.records)
    assert "cannot be written (No such file or directory)" in told and "2 lines could not be written" in counted


# ---- MLflow -----------------------------------------------------------------------------------------------------------------------------


class FakeClient:
    """The calls that MlflowTracker makes, kept in lists; `dead` makes the next ones fail."""

    def __init__(self, dead=0):
        self.dead, self.params, self.metrics, self.tags, self.status, self.runs = dead, {}, [], {}, [], 0

    def _answer(self):
        if self.dead:
            self.dead -= 1
            raise ConnectionError("dead")

    def get_experiment_by_name(self, name):
        self._answer()
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment_id, run_name):
        self._answer()
        self.runs += 1
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{self.runs}"))

    def get_run(self, run_id):
        self._answer()
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage="active"), data=SimpleNamespace(params=dict(self.params)))

    def update_run(self, run_id, status):
        self.status.append(status)

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        self._answer()
        assert len(params) <= 100 and len(metrics) <= 1000
        self.params |= {param.key: param.value for param in params}
        self.metrics += [(metric.key, metric.value, metric.step) for metric in metrics]
        self.tags |= {tag.key: tag.value for tag in tags}

    def set_tag(self, run_id, key, value):
        self.tags[key] = value

    def set_terminated(self, run_id, status):
        self.status.append(status)


def mlflow_of(client, **changes):
    return MlflowTracker(**({"experiment": "e", "run_name": "r", "client": client} | changes))


def test_parameters_are_flat_limited_and_sent_in_batches():
    client = FakeClient()
    params = {
        "many": {str(index): index for index in range(250)},
        "long": "x" * 10_000,
        "list": [{"a": 1}, {"b": [1, 2]}],
        "none": None,
        "no": {},
    }
    mlflow_of(client).start(params, {"commit": "abc"})
    assert len(client.params) == 255 and len(client.params["long"]) == 6000 and client.tags == {"commit": "abc"}
    assert client.params["list.0.a"] == "1" and client.params["list.1.b"] == "[1, 2]"
    assert client.params["none"] == "null" and client.params["no"] == "{}" and client.params["many.249"] == "249"


def test_numbers_that_are_not_finite_are_left_out():
    client = FakeClient()
    tracker = mlflow_of(client)
    tracker.start({})
    tracker.log({"train/loss": 1.0, "bad": math.nan, "worse": math.inf, "odd é@%": 2.0}, 7)
    tracker.close("FAILED")
    assert client.metrics == [("train/loss", 1.0, 7), ("odd é__", 2.0, 7)] and client.status == ["FAILED"]


def test_a_store_that_wakes_up_later_gets_the_parameters_and_the_rest(caplog):
    client = FakeClient(dead=2)
    tracker = Background(mlflow_of(client), "MLflow")
    tracker.start({"a": 1})
    for step in range(1, 5):
        tracker.log({"loss": 1.0}, step)
    tracker.close()
    assert client.params == {"a": "1"} and [metric[2] for metric in client.metrics] == [2, 3, 4] and client.runs == 1
    assert tracker.failures == 2 and client.status == ["FINISHED"]


@pytest.mark.parametrize(("dead", "status", "said"), [(0, "FINISHED", True), (1, "FINISHED", False), (0, "KILLED", False)])
def test_a_finished_run_is_said_to_be_in_the_store_where_it_is(caplog, dead, status, said):
    caplog.set_level(logging.INFO, logger="stereofoundry")
    tracker = Background(mlflow_of(FakeClient(dead)), "MLflow", success="`mlflow ui` shows the run")
    tracker.start({"a": 1})
    tracker.close(status)
    assert ("`mlflow ui` shows the run" in caplog.messages) == said


def test_a_store_that_dies_while_the_run_is_made_leaves_no_second_run():
    client = FakeClient()
    tracker = mlflow_of(client)
    client.log_batch, working = lambda *_, **__: (_ for _ in ()).throw(ConnectionError("dead")), client.log_batch
    with pytest.raises(ConnectionError):
        tracker.start({"a": 1})
    client.log_batch = working
    tracker.log({"loss": 1.0}, 1)
    assert client.runs == 1 and client.params == {"a": "1"}


def test_a_real_store_keeps_a_run_and_continues_it(tmp_path, monkeypatch, capfd):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    workspace = tmp_path / "my_run"
    (tmp_path / "a.txt").write_text("hello")
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))

    def session(run_id, step, params):
        tracker = build_trackers(TrackersConfig(experiment="tests"), workspace, run_id=run_id, step=step)
        tracker.start(params, {"commit": "abc"})
        tracker.log({"train/loss": 1.0 / (step + 1), "kitti/epe": math.nan}, step + 1)
        tracker.image(tmp_path / "a.png", "a", step + 1)
        tracker.artifact(tmp_path / "a.txt", "notes")
        tracker.close()
        return tracker.run_id

    first = session(None, 0, {"lr": 0.1, "model": {"type": "x"}})
    client = MlflowClient()
    assert client.get_run(first).info.status == "FINISHED"
    second = session(first, 1, {"lr": 0.2, "model": {"type": "x"}, "new": True})
    run = client.get_run(second)
    assert second == first and run.info.run_name == "my_run" and run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "model.type": "x", "new": "true"}
    assert run.data.tags["commit"] == "abc" and run.data.tags["changed.lr"] == "0.2"
    assert [(metric.step, metric.value) for metric in client.get_metric_history(first, "train/loss")] == [(1, 1.0), (2, 0.5)]
    assert {item.path for item in client.list_artifacts(first, "vis")} == {"vis/step_00000001", "vis/step_00000002"}
    assert [item.path for item in client.list_artifacts(first, "notes")] == ["notes/a.txt"]
    assert session(None, 2, {}) == first  # a checkpoint that does not know the run, in a workspace that does
    assert session("0" * 32, 3, {}) not in (None, "0" * 32, first)  # unknown to this store: a new run
    assert capfd.readouterr() == ("", "")  # neither schema messages nor links


def test_a_real_server_that_is_dead_stops_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = build_trackers(TrackersConfig(), tmp_path / "run")
    start = time.perf_counter()
    tracker.start({"a": 1})
    tracker.log({"loss": 1.0}, 1)
    assert time.perf_counter() - start < 1
    tracker.close()
    assert time.perf_counter() - start < 15
    assert [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1.0]
    messages = [record.getMessage() for record in caplog.records if record.name == "stereofoundry"]
    assert len(messages) == 2 and messages[0].startswith("MLflow: start failed") and "hunter2" not in " ".join(messages)


# ---- TensorBoard ------------------------------------------------------------------------------------------------------------------------


def test_tensorboard_holds_scalars_pictures_and_parameters(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_image(tmp_path / "a.png", np.full((4, 6, 3), 200, np.uint8))
    tracker = build_trackers(TrackersConfig(tensorboard=True), tmp_path / "run", enable_mlflow=False)
    tracker.start({"model": {"type": "x|y"}}, {"commit": "abc"})
    tracker.log({"train/loss": 0.5, "broken": math.nan}, 3)
    tracker.image(tmp_path / "a.png", "a", 3)
    tracker.artifact(tmp_path / "a.png")  # TensorBoard has no place for files
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5)]
    (picture,) = events.Images("vis/a")
    assert (picture.width, picture.height, picture.step) == (6, 4, 3)
    assert "model.type" in events.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()


def test_tensorboard_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"^trackers.tensorboard: TensorBoard is not installed; `uv sync --extra tensorboard`"):
        TensorBoardTracker(tmp_path)


# ---- credentials ------------------------------------------------------------------------------------------------------------------------


def test_no_credential_reaches_a_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t-token")
    client = FakeClient()
    params = {
        "tracking_uri": "https://me:pass/w@rd@mlflow.example.org:443/x",
        "db": {"uri": "postgresql://user:hunter2@db/mlflow", "password": "hunter2", "Api_Key": "hunter2"},
        "argv": ["--token-of", "s3cr3t-token", "https://hunter2@host"],
        "url": "https://host/x?api_key=hunter2&page=2",
        "model": {"disparity_attention": "tokens", "path": "data/a@b"},
    }
    tracker = mlflow_of(client)
    tracker.start(params, {"origin": "https://hunter2@github.com/x/y"})
    tracker.tag("where", "s3://key:hunter2@bucket/x")
    everything = json.dumps([client.params, client.tags])
    assert "hunter2" not in everything and "s3cr3t" not in everything and "pass" not in everything.replace("password", "")
    assert client.params["tracking_uri"] == "https://***@mlflow.example.org:443/x"
    assert client.params["url"] == "https://host/x?api_key=***&page=2"
    assert client.params["db.password"] == client.params["db.Api_Key"] == "***"
    assert client.params["model.disparity_attention"] == "tokens" and client.params["model.path"] == "data/a@b"


def test_flatten_of_nothing_is_nothing():
    assert flatten({}) == {} and flatten({"a": []}) == {"a": "[]"}


@pytest.fixture(autouse=True)
def _messages(caplog):
    caplog.set_level(logging.WARNING, logger="stereofoundry")
