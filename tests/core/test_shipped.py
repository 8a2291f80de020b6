"""The networks that come with the project: small, found by name from anywhere, and better than a constant on pairs nobody trained on."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from core import load_model
from core.onnx_export import export_onnx
from core.weight_files import SHIPPED, locate, shipped
from scripts.infer import main as infer
from tests.conftest import SHARED
from train.datasets import build_dataset
from train.run_file import find_config, load_config
from utils.images import write_image

HELD = {"size": [320, 160], "length": 3, "seed": 101, "max_disparity": 96}  # of another seed than anything in configs/train


@pytest.fixture(scope="module")
def light():
    return load_model("light")


def error(model, sample) -> float:
    found = model.infer(sample.left, sample.right)
    return float(np.abs(found - sample.disparity)[sample.valid].mean())


def test_they_are_small_and_say_where_they_come_from(light):
    assert "light" in shipped()
    for name in shipped():
        assert locate(name) == SHIPPED / name / "model.safetensors"
        assert locate(name).stat().st_size < 10e6 and (SHIPPED / name / "config.json").is_file()
        card = (SHIPPED / name / "README.md").read_text()
        assert "scripts/train.py" in card and "## Licence" in card and "| bad_2 |" in card
    assert sum(value.numel() for value in light.parameters()) < 5e6


@pytest.mark.parametrize(
    ("recipe", "other"),
    [
        ("light.json", {"max_disp", "valid_scales", "start_cost", "valid_padding"}),
        ("light_second.json", set()),
        ("light_third.json", set()),
        ("finetune_light.json", {"batch_norm"}),
    ],
)
def test_the_recipes_are_of_the_network_that_is_shipped(recipe, other):
    """But for how batch norm is trained, and what the first half leaves to the second."""
    ours = load_config(find_config(recipe)).model
    shipped_with = json.loads((SHIPPED / "light" / "config.json").read_text())
    assert {key for key, value in ours.items() if value != shipped_with[key]} == other


def test_the_shipped_network_looks_twice_and_prefers_what_is_near_what_it_found(light):
    assert light.valid_scales == (1.0, 2.0) and light.start_cost == 0.5 and light.valid_padding == "far"


@pytest.mark.slow  # over a minute; tests/scripts/test_export.py has a smaller network of its kind
def test_it_goes_to_onnx(light, onnxruntime, tmp_path):
    export_onnx(light, tmp_path / "light.onnx", (64, 32))


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("light") == SHIPPED / "light" / "model.safetensors"
    (tmp_path / "light").touch()
    assert locate("light").resolve() == tmp_path / "light"


def test_it_matches_synthetic_pairs_of_another_seed(light):
    dataset = build_dataset("synthetic", None, HELD, "held")
    samples = [dataset.load(i) for i in range(len(dataset))]
    constant = np.mean([np.abs(s.disparity - np.median(s.disparity)).mean() for s in samples])
    found = np.mean([error(light, sample) for sample in samples])
    assert found < 3.3 and found < 0.5 * constant, (found, constant)


@pytest.mark.data
@pytest.mark.parametrize(("name", "most"), [("teddy", 0.9), ("baby1", 0.8), ("tsukuba", 0.6)])
def test_it_matches_real_pairs(light, name, most):
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    dataset = build_dataset("scenes", SHARED / "data" / "real", {}, "real")
    sample = next(dataset.load(i) for i in range(len(dataset)) if name in dataset.key(i))
    assert error(light, sample) < most


def test_infer_needs_a_pair_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample = build_dataset("synthetic", None, HELD, "held").load(0)
    write_image(tmp_path / "left.png", sample.left)
    write_image(tmp_path / "right.png", sample.right)
    result = CliRunner().invoke(infer, ["--left", "left.png", "--right", "right.png"])
    assert result.exit_code == 0, result.output
    written = np.load(tmp_path / "workspace" / "infer" / "disparity.npy")
    assert np.abs(written - load_model("light").infer(sample.left, sample.right)).max() < 1e-3
