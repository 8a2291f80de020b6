"""No file, store or text that comes from elsewhere makes this project run code, leave a folder or tell a secret.

The syntax trees of all rooms are searched for what could run code; then hostile files are handed to everything that reads. The same
through the commands, and credentials, in `tests/scripts/test_security.py`.
"""

import ast
import json
import pickle
import re
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.pretrained import load_pretrained
from core.weight_export import read_checked
from core.weight_files import load_model, newest_weights, read_file
from tests.conftest import ROOT
from tests.hostile import Bomb, weapons
from tests.test_house import FILES
from train.checkpoint import Checkpoint, Checkpoints
from train.datasets.cache import Cached, CacheMiss
from train.datasets.readers import read_array, read_npz
from train.datasets.synthetic import Synthetic
from train.load import find_weights
from train.sources import read_list
from utils.calibration_opencv import read_entries
from utils.errors import UserError
from utils.scrub import scrub

# ---- what the code may not contain -------------------------------------------------------------------------------------------------------

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml", "tarfile", "imp", "code", "ctypes"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "os.execv", "os.execl", "os.execvp", "os.spawnv", "subprocess.getoutput", "subprocess.getstatusoutput",
    "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "shutil.unpack_archive", "pty.spawn",
}  # fmt: skip
METHODS = {"extract", "extractall"}  # of archives
REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
FORBIDDEN = {"shell": True, "allow_pickle": True, "weights_only": False, "trust_remote_code": True, "strict": False}


def hazards(code):
    """Every place of a source text that could run what a file says, as "line: what"."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [] if [alias.name for alias in node.names] == ["UnpicklingError"] else [str(node.module)]
        else:
            names = []
        yield from (f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            if name in BUILTINS | CALLS or name.rpartition(".")[2] in METHODS:
                yield f"{node.lineno}: calls {name}"
            if name in REQUIRED and given.get(REQUIRED[name][0]) is not REQUIRED[name][1]:
                yield f"{node.lineno}: {name} without {REQUIRED[name][0]}={REQUIRED[name][1]}"
            if re.fullmatch(r"subprocess\.\w+", name) and not (node.args and isinstance(node.args[0], ast.List)):
                yield f"{node.lineno}: {name} of a text"
            if name != "zip":  # whose `strict` is another
                yield from (f"{node.lineno}: {key}={value}" for key, value in FORBIDDEN.items() if given.get(key, ...) is value)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_runs_what_a_file_says(path):
    assert list(hazards((ROOT / path).read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "from yaml import load", "def f():\n    import dill", "eval('1')", "exec(text)",
        "os.system('ls')", "subprocess.run('ls', shell=True)", "subprocess.run(text)", "torch.load(path)", "torch.load(p, weights_only=no)",
        "torch.load(path, weights_only=False)", "np.load(path)", "np.load(path, allow_pickle=True)", "archive.extractall(folder)",
        "model.load_state_dict(state, strict=False)", "torch.hub.load('a', 'b')", "shutil.unpack_archive(path)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code):
    assert len(list(hazards(code))) >= 1


def test_the_search_passes_over_what_is_harmless():
    code = "from pickle import UnpicklingError\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nsubprocess.run(['ls'])"
    assert list(hazards(code + "\nre.compile(x)\nmodel.eval()\ntorch.compile(m)\nzip(a, b, strict=False)")) == []


# ---- files that want to run --------------------------------------------------------------------------------------------------------------


def test_the_bomb_is_one(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", ["saved", "old format", "pickle", "protocol 0"])
def test_a_malicious_checkpoint_is_refused_wherever_one_is_read(tmp_path, bomb, kind):
    content = weapons(bomb)[kind]
    workspace = tmp_path / "run"
    checkpoints = Checkpoints(workspace / "checkpoint")
    checkpoints.write(1, {"model": {"model": {"w": torch.ones(1)}}, "optimizer": {"step": 1}, "ema": {"model": {"w": torch.ones(1)}}})
    names = [path.name for path in sorted(checkpoints.folder.glob("*.pt"))]
    assert names == ["00000001.pt", "00000001_ema.pt", "00000001_optimizer.pt", "latest.pt"]
    backbone = SimpleNamespace(monocular=SimpleNamespace(size="vits", vit=None, decoder=None))
    for name in names:
        path = checkpoints.folder / name
        whole = path.read_bytes()
        path.write_bytes(content)
        readers = [read_file, read_checked, load_model, lambda path: load_pretrained(backbone, str(path))]
        if name == "latest.pt":
            readers = [read_file, lambda _: newest_weights(workspace), lambda _: load_model(workspace)]
            assert checkpoints.latest().step == 1  # by the record of the step, not by the pointer
        for read in readers:
            with pytest.raises(UserError, match=r"not a readable weight file|\d+ bytes, expected \d+"):  # the second by the step's record
                read(path)
        record = (checkpoints.folder / "00000001.json").rename(tmp_path / "record")
        for read in readers:
            with pytest.raises(UserError, match="not a readable weight file"):
                read(path)
        record.rename(checkpoints.folder / "00000001.json")
        for part, suffix in (("model", ""), ("optimizer", "_optimizer"), ("ema", "_ema")):
            if name == f"00000001{suffix}.pt":
                with pytest.raises(UserError, match="no complete checkpoint is left"):  # its digest is another
                    checkpoints.latest()
                with pytest.raises(UserError, match="not a readable weight file"):
                    Checkpoint(checkpoints.folder, 1).load(part)  # nor is it loaded where nothing compares the digest
        path.write_bytes(whole)


@pytest.mark.parametrize("config", ["[" * 100_000, "{", "[1]", '{"type": "os.system"}', '{"type": ["unet"]}', '{"__class__": 1}'])
def test_what_a_safetensors_file_says_of_its_network_is_not_trusted(tmp_path, config):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"model_config": config})
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


def test_arrays_of_objects_are_refused_in_every_numpy_file(tmp_path, bomb):
    objects = np.array([bomb], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", disparity=objects, K1=objects, about=objects)
    for read in (
        lambda: read_array(tmp_path / "a.npy"),
        lambda: read_array(tmp_path / "a.npz", "disparity"),
        lambda: read_npz(tmp_path / "a.npz"),
    ):
        with pytest.raises(ValueError, match="allow_pickle"):
            read()
    with pytest.raises(UserError, match="not an NPZ file of plain numbers"):
        read_entries(tmp_path / "a.npz")
    dataset = Synthetic(None, size=(64, 64), length=1, max_disparity=16)
    cached = Cached(dataset, "synthetic", None, {}, root=tmp_path / "cache", size=None, require=True)
    cached.build(0)
    assert cached.read(0).disparity.shape == (64, 64)
    for name in ("about", "disparity"):
        with np.load(cached.entry(0), allow_pickle=False) as file:
            arrays = dict(file)
        whole = cached.entry(0).read_bytes()
        np.savez(cached.entry(0), **{**arrays, name: objects})
        with pytest.raises((CacheMiss, ValueError), match=r"damaged|allow_pickle"):
            cached.read(0)
        cached.entry(0).write_bytes(whole)


# ---- paths that want to leave ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x.pt", "/etc/passwd", "../00000009.pt", "a/00000009.pt", "00000009.pt\0", "..", ""])
def test_a_pointer_or_record_names_files_beside_it_or_nothing(tmp_path, name):
    folder = tmp_path / "run" / "checkpoint"
    folder.mkdir(parents=True)
    for outside in (tmp_path / "x.pt", tmp_path / "run" / "00000009.pt"):
        torch.save({"model": {"w": torch.ones(1)}}, outside)
    record = {"step": 9, "files": {name: {"size": 1, "sha256": "0"}}}
    torch.save(record, folder / "latest.pt")
    with pytest.raises(UserError, match="names no weights"):
        newest_weights(tmp_path / "run")
    assert Checkpoints(folder).records() == {}
    (folder / "latest.pt").unlink()
    (folder / "00000009.json").write_text(json.dumps(record))
    assert Checkpoints(folder).records() == {}


@pytest.mark.parametrize("step", ["../../x", -1, 1.0, None, [1]])
def test_a_step_is_a_number(tmp_path, step):
    torch.save({"step": step, "files": {"00000001.pt": {"size": 1, "sha256": "0"}}}, tmp_path / "latest.pt")
    assert Checkpoints(tmp_path).records() == {}


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "./../outside.txt", "a\0b"])
def test_a_list_file_stays_inside_its_data_set(tmp_path, name):
    (tmp_path / "set").mkdir()
    (tmp_path / "outside.txt").write_text("key\n")
    with pytest.raises(UserError, match=r"leads out of|zero byte"):
        read_list(name, tmp_path / "set", ["key"])


@pytest.mark.parametrize("path", ["checkpoint/../../../00000001.pt", "/00000001.pt", "../00000001.pt", "checkpoint/a/00000001.pt"])
def test_what_an_mlflow_store_calls_an_artifact_stays_inside_the_download(path):
    asked = []
    client = SimpleNamespace(
        get_run=lambda run_id: SimpleNamespace(data=SimpleNamespace(tags={"checkpoint": "/nowhere/../../x.pt"})),
        list_artifacts=lambda run_id, folder: [SimpleNamespace(path=path)],
        download_artifacts=lambda *arguments: asked.append(arguments),
    )
    with pytest.raises(UserError, match="none is among its artifacts"), find_weights("a" * 32, client=client):
        pass
    assert not asked


def test_an_mlflow_tag_leads_to_weights_and_to_nothing_else(tmp_path):
    (tmp_path / "secret.txt").write_text("hunter2")
    client = SimpleNamespace(
        get_run=lambda run_id: SimpleNamespace(data=SimpleNamespace(tags={"checkpoint": str(tmp_path / "secret.txt")}))
    )
    with pytest.raises(UserError, match="no saved step of a run"), find_weights("a" * 32, client=client):
        pass


# ---- secrets -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("MLFLOW_TRACKING_TOKEN", "t0k3n-hunter2", "refused: t0k3n-hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2", "bad key hunter2hunter2"),
        ("AZURE_STORAGE_CONNECTION_STRING", "Account=a;Key=hunter2==", "cannot connect: Account=a;Key=hunter2=="),
        ("MLFLOW_TRACKING_URI", "postgresql://me:hunter2@db/x", "authentication failed, password 'hunter2'"),
        ("MLFLOW_TRACKING_URI", "https://me:hunter2%21@host", "password hunter2! refused"),
        ("HOME", "/root", "https://me:hunter2@host/a and mysql+pymysql://u:hunter2@h and https://hunter2@github.com"),
    ],
)
def test_secrets_are_taken_out_of_a_text(monkeypatch, variable, value, text):
    monkeypatch.setenv(variable, value)
    assert "hunter2" not in scrub(text) and "***" in scrub(text)


def test_an_archive_is_only_looked_into(tmp_path):
    """Nothing of a ZIP that calls itself an NPZ reaches the disk, whatever its entries are called."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("../escaped.npy", b"x")
        archive.writestr("run.py", "raise SystemExit")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError):
        read_array(tmp_path / "a.npz", "disparity")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before and not (tmp_path.parent / "escaped.npy").exists()
