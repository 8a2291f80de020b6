"""Runs built in this process, for tests of what a step does."""

import json

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.scripts.tiny import TINY
from train.run import Options, build_run
from train.run_file import load_config


@pytest.fixture
def build(tmp_path):
    """build(*overrides, config=..., **options) -> a run, of the tiny network unless a configuration is given."""
    runs = []

    def run(*overrides, config=TINY, **options):
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        path = tmp_path / f"run{len(runs)}.json"
        path.write_text(json.dumps(config))
        settings = {"batch_size_forward": 1, "num_iterations": 100, "enable_mlflow": False, "save_every": 0, **options}
        runs.append(build_run(load_config(path, overrides), Options(workspace=path.with_suffix(""), **settings)))
        return runs[-1]

    yield run
    for built in runs:
        built.loader.close()
