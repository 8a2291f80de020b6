"""The benchmark measures what it says: the same work on both sides, every stage once, nothing in a timed test."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from scripts.benchmark_data import main
from train import benchmark_data
from train.benchmark_data import STAGES, Timing, make_pairs, measure_against_reference, measure_config, plain_colour, plain_sample
from train.config import RunConfig
from utils.geometry import warp_right

LOSS = {"stereo": {"epe": {"function": "epe_loss"}}}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark_data, "SIZE", (192, 108))
    monkeypatch.setattr(benchmark_data, "CROP", (96, 64))


def test_stages_are_means_and_shares():
    timing = Timing()
    timing.seconds["read"] += [0.001, 0.003]
    timing.seconds["decode"] += [0.006, 0.006]
    found = timing.report()
    assert found["samples"] == 2 and found["ms"] == pytest.approx(8) and found["samples_per_s"] == pytest.approx(125)
    assert found["stages"]["read"] == {"ms": pytest.approx(2), "share": pytest.approx(0.25)}


def test_a_configuration_is_measured_by_stage_and_data_set():
    entries = [{"name": name, "type": "synthetic", "params": {"size": (64, 48), "length": 9}} for name in "ab"]
    data = {"datasets": entries, "image_sizes": [(32, 32)], "image_augmentation": ["jittering"]}
    found = measure_config(RunConfig(data=data, loss=LOSS), 20)
    assert found["samples"] == 24, "whole batches, without the first"
    assert set(found["stages"]) == set(STAGES) == set(found["datasets"]["a"]["stages"])
    assert sum(stage["share"] for stage in found["stages"].values()) == pytest.approx(1)
    assert found["datasets"]["a"]["samples"] + found["datasets"]["b"]["samples"] == 24


def test_the_plain_pipeline_makes_true_pairs(tmp_path, small, monkeypatch):
    """Its disparity warps its right image onto its left one, better than one of another scale: it does the whole work."""
    monkeypatch.setattr(benchmark_data, "plain_colour", lambda image, rng: image)
    make_pairs(tmp_path, count=1)
    paths = [tmp_path / place.format(0) for place in benchmark_data.PLACES]
    for seed in range(8):
        left, right, flow, valid = plain_sample(*paths, np.random.default_rng(seed), Timing())
        assert left.shape == right.shape == (3, 64, 96) and flow.shape == (2, 64, 96) and valid.all()

        def error(factor, left=left, right=right, flow=flow):
            warped, inside = warp_right(right.permute(1, 2, 0).numpy(), -factor * flow[0].numpy())
            return np.abs(warped - left.permute(1, 2, 0).numpy())[inside].mean()

        assert error(1.0) < min(error(0.85), error(1.15), error(-1.0))


def test_plain_colours_stay_in_their_ranges():
    grey = np.full((8, 8, 3), 100, np.uint8)
    means = [plain_colour(grey, np.random.default_rng(seed)).mean() for seed in range(50)]
    assert 58 < min(means) < 70 and 130 < max(means) < 142, (
        "contrast, saturation and hue leave a grey plane alone, brightness is 0.6 to 1.4"
    )
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert not np.array_equal(plain_colour(picture, np.random.default_rng(0)), plain_colour(picture, np.random.default_rng(1)))


def test_both_sides_do_the_same_work_in_turns(tmp_path, small):
    found = measure_against_reference(tmp_path, 16)
    assert found["ours"]["samples"] == found["plain"]["samples"] == 16
    assert set(found["ours"]["stages"]) == {"decode", "augment", "collate"}
    assert set(found["plain"]["stages"]) == {"decode", "colour", "eraser", "spatial", "tensors"}
    assert found["ratio"] == pytest.approx(found["plain"]["median_ms"] / found["ours"]["median_ms"])
    assert Image.open(tmp_path / benchmark_data.PLACES[0].format(0)).size == (192, 108)


def test_the_command_prints_a_table_and_writes_the_numbers(tmp_path, small):
    output = tmp_path / "workspace" / "numbers.json"
    result = CliRunner().invoke(main, ["quickstart.json", "--reference", "--samples", "8", "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "times as fast as the plain pipeline" in result.output and "samples/s and core" in result.output
    numbers = json.loads(output.read_text())
    assert numbers["quickstart.json"]["samples"] == 8 and numbers["reference"]["ratio"] > 0 and numbers["versions"]["numpy"]


def test_nothing_to_measure_is_one_line():
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2 and result.output == "error: nothing to measure; pass a CONFIG, --reference or --synthetic\n"


def test_numbers_go_into_a_json_file(tmp_path):
    result = CliRunner().invoke(main, ["--synthetic", "--output", str(tmp_path)])
    assert result.exit_code == 2 and "is a folder; expected a file" in result.stderr
