"""Through the real command: checkpoints that want to run code, and a credential that is looked for in every byte a run leaves or sends."""

import json
import logging

import pytest

from tests.hostile import weapons
from tests.scripts.tiny import TINY
from tests.train.mlflow_server import MlflowServer
from utils.files import sha256

FAST = ["--batch_size_forward", 1, "--num_iterations", 2, "--log_every", 1, "--enable_gradient_checkpointing", "false"]
FAST += ["--set", "data.image_sizes=[[64, 64]]"]


def test_a_run_neither_continues_nor_starts_from_a_malicious_file(train, tiny, tmp_path, bomb):
    common = ["--config", tiny, *FAST, "--enable_mlflow", "false"]
    assert train(*common, "--workspace", "run").code == 0
    folder = tmp_path / "run" / "checkpoint"
    content = weapons(bomb)["saved"]
    record = folder / "00000002.json"
    for name in ("00000002.pt", "00000002_optimizer.pt", "00000002_ema.pt"):
        path, described = folder / name, record.read_text()
        whole = path.read_bytes()
        path.write_bytes(content)
        files = json.loads(described)  # whoever can change the file can change its digest
        files["files"][name] = {"size": len(content), "sha256": sha256(path)}
        record.write_text(json.dumps(files))
        (folder / "latest.pt").unlink(missing_ok=True)
        outcome = train(*common, "--workspace", "run", "--checkpoint", "latest", "--num_iterations", 3)
        assert outcome.code == 2 and f"{name}: not a readable weight file" in outcome.output, outcome.output
        if name != "00000002_optimizer.pt":
            outcome = train(*common, "--workspace", "new", "--checkpoint", path, "--init_only")
            assert outcome.code == 2 and f"{name}: not a readable weight file" in outcome.output, outcome.output
        path.write_bytes(whole)
        record.write_text(described)
    (folder / "latest.pt").write_bytes(content)
    outcome = train(*common, "--workspace", "run", "--checkpoint", "latest", "--num_iterations", 3)
    assert outcome.code == 0 and "going by the records" in outcome.output, outcome.output


SECRET, TOKEN = "hunter2-of-the-store", "t0k3n-of-the-store"


@pytest.mark.parametrize("alive", [True, False])
def test_no_credential_is_in_any_byte_that_a_run_leaves_says_or_sends(train, tmp_path, monkeypatch, caplog, alive):
    server = MlflowServer(artifacts=tmp_path / "artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{server.port}")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    caplog.set_level(logging.DEBUG)
    if not alive:
        server.stop()
    path = tmp_path / "run.json"
    path.write_text(json.dumps(TINY | {"trackers": {"log_checkpoints": "all"}}))
    outcome = train("--config", path, *FAST, "--workspace", "run", "--vis_every", 1)
    assert outcome.code == 0, outcome.output
    if alive:
        server.stop()
    assert bool(server.metrics) == alive
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"metrics.jsonl", "config.json", "00000002_optimizer.pt"} <= {path.name for path in files}
    if alive:
        assert (tmp_path / "artifacts" / "checkpoint" / "00000002.pt").is_file()
    sent = json.dumps([(address, body) for address, body, _ in server.requests])  # not the headers, which are where they belong
    said = outcome.output + sent + "\n".join(record.getMessage() for record in caplog.records if record.name == "stereofoundry")
    for secret in (SECRET, TOKEN):
        assert secret not in said
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
