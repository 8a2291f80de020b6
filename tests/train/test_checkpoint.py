"""Checkpoint files: what they are called, which one is meant, and what a damaged one says."""

import functools
import hashlib
import itertools
import json
import os
import pickle
import signal
from pathlib import Path

import pytest
import torch

from core.weight_files import read_file
from train.checkpoint import Checkpoint, Checkpoints
from utils.errors import UserError
from utils.files import remove_leftovers

PARTS = {"model": {"model": {"w": torch.ones(2)}}, "optimizer": {"step": 1}, "ema": {"model": {"w": torch.zeros(2)}, "num_updates": 1}}


@pytest.fixture
def checkpoints(tmp_path):
    found = Checkpoints(tmp_path / "checkpoint")
    found.folder.mkdir()
    return found


def names(step):
    return {f"{step:08d}{part}" for part in (".pt", "_optimizer.pt", "_ema.pt", ".json")}


def listing(folder):
    return {path.name for path in folder.iterdir()}


def test_a_step_is_three_files_a_record_and_a_pointer(checkpoints):
    checkpoints.write(50, PARTS)
    assert listing(checkpoints.folder) == names(50) | {"latest.pt"}
    pointer = torch.load(checkpoints.folder / "latest.pt", weights_only=True)
    assert pointer == json.loads((checkpoints.folder / "00000050.json").read_text())
    assert pointer["step"] == 50 and set(pointer["files"]) == names(50) - {"00000050.json"}
    for name, expected in pointer["files"].items():
        content = (checkpoints.folder / name).read_bytes()
        assert expected == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert torch.equal(checkpoints.latest().load("model")["model"]["w"], torch.ones(2))


def test_what_checkpoint_accepts(checkpoints, tmp_path):
    assert checkpoints.find("latest") is None
    for step in (50, 100):
        checkpoints.write(step, PARTS)
    assert checkpoints.steps() == [50, 100]
    assert checkpoints.find("latest").step == 100
    assert checkpoints.find("50").step == 50
    assert checkpoints.find(str(checkpoints.folder / "00000050.pt")).step == 50
    assert checkpoints.find(str(checkpoints.folder / "latest.pt")).step == 100
    for spec, words in [("70", r"\[50, 100\]"), ("none.pt", "no such file"), (str(checkpoints.folder / "00000050_ema.pt"), "weights file")]:
        with pytest.raises(UserError, match=words):
            checkpoints.find(spec)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(Path.unlink, "found no file, expected"), (truncate, "bytes, expected"), (flip_a_bit, "not what was written")],
)
@pytest.mark.parametrize("part", ["", "_optimizer", "_ema"])
def test_a_damaged_checkpoint_is_named_and_passed_over(checkpoints, caplog, damage, words, part):
    for step in (50, 100):
        checkpoints.write(step, PARTS)
    damage(checkpoints.folder / f"00000100{part}.pt")
    assert checkpoints.latest().step == 50
    assert f"00000100{part}.pt: " in caplog.text and words in caplog.text and "step 100 is passed over" in caplog.text
    if damage is not Path.unlink or part == "_ema":  # asked for by name, nothing is taken in its place
        with pytest.raises(UserError, match=rf"--checkpoint 100: .*{words}"):
            checkpoints.find("100")
    damage(checkpoints.folder / "00000050.pt")
    with pytest.raises(UserError, match="no complete checkpoint is left"):
        checkpoints.latest()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"step": 100}', b'{"step": 100, "files": {"../secret": {"size": 1, "sha256": "0"}}}']
)
def test_a_damaged_record_or_pointer_is_named_and_the_other_serves(checkpoints, caplog, content):
    for step in (50, 100):
        checkpoints.write(step, PARTS)
    (checkpoints.folder / "00000100.json").write_bytes(content)
    assert checkpoints.latest().step == 100 and "00000100.json: not the record" in caplog.text
    (checkpoints.folder / "latest.pt").write_bytes(content)
    assert checkpoints.latest().step == 50 and "latest.pt" in caplog.text
    (checkpoints.folder / "00000050.json").write_bytes(content)
    with pytest.raises(UserError, match="no complete checkpoint is left"):
        checkpoints.latest()


def test_files_without_a_record_were_not_written_to_their_end(checkpoints, caplog):
    checkpoints.write(50, PARTS)
    torch.save(PARTS["model"], checkpoints.folder / "00000100.pt")
    assert checkpoints.latest().step == 50 and "00000100.pt: was not written to its end" in caplog.text


def test_a_copy_without_its_record_is_taken_with_a_word(checkpoints, caplog):
    checkpoints.write(50, PARTS)
    for name in ("00000050.json", "latest.pt"):
        (checkpoints.folder / name).unlink()
    assert checkpoints.find("50").step == 50 and "no record 00000050.json" in caplog.text
    checkpoints.rewind(50)
    assert checkpoints.latest().step == 50 and listing(checkpoints.folder) == names(50) | {"latest.pt"}


def test_going_back_overwrites_nothing(checkpoints):
    for step in (50, 100, 150):
        checkpoints.write(step, PARTS)
    aside = checkpoints.rewind(50)
    assert checkpoints.steps() == [50] and checkpoints.latest().step == 50
    assert listing(aside) == names(100) | names(150)
    assert checkpoints.rewind(50) is None
    checkpoints.write(100, PARTS)
    assert checkpoints.rewind(0) not in (None, aside) and checkpoints.latest() is None


def test_old_steps_go_only_as_retention_says(checkpoints):
    for step in range(10, 110, 10):
        checkpoints.write(step, PARTS)
        checkpoints.prune(None, None)
    assert checkpoints.steps() == list(range(10, 110, 10))
    checkpoints.prune(3, 40)
    assert checkpoints.steps() == [40, 80, 90, 100]
    assert listing(checkpoints.folder) == {"latest.pt"}.union(*map(names, checkpoints.steps()))
    checkpoints.prune(2, None)
    assert checkpoints.steps() == [90, 100] and checkpoints.latest().step == 100


# ---- the best weights so far ------------------------------------------------------------------------------------------------------------


def best(value):
    return {"model": {"w": torch.tensor([float(value)])}, "model_config": {}, "config": {}, "carried": {}, "step": value}


def bests(checkpoints):
    """Step -> the step of its best weights."""
    found = {step: Checkpoint(checkpoints.folder, step).best_so_far() for step in checkpoints.steps()}
    return {step: None if path is None else read_file(path)["step"] for step, path in found.items()}


def test_the_best_weights_go_with_a_step_and_are_those_of_later_ones(checkpoints):
    checkpoints.write(10, PARTS)
    checkpoints.write(20, PARTS | {"best": best(15)})
    checkpoints.write(30, PARTS)
    assert listing(checkpoints.folder) == {"latest.pt", "00000020_best.safetensors"}.union(*map(names, (10, 20, 30)))
    assert bests(checkpoints) == {10: None, 20: 15, 30: 15}
    assert set(checkpoints.records()[20]) == names(20) - {"00000020.json"}
    flip_a_bit(checkpoints.folder / "00000020_best.safetensors")
    assert checkpoints.latest().step == 30 and checkpoints.find("20").step == 20  # a run goes on without them


def test_retention_keeps_the_best_weights_of_every_step_that_it_keeps(checkpoints):
    for step, its in {10: best(5), 20: best(15), 30: None, 40: None, 50: best(45), 60: best(55), 70: None}.items():
        checkpoints.write(step, PARTS if its is None else PARTS | {"best": its})
        checkpoints.prune(2, 40)
    assert bests(checkpoints) == {40: 15, 60: 55, 70: 55}
    kept = {path.name for path in checkpoints.folder.glob("*_best.safetensors")}
    assert kept == {"00000020_best.safetensors", "00000060_best.safetensors"}
    assert checkpoints.records().keys() == {40, 60, 70}


def test_going_back_the_best_is_that_of_the_step(checkpoints):
    for step, its in {10: best(5), 20: best(15), 30: None, 40: best(35)}.items():
        checkpoints.write(step, PARTS if its is None else PARTS | {"best": its})
    aside = checkpoints.rewind(30)
    assert bests(checkpoints) == {10: 5, 20: 15, 30: 15} and "00000040_best.safetensors" in listing(aside)
    aside = checkpoints.rewind(10)
    assert bests(checkpoints) == {10: 5} and "00000020_best.safetensors" in listing(aside)


# ---- killed -----------------------------------------------------------------------------------------------------------------------------


def killed_before(operation, action):
    """Run `action` in a process of its own that kills itself before its so-manyth change to the disk. False when it ended before that."""
    child = os.fork()
    if child == 0:
        left = itertools.count(operation, -1)

        def counted(real, *arguments, **options):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        for name in ("open", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "chmod"):
            setattr(os, name, functools.partial(counted, getattr(os, name)))
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_killed_at_any_moment_of_a_save_the_newest_is_whole(tmp_path):
    """Before every single change to the disk that writing step 30 and deleting step 10 take; then the run goes on."""
    found = []
    for operation in itertools.count():
        checkpoints = Checkpoints(tmp_path / str(operation))
        for step in (10, 20):
            checkpoints.write(step, PARTS)

        def save(checkpoints=checkpoints):
            checkpoints.write(30, PARTS)
            checkpoints.prune(2, None)

        killed = killed_before(operation, save)
        newest = checkpoints.latest()
        found.append(newest.step)
        for part in PARTS:
            newest.load(part)
        remove_leftovers(checkpoints.folder)
        checkpoints.rewind(newest.step)
        if newest.step == 20:
            checkpoints.write(30, PARTS)
        checkpoints.prune(2, None)
        rest = {name for name in listing(checkpoints.folder) if not name.startswith("set_aside")}
        assert rest == names(20) | names(30) | {"latest.pt"}, operation
        if not killed:
            break
    assert found == sorted(found) and found.count(20) > 10 and found.count(30) > 5, found


def test_killed_while_going_back_nothing_is_lost(tmp_path):
    found = []
    for operation in itertools.count():
        checkpoints = Checkpoints(tmp_path / str(operation))
        for step in (10, 20, 30):
            checkpoints.write(step, PARTS)
        killed = killed_before(operation, lambda checkpoints=checkpoints: checkpoints.rewind(10))
        found.append(checkpoints.latest().step)
        everything = {path.name for path in checkpoints.folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
        assert everything == names(10) | names(20) | names(30) | {"latest.pt"}
        if not killed:
            break
    assert set(found) == {10, 30} and found == sorted(found, reverse=True), found


# ---- what is in a file ------------------------------------------------------------------------------------------------------------------


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
