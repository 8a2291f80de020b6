"""Checkpoint files: what they are called, which one is meant, and what a damaged one says."""

import pickle

import pytest
import torch

from core.weight_files import read_file
from train.checkpoint import Checkpoints
from utils.errors import UserError

PARTS = {"model": {"model": {"w": torch.ones(2)}}, "optimizer": {"step": 1}, "ema": {"model": {"w": torch.zeros(2)}, "num_updates": 1}}


@pytest.fixture
def checkpoints(tmp_path):
    found = Checkpoints(tmp_path / "checkpoint")
    found.folder.mkdir()
    return found


def test_a_step_is_three_files_and_a_pointer(checkpoints):
    checkpoints.save(50, PARTS)
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["00000050.pt", "00000050_ema.pt", "00000050_optimizer.pt", "latest.pt"]
    pointer = torch.load(checkpoints.folder / "latest.pt", weights_only=True)
    assert pointer["step"] == 50 and set(pointer["files"]) == set(names) - {"latest.pt"}
    assert torch.equal(checkpoints.latest().load("model")["model"]["w"], torch.ones(2))


def test_what_checkpoint_accepts(checkpoints, tmp_path):
    assert checkpoints.find("latest") is None
    for step in (50, 100):
        checkpoints.save(step, PARTS)
    assert checkpoints.steps() == [50, 100]
    assert checkpoints.find("latest").step == 100
    assert checkpoints.find("50").step == 50
    assert checkpoints.find(str(checkpoints.folder / "00000050.pt")).step == 50
    assert checkpoints.find(str(checkpoints.folder / "latest.pt")).step == 100
    for spec, words in [("70", r"\[50, 100\]"), ("none.pt", "no such file"), (str(checkpoints.folder / "00000050_ema.pt"), "weights file")]:
        with pytest.raises(UserError, match=words):
            checkpoints.find(spec)


def test_an_incomplete_checkpoint_is_named(checkpoints):
    checkpoints.save(50, PARTS)
    (checkpoints.folder / "00000050_ema.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"00000050_ema\.pt: found 0 bytes"):
        checkpoints.latest()
    (checkpoints.folder / "00000050_ema.pt").unlink()
    with pytest.raises(UserError, match=r"00000050_ema\.pt: found no file"):
        checkpoints.latest()


def test_going_back_overwrites_nothing(checkpoints):
    for step in (50, 100, 150):
        checkpoints.save(step, PARTS)
    aside = checkpoints.rewind(50)
    assert checkpoints.steps() == [50] and checkpoints.latest().step == 50
    assert {path.name for path in aside.iterdir()} == {f"{s:08d}{p}.pt" for s in (100, 150) for p in ("", "_optimizer", "_ema")}
    assert checkpoints.rewind(50) is None


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("evil",)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "pickle", "list"])
def test_a_file_that_is_no_checkpoint_is_one_line_and_runs_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "00000050.pt"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        torch.save(PARTS["model"], path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "list":
        torch.save([1], path)
    with pytest.raises(UserError) as error:
        read_file(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert not (tmp_path / "evil").exists()
