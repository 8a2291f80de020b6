"""Trained networks by file, workspace and MLflow run; what names none of these is one line."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core import load_model
from core.weight_export import read_checked
from tests.core.networks import TINY, tiny
from tests.scripts.tiny import ROOT
from train.checkpoint import Checkpoint, Checkpoints
from train.load import find_weights, load_trained
from train.marks import mark
from utils.errors import UserError
from utils.images import write_image

RUN = "0123456789abcdef" * 2


@pytest.fixture
def workspace(tmp_path):
    """Two steps of a run; the averaged weights are those of the newest one and twice the plain ones."""
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoint")
    checkpoints.folder.mkdir(parents=True)
    state = tiny().state_dict()
    for step, factor in ((50, 1), (100, 3)):
        weights = {"step": step, "model_config": TINY, "carried": {}}
        part = {key: factor * value if value.is_floating_point() else value for key, value in state.items()}
        double = {key: 2 * value if value.is_floating_point() else value for key, value in part.items()}
        content = {"model": weights | {"model": part}, "optimizer": {"step": step}, "ema": weights | {"model": double}}
        checkpoints.write(step, content)
    return tmp_path / "run"


def factor_of(model) -> float:
    ours, name = tiny().state_dict(), "classifier.score.weight"
    return float((model.state_dict()[name] / ours[name]).mean())


def test_a_workspace_is_its_newest_average(workspace):
    for place in (workspace, workspace / "checkpoint", str(workspace)):
        assert factor_of(load_model(place)) == pytest.approx(6)
        assert factor_of(load_trained(place)) == pytest.approx(6)
    assert factor_of(load_trained(workspace / "checkpoint" / "00000050.pt")) == pytest.approx(1)
    assert load_trained(workspace, {"max_disp": 32}).max_disp == 32


def test_the_python_of_the_readme_runs(workspace, tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for eye in ("left", "right"):
        write_image(tmp_path / f"{eye}.png", np.zeros((48, 64, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"workspace/mine"', f'"{workspace}"'), found := {})
    assert found["disparity"].shape == (48, 64) and found["disparity"].dtype == np.float32


def test_without_an_average_it_is_the_weights(workspace):
    checkpoints = Checkpoints(workspace / "checkpoint")
    checkpoints.write(150, {"model": torch.load(workspace / "checkpoint" / "00000050.pt", weights_only=True), "optimizer": {"step": 150}})
    assert factor_of(load_model(workspace)) == pytest.approx(1)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no saved step of a run \(looked for .*latest\.pt\)"):
        load_model(tmp_path)
    torch.save({"files": {"../00000001.pt": {}, "weights.pt": {}}}, tmp_path / "latest.pt")
    with pytest.raises(UserError, match=r"latest\.pt: names no weights <step>\.pt"):
        load_model(tmp_path)


def test_a_file_that_is_not_what_its_record_says_is_refused(workspace):
    """A value's bytes, which the format's own checksum does not look at."""
    folder = workspace / "checkpoint"
    mark(Checkpoint(folder, 100))
    for name in ("00000100_ema.pt", "last.safetensors"):
        path = folder / name
        whole = path.read_bytes()
        assert factor_of(load_trained(path)) == pytest.approx(6)
        value = load_model(path).state_dict()["classifier.score.weight"].numpy().tobytes()
        at = whole.index(value)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        for read in (load_trained, read_checked):
            with pytest.raises(UserError, match=rf"{name}: its content is not what was written, by its digest; restore the file"):
                read(path)
        path.write_bytes(whole)
    (folder / "last.json").write_text(
        (folder / "last.json").read_text().replace('"step": 100', '"step": 50').replace('"sha256": "', '"sha256": "0')
    )
    assert factor_of(load_trained(folder / "last.safetensors")) == pytest.approx(6)  # of the step before: the run is about to write it


class Store:
    """As much of an MlflowClient as is asked."""

    def __init__(self, tag=None, folder=None, names=()):
        self.tag, self.folder, self.names = tag, folder, names

    def get_run(self, run_id):
        if run_id != RUN:
            raise RuntimeError("no such run at https://me:secret@host/")
        return SimpleNamespace(data=SimpleNamespace(tags={"checkpoint": self.tag} if self.tag else {}))

    def list_artifacts(self, run_id, path):
        return [SimpleNamespace(path=f"{path}/{name}") for name in self.names]

    def download_artifacts(self, run_id, path, folder):
        target = f"{folder}/{path.rpartition('/')[2]}"
        torch.save(torch.load(self.folder / path.rpartition("/")[2], weights_only=True), target)
        return target


def test_a_run_is_its_workspace_where_that_is_here(workspace):
    tag = str(workspace / "checkpoint" / "00000050.pt")
    with find_weights(RUN, client=Store(tag)) as path:
        assert path == workspace / "checkpoint" / "00000100_ema.pt"


def test_a_run_from_elsewhere_is_its_artifacts(workspace):
    names = ["00000100.pt", "00000050_ema.pt", "00000100_optimizer.pt", "00000100_ema.pt"]
    store = Store("/far/away/checkpoint/00000100.pt", workspace / "checkpoint", names)
    assert factor_of(load_trained(RUN, client=store)) == pytest.approx(6)
    with find_weights(RUN, client=store) as path:
        assert path.name == "00000100_ema.pt"
    assert not path.exists()


def test_networks_know_nothing_of_mlflow_but_who_does():
    with pytest.raises(UserError, match=r"if it is the id of an MLflow run, use train\.load\.load_trained"):
        load_model(RUN)


def test_a_store_that_cannot_be_is_one_line(monkeypatch):
    def client():
        raise ValueError("nonsense is no address of a store")

    monkeypatch.setattr("train.load._client", client)
    with pytest.raises(UserError, match=r"not found in the store \(ValueError: nonsense.*check MLFLOW_TRACKING_URI"):
        load_trained(RUN)


def test_what_names_nothing_is_one_line(tmp_path):
    for spec, client, said in (
        ("nothing.pt", None, "no such file or folder; expected a weight file, the workspace of a run, the 32 digits"),
        ("f" * 32, Store(), r"not found in the store \(RuntimeError: no such run at https://(?!me)"),
        (RUN, Store(), r"its checkpoint \(none was saved\) is not on this machine"),
        (RUN, Store("/far/away/checkpoint/00000100.pt"), "is not on this machine, and none is among its artifacts"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            load_trained(spec, client=client)
        assert "\n" not in str(caught.value)
