"""Suites: what is shipped can be read, what is wrong in a file is one line, and which images a suite means."""

import json

import numpy as np
import pytest

from tests.fsd_layout import write_pair
from train.suites import FOLDER, first_of_each, load_suite, model_changes, open_suite
from utils.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


def write_suite(tmp_path, **content):
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(content))
    return str(path)


def add(folder, *names):
    for name in names:
        write_pair(folder, name, IMAGE, IMAGE, np.full((8, 12), 3.0))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_suite_can_be_read_by_its_name(path):
    suite = load_suite(path.stem)
    assert suite.description and path.read_text().startswith("// ")


def test_images_are_called_by_their_keys_and_by_their_data_set_where_there_are_several(tmp_path):
    add(tmp_path / "a", "0", "1")
    add(tmp_path / "b", "0")
    one = open_suite(load_suite(write_suite(tmp_path, datasets=[{"name": "a", "path": "a"}])), tmp_path)
    assert [task.name for task in one] == ["0", "1"]
    entries = [{"name": "a", "path": "a"}, {"name": "b", "path": "b", "protocol": {"mask": "noc"}}]
    suite = load_suite(write_suite(tmp_path, protocol={"averaging": "pooled"}, datasets=entries))
    both = open_suite(suite, tmp_path)
    assert [task.name for task in both] == ["a/0", "a/1", "b/0"]
    assert [(task.protocol.mask, task.protocol.averaging) for task in both] == [("all", "pooled")] * 2 + [("noc", "pooled")]
    assert [task.name for task in first_of_each(both, 1)] == ["a/0", "b/0"]


def test_weights_and_steps_of_training_say_nothing_here(tmp_path):
    add(tmp_path / "a", "0")
    add(tmp_path / "b", "0")
    for entries in ([{"name": "a", "weight": 0}], [{"name": "a", "steps": 3}, {"name": "b"}]):
        entries = [entry | {"path": entry["name"]} for entry in entries]
        assert len(open_suite(load_suite(write_suite(tmp_path, datasets=entries)), tmp_path)) == len(entries)


def test_images_are_reduced_where_the_protocol_says_so(tmp_path):
    add(tmp_path / "a", "0")
    entries = [{"name": "native", "path": "a"}, {"name": "small", "path": "a", "protocol": {"resolution": [6, 8]}}]
    native, small = (task.load() for task in open_suite(load_suite(write_suite(tmp_path, datasets=entries)), tmp_path))
    assert native.left.shape == (8, 12, 3) and (native.disparity == 3).all()
    assert small.left.shape == (8, 6, 3) and (small.disparity == 1.5).all() and small.valid.all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"datasets": []}, "suite.json: datasets"),
        ({"datasets": [{"name": "a", "typ": "fsd"}]}, r"suite.json: datasets\[0\].typ: unknown key; did you mean 'type'"),
        ({"datasets": [{"name": "a", "type": "fds"}]}, r"datasets\[0\].type: unknown data set type 'fds'; did you mean 'fsd'"),
        ({"datasets": [{"name": "a", "params": {"max": 3}}]}, r"datasets\[0\].params.max: unknown key"),
        ({"protocol": {"mask": "most"}, "datasets": [{"name": "a"}]}, "protocol.mask"),
        ({"protocol": {"metrics": ["bad2"]}, "datasets": [{"name": "a"}]}, "unknown metric 'bad2'"),
        ({"protocol": {"resolution": "half"}, "datasets": [{"name": "a"}]}, r"protocol\.resolution: found 'half'; expected 'native', or"),
        ({"protocol": {"resolution": [0, 4]}, "datasets": [{"name": "a"}]}, r"protocol\.resolution: found \[0, 4\]; expected 'native', or"),
        ({"protocol": {"resolution": [4]}, "datasets": [{"name": "a"}]}, r"protocol\.resolution: found \[4\]; expected"),
        ({"datasets": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]}, "two data sets are called 'a'"),
    ],
)
def test_a_wrong_suite_is_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        load_suite(write_suite(tmp_path, **content))
    assert "\n" not in str(error.value)


def test_a_name_that_is_no_suite_names_the_nearest():
    with pytest.raises(UserError, match="no such file, here or in configs/eval; did you mean 'scenes'"):
        load_suite("scene")


def test_changes_are_of_the_network_alone():
    assert model_changes(["model.disparity_attention=heads", "model.valid_iters=4"]) == {"disparity_attention": "heads", "valid_iters": 4}
    with pytest.raises(UserError, match="only keys of the network"):
        model_changes(["data.workers=2"])
    for value in ("abc", "3", "null", "[]"):
        with pytest.raises(UserError, match=r"--set model=.*: expected a key of the network"):
            model_changes([f"model={value}"])
