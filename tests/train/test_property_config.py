"""Shipped configurations, broken at random: each is a run that can be built, or one line with file, key and expectation; never another
exception. Examples are the same each time; a failing one is shown by its mutations, not made smaller, which would take minutes.
"""

import copy
import json
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from core import build_model
from train.losses import Objective
from train.run import Options, build_data
from train.run_file import FOLDER, load_config, naming
from train.start import check_crops
from train.utils import build_lr_scheduler, build_optimizer
from utils.errors import MOST_LETTERS, UserError
from utils.files import read_config

SHIPPED = {path.name: read_config(path) for path in sorted(FOLDER.glob("*.*"))}
STEPS = 40  # of the run that is built

NESTED = [json.loads("[" * depth + "]" * depth) for depth in (20, 200)]
VALUES = [  # what a value can be taken for
    None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.5, 1e-320, 1e308, 10**9, 10**18, 10**40, -(10**40), float("nan"), float("inf"),
    "", " ", "0.1", "true", "fast", "Adamm", "é ü 目", "\ud800", "a\nb", "\0", "x" * 5000, "../../x", "$UNSET_HERE", "~nobody", "*",
    [], {}, [[]], [None], [1, 2], [0, 0], ["a"], {"a": 1}, {"type": 3}, {"": ""}, {"name": "jittering"}, *NESTED, list(range(2000)),
    "step / 0", "__import__('os').system('true')", "9 ** 9 ** 9", "-step", "1 if step < 3", "AdamW", "l1", "foundation_stereo",
]  # fmt: skip
KEYS = [
    "",
    "x",
    "weigth",
    "type",
    "extends",
    "name",
    "params",
    "é",
    "\ud800",
    "a.b",
    "0",
    "__class__",
    "self",
    "config",
    "k" * 300,
    "model_config",
    "lr",
    "path",
]


def places(value, path=()):
    """Paths of everything inside a configuration."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def parent_of(content, path):
    for key in path[:-1]:
        content = content[key]
    return content


def pick(rng, options):
    return options[rng.integers(len(options))]


def mutate(rng, content, sections=None):
    """One change in place: a key or entry removed, added, renamed, doubled, wrapped, or given any value, also one from elsewhere."""
    found = [path for path in places(content) if sections is None or path[0] in sections]
    if not found:
        return
    path = pick(rng, found)
    parent, key = parent_of(content, path), path[-1]
    kind = pick(rng, ["value", "value", "value", "remove", "add", "rename", "double", "wrap", "scale", "elsewhere"])
    number = isinstance(parent[key], int | float) and not isinstance(parent[key], bool)
    if kind == "value":
        parent[key] = copy.deepcopy(pick(rng, VALUES))
    elif kind == "remove":
        del parent[key]
    elif kind == "add" and isinstance(parent, dict):
        parent[pick(rng, KEYS)] = copy.deepcopy(pick(rng, VALUES))
    elif kind == "rename" and isinstance(parent, dict):
        parent[pick(rng, [*KEYS, key + "s", key[:-1], key.upper()])] = parent.pop(key)
    elif kind == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif kind == "wrap":
        parent[key] = pick(rng, [[parent[key]], {"x": parent[key]}, {str(key): parent[key]}, str(parent[key])])
    elif kind == "scale" and number:
        parent[key] = parent[key] * pick(rng, [-1, 0, 0.1, 2, 1000, 10**12])
    else:
        other = pick(rng, found)
        parent[key] = copy.deepcopy(parent_of(content, other)[other[-1]])


def bounded(examples):
    """So many examples, the same ones each time."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=checks, phases=[Phase.generate]
    )


GENERATORS = st.integers(0, 2**64 - 1).map(np.random.default_rng)  # hypothesis' own choices repeat themselves; seeds do not


def broken(sections=None):
    """The name of a shipped file and its content after one to three mutations."""

    def make(rng):
        name = pick(rng, list(SHIPPED))
        content = copy.deepcopy(SHIPPED[name])
        for _ in range(rng.integers(1, 4)):
            mutate(rng, content, sections)
        return name, content

    return GENERATORS.map(make)


def outcome(path, overrides=(), build=None):
    """What `build` makes of the file's configuration, or the one line that refuses it; any other exception goes through."""
    try:
        with naming(path):
            config = load_config(path, overrides)
            return build(config) if build else config
    except UserError as error:
        line = str(error)
    files = (path, *map(path.with_name, SHIPPED))  # one that is extended may be the broken one
    assert line.startswith((*(f"{file}: " for file in files), "--set ")) and len(line) <= MOST_LETTERS + 10, line
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in line), repr(line)
    return line


@given(case=broken())
@bounded(300)
def test_a_broken_configuration_is_one_line_or_a_run_that_can_be_written_down(tmp_path, case):
    name, content = case
    path = tmp_path / name
    path.write_text(json.dumps(content))
    config = outcome(path)
    if not isinstance(config, str):
        path.write_text(json.dumps(config.dump()))
        assert load_config(path).dump() == config.dump()


def network(config):
    """Model, optimizer and schedule, and the objective, as `train.run` builds them, without memory for a weight."""
    with torch.device("meta"):
        model = build_model(config.model)
    check_crops(config, 2)
    with warnings.catch_warnings():  # of torch: a schedule tried out on an optimizer that takes no step, networks of width 0
        warnings.simplefilter("ignore")
        build_lr_scheduler(build_optimizer(model, config.optimizer), config.lr_scheduler, STEPS)
    Objective(config.loss)


@given(case=broken(("model", "optimizer", "lr_scheduler", "loss")))
@bounded(60)
def test_broken_parts_of_a_network_and_its_training_are_one_line_or_are_built(tmp_path, case):
    name, content = case
    (tmp_path / name).write_text(json.dumps(content))
    outcome(tmp_path / name, build=network)


@given(case=broken(("data", "validation")))
@bounded(250)
def test_broken_data_is_one_line_or_is_opened(tmp_path, case):
    name, content = case
    (tmp_path / name).write_text(json.dumps(content))
    outcome(tmp_path / name, build=lambda config: build_data(config, Options(workspace=tmp_path / "run")))


WORDS = ["", "[0]", "[-1]", "[99]", "99", "-1", "²", "[", "]", ".", " ", "=", "9" * 5000, *KEYS]
TEXTS = [*map(json.dumps, VALUES), "", "[", "{", "1e999", "NaN", "[" * 5000, "9" * 5000, "\udcff", "{}}", '{"a": 1, "a": 2}']


def overrides():
    """The name of a shipped file and a `--set` whose key, if it leads anywhere, may lead further than the file goes."""

    def make(rng):
        name = pick(rng, list(SHIPPED))
        keys = list(pick(rng, list(places(SHIPPED[name]))))
        for _ in range(rng.integers(3)):
            keys.insert(rng.integers(len(keys) + 1), pick(rng, WORDS))
        return name, ".".join(map(str, keys)) + pick(rng, ["=", "=", "=", "=", "", "=="]) + pick(rng, TEXTS)

    return GENERATORS.map(make)


@given(case=overrides())
@bounded(400)
def test_a_broken_override_is_one_line(case):
    name, override = case
    outcome(FOLDER / name, [override])


def damaged():
    """The name of a shipped file and its bytes: cut off, or with some lost, put in or doubled, among them what is no UTF-8."""
    pieces = [
        b"\xff",
        b"\0",
        b'"',
        b"{",
        b"}",
        b"[" * 3000,
        b",,",
        b"/*",
        b"//",
        b"\xef\xbb\xbf",
        "é".encode(),
        b"1e999",
        b"NaN",
        b"9" * 5000,
    ]

    def make(rng):
        name = pick(rng, list(SHIPPED))
        content = bytearray((FOLDER / name).read_bytes())
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(len(content) + 1)
            kind = pick(rng, ["cut", "lose", "insert", "double"])
            if kind == "insert":
                content[at:at] = pick(rng, pieces)
            elif kind == "double":
                content[at:at] = content[max(at - 60, 0) : at]
            else:
                del content[at : None if kind == "cut" else at + rng.integers(1, 6)]
        return name, bytes(content)

    return GENERATORS.map(make)


@given(case=damaged())
@bounded(300)
def test_a_damaged_file_is_one_line(tmp_path, case):
    name, content = case
    (tmp_path / name).write_bytes(content)
    outcome(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe{}", "not a text file in UTF-8"),
        (b'{"model": {}, "model": {}}', "'model' is given twice"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"optimizer": ' + b"[" * 200 + b"]" * 200 + b"}", "optimizer[0][0]"),
        (b'{"optimizer": {"type": "\\ud800"}}', "optimizer.type: found '\\ud800', with a zero byte or half a character"),
        (b'{"data": {"root": "a\\u0000b"}}', "data.root: found 'a\\x00b', with a zero byte"),
        (b"[]", "found list at the top"),
        (b"", "line 1, column 1"),
    ],
)
def test_what_no_file_can_mean_is_named(tmp_path, content, words):
    (tmp_path / "run.json").write_bytes(content)
    assert words in outcome(tmp_path / "run.json")


def test_errors_of_what_is_built_name_the_file_and_others_stay(tmp_path):
    for line, named in (
        ("optimizer.type: x", True),
        ("loss: x", True),
        ("data[0]: x", True),
        ("data set 'a': x", False),
        ("--set x", False),
    ):
        with pytest.raises(UserError) as error, naming(tmp_path / "a.json"):
            raise UserError(line)
        assert str(error.value) == (f"{tmp_path / 'a.json'}: {line}" if named else line)
