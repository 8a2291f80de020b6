"""The command that fills a cache, and a run that requires it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from scripts.build_cache import main
from tests.fsd_layout import write_pair
from tests.scripts.tiny import QUICK, TINY


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        write_pair(tmp_path / "data", f"{i:04d}", *rng.integers(0, 256, (2, 70, 100, 3), np.uint8), rng.uniform(1, 9, (70, 100)))
    data = TINY["data"] | {"datasets": [{"name": "own", "path": str(tmp_path / "data")}]}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(TINY | {"data": data}))
    return path


def build(*options):
    result = CliRunner().invoke(main, [str(option) for option in options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_run_can_require_what_was_built_before(config, tmp_path, train):
    cache = ["--set", f"data.cache.root={tmp_path / 'cache'}", "--set", "data.cache.size=[100, 70]"]
    require = [*cache, "--set", "data.cache.require=true"]
    refused = train("--config", config, "--workspace", tmp_path / "run", *QUICK, *require)
    assert refused.code == 2 and "lacks 12 of 12 samples" in refused.lines[-1] and "scripts/build_cache.py" in refused.lines[-1]
    result = build(config, "--workers", "0", *cache)
    assert result.exit_code == 0 and "own: 12 samples, 12 stored now, 0 there already, 0.001 GiB in" in result.output
    assert "0 stored now, 12 there already" in build(config, "--workers", "0", "--verify", *cache).output
    done = train("--config", config, "--workspace", tmp_path / "run", *QUICK, *require)
    assert done.code == 0, done.output


def test_a_configuration_without_a_cache_is_one_line(config):
    result = build(config)
    assert result.exit_code == 2 and result.output.strip().count("\n") == 0
    assert result.output.startswith("error: no data set has a cache; add")


def test_a_build_names_what_cannot_be_read(config, tmp_path):
    (tmp_path / "data" / "right" / "rgb" / "0003.png").write_bytes(b"")
    result = build(config, "--workers", "1", "--set", f"data.cache.root={tmp_path / 'cache'}")
    assert result.exit_code == 0 and "1 cannot be read" in result.output and "0003.png: the file is empty" in result.output
