"""What a run file may say, and the one line that a wrong one gets."""

import json
import re
from pathlib import Path

import pytest

from train.run_file import FOLDER, ROOT, apply_override, differences, find_config, json_schema, laid_over, load_config
from utils.errors import UserError
from utils.files import format_config

DOCUMENTED = """
{
  "model": {"max_disp": 192, "feature_type": "dinov2", "correlation_implementation": "alt",
            "n_gru_layers": 3, "hidden_dims": [128, 128, 128]},
  "data": {"datasets": [{"name": "foundation_stereo_train", "path": "./data", "weight": 1.0,
                         "label_type": "stereo", "image_augmentation": ["jittering"]}],
           "image_sizes": [[512, 384], [640, 480]], "max_disparity": 192, "stereo_augmentation": true},
  "loss": {"stereo": {
      "disparity_l1": {"function": "disparity_l1_loss", "weight": 1.0, "params": {"max_disparity": 192.0}},
      "multi_scale": {"function": "multi_scale_loss", "weight": 0.3,
                      "params": {"weights": [0.5, 0.7, 1.0], "loss_type": "smooth_l1"}}}}
}
"""


@pytest.fixture
def documented(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(DOCUMENTED)
    return path


def test_the_documented_file_loads_as_written(documented):
    config = load_config(documented)
    assert config.data.image_sizes == [(512, 384), (640, 480)]
    assert config.data.datasets[0].type == "fsd"
    assert config.model["train_iters"] == 22
    assert config.loss["stereo"]["multi_scale"].params["weights"] == [0.5, 0.7, 1.0]


def test_every_file_in_the_readme_is_a_whole_one(tmp_path):
    blocks = re.findall(r"^```json\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        (tmp_path / "run.json").write_text(block)
        load_config(tmp_path / "run.json")


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.*")))
def test_every_shipped_file_loads_by_its_bare_name(name):
    load_config(find_config(name))


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_the_effective_configuration_is_the_same_run(documented, tmp_path, suffix):
    config = load_config(documented, ["validation.best=null"])  # a default that null takes the place of
    again = tmp_path / f"again{suffix}"
    again.write_text(format_config(config.dump(), suffix))
    assert load_config(again).dump() == config.dump()


def test_the_effective_configuration_holds_every_default(documented):
    data = load_config(documented).dump()["data"]
    assert data["stereo_augmentation"]["scale"] == [-0.2, 0.5]
    assert data["datasets"][0]["image_augmentation"][0]["asymmetric_probability"] == 0.2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.datasets[0].weigth=2", ["data.datasets[0].weigth", "unknown key", "'weight'"]),
        ("optimzer={}", ["optimzer", "'optimizer'"]),
        ("model.max_dsp=64", ["model.max_dsp", "'max_disp'"]),
        ("model.max_disp=[1]", ["model.max_disp", "[1]", "integer"]),
        ("model.type=raft", ["model.type", "'raft'", "foundation_stereo"]),
        ("model.type=[1]", ["model.type", "[1]"]),
        ("model=3", ["model", "3"]),
        ("data.datasets=[]", ["data.datasets", "at least 1"]),
        ("data.datasets[0].type=kitti99", ["data.datasets[0].type", "'kitti99'"]),
        ("data.datasets[0].label_type=sterep", ["label_type", "'stereo'"]),
        ("data.datasets[0].weight=0", ["data.datasets", "weight above 0"]),
        ("data.datasets[0].weight=-1", ["data.datasets[0].weight", "-1"]),
        ("data.datasets[0].steps=0", ["data.datasets[0].steps", "0"]),
        ("data.datasets[0].part=test", ["data.datasets[0].part", "'test'", "'val'"]),
        ("data.datasets[0].max_samples=0", ["data.datasets[0].max_samples", "0"]),
        ("data.datasets[0].cache.siez=[64,64]", ["data.datasets[0].cache.siez", "'size'"]),
        ("data.cache={\"root\": \"c\", \"size\": [64]}", ["data.cache.size"]),
        ("data.datasets=[{\"name\": \"a\", \"steps\": 9}, {\"name\": \"b\"}]", ["data.datasets", "'a' has steps and 'b' has none"]),
        ("data.datasets=[{\"name\": \"a\", \"steps\": 9, \"weight\": 2}]", ["data.datasets", "'a' has steps and a weight"]),
        ("validation.datasets=[{\"name\": \"a\", \"val_fraction\": 0.1}]", ["validation.datasets", "'a' has val_fraction without part"]),
        ("data.image_augmentation=[\"jiterring\"]", ["data.image_augmentation[0]", "'jittering'"]),
        ("data.stereo_augmentation={\"scal\": 1}", ["data.stereo_augmentation.scal", "'scale'"]),
        ("data.image_sizes=[[0, 32]]", ["data.image_sizes[0][0]", "0"]),
        ("loss.stereo.multi_scale.function=multiscale_loss", ["loss.stereo.multi_scale.function", "'multi_scale_loss'"]),
        ("loss.stereo.multi_scale.wieght=1", ["loss.stereo.multi_scale.wieght", "'weight'"]),
        ("loss.stereo.multi_scale.params.weight=1", ["params.weight", "'weights'"]),
        ("loss.stereo.multi_scale.params.loss_type=l3", ["params.loss_type", "'l3'"]),
        ("loss.stereo.multi_scale.weight=Infinity", ["weight"]),
        ("ema.decay=1", ["ema.decay", "less than 1"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_with_file_key_and_expectation(documented, override, words):
    with pytest.raises(UserError) as error:
        load_config(documented, [override])
    line = str(error.value)
    assert line.startswith(f"{documented}: ") and "\n" not in line, line
    assert all(word in line for word in words), line


def test_overrides_reach_every_depth():
    content = {"data": {"datasets": [{"weight": 1.0}]}}
    for override in ("data.datasets[0].weight=2", "data.datasets.0.path=/a=b", "ema.decay=0.5", 'model={"max_disp": 64}'):
        apply_override(content, override)
    assert content == {"data": {"datasets": [{"weight": 2, "path": "/a=b"}]}, "ema": {"decay": 0.5}, "model": {"max_disp": 64}}


def test_overrides_reach_into_sections_that_the_file_leaves_out(documented):
    config = load_config(documented, ["optimizer.params[0].lr=2e-3", "ema.decay=0.5"])
    assert config.optimizer["params"][0] == {"params": {"include": ["*"]}, "lr": 2e-3} and config.ema.decay == 0.5


@pytest.mark.parametrize(
    "override",
    [
        "data",
        "=3",
        "data.datasets[1].x=3",
        'model={"a": 1, "a": 2}',
        "ema.decay=" + "9" * 5000,
        "data.datasets.x=3",
        "data.datasets[0].weight.x=1",
        ".=1",
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override):
    with pytest.raises(UserError, match="--set"):
        apply_override({"data": {"datasets": [{"weight": 1.0}]}}, override)


def test_an_unknown_file_names_the_nearest_shipped_one():
    with pytest.raises(UserError, match=r"did you mean 'stereo_v1\.json'"):
        find_config("stereo_v2.json")


def test_paths_start_at_the_root_take_variables_and_may_be_absolute(documented, monkeypatch, tmp_path):
    """The one rule: path, below data.root, else below $STEREOFOUNDRY_DATA, else where the command runs."""
    entry = load_config(documented, ["data.datasets[0].path=$STEREO_ROOT/fsd"]).data.datasets[0]
    monkeypatch.delenv("STEREOFOUNDRY_DATA", raising=False)
    monkeypatch.setenv("STEREO_ROOT", "sets")
    assert entry.folder("data.datasets[0]") == Path("sets/fsd")
    assert entry.folder("data.datasets[0]", "/data/$STEREO_ROOT") == Path("/data/sets/sets/fsd")
    monkeypatch.setenv("STEREOFOUNDRY_DATA", "/disk")
    assert entry.folder("data.datasets[0]") == Path("/disk/sets/fsd")
    assert entry.folder("data.datasets[0]", "/data") == Path("/data/sets/fsd")
    monkeypatch.setenv("STEREO_ROOT", str(tmp_path))
    assert entry.folder("data.datasets[0]", "/data") == tmp_path / "fsd"
    monkeypatch.delenv("STEREO_ROOT")
    with pytest.raises(UserError, match=r"data.datasets\[0\].path: .*STEREO_ROOT"):
        entry.folder("data.datasets[0]")
    with pytest.raises(UserError, match=r"data.root: .*NOWHERE"):
        entry.folder("data.datasets[0]", "$NOWHERE")


def test_a_cache_of_its_own_says_only_what_differs(documented):
    keys = ["data.cache.root=/fast", "data.cache.require=true", "data.datasets[0].cache.size=[64,32]"]
    config = load_config(documented, [*keys, 'validation.datasets=[{"name": "v"}]'])
    own = config.data.datasets[0].cache
    assert own is not None and (own.root, own.size, own.require, own.enabled) == ("/fast", (64, 32), True, True)
    assert config.data.cache_of(config.data.datasets[0]) == own
    assert config.validation.datasets[0].cache is None


def test_the_schema_names_what_is_registered():
    schema = json.loads(json.dumps(json_schema()))
    networks = {network["properties"]["type"]["const"]: network for network in schema["properties"]["model"]["anyOf"]}
    assert "max_disp" in networks["foundation_stereo"]["properties"]
    assert "multi_scale_loss" in schema["$defs"]["LossTerm"]["properties"]["function"]["enum"]
    assert {"fsd", "synthetic"} <= set(schema["$defs"]["DatasetEntry"]["properties"]["type"]["enum"])
    assert schema["$defs"]["EmaConfig"]["properties"]["decay"]["description"]


@pytest.mark.parametrize(
    ("model", "words"), [({}, "start_cost is null"), ({"type": "unet"}, "unet does not refine a start"), ({"start_cost": 0.5}, None)]
)
def test_a_coarse_start_needs_a_network_that_searches_near_it(documented, model, words):
    overrides = [f"model={json.dumps(model)}", "training.coarse_scale=0.5"]
    if model.get("type") == "unet":
        overrides.append('loss={"stereo": {"l1": {"function": "disparity_l1_loss"}}}')
    if words is None:
        assert load_config(documented, overrides).training.coarse_scale == 0.5
    else:
        with pytest.raises(UserError, match=rf"run\.json: training\.coarse_scale: 0\.5, but .*{words}"):
            load_config(documented, overrides)


def test_a_tuple_and_the_list_that_a_file_makes_of_it_do_not_differ():
    assert differences({"scales": (1.0,), "a": 1}, {"scales": [1.0], "a": 2}) == {"a"}


# ---- a file that extends another ---------------------------------------------------------------------------------------------------------


def extending(folder: Path, name: str = "mine.json", **content) -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_a_file_that_extends_another_says_only_what_differs(documented, tmp_path):
    path = extending(tmp_path, extends="run.json", model={"max_disp": 96}, data={"image_sizes": [[64, 64]]})
    config = load_config(path, ["model.n_gru_layers=1"])
    assert (config.model["max_disp"], config.model["n_gru_layers"], config.model["hidden_dims"]) == (96, 1, [128, 128, 128])
    assert config.data.image_sizes == [(64, 64)] and config.data.max_disparity == 192  # of the file below it
    last = extending(tmp_path, "last.toml")
    last.write_text('extends = "mine.json"\n[model]\ncorr_radius = 3\n')
    config = load_config(last)
    assert (config.model["max_disp"], config.model["corr_radius"], config.data.image_sizes) == (96, 3, [(64, 64)])
    assert "extends" not in config.dump()


def test_a_shipped_file_is_extended_by_its_name_unless_one_of_that_name_lies_beside(tmp_path):
    data = {"datasets": [{"name": "rig", "type": "fsd", "path": "rig"}]}
    path = extending(tmp_path, extends="finetune.json", data=data)
    ours, shipped = load_config(path), load_config(find_config("finetune.json"))
    assert [entry.name for entry in ours.data.datasets] == ["rig"] and ours.data.image_sizes == shipped.data.image_sizes
    assert ours.optimizer == shipped.optimizer and ours.model == shipped.model
    extending(tmp_path, "finetune.json", extends="unet.json", data=data)
    assert load_config(path).model["type"] == "unet"


def test_an_object_of_another_type_is_taken_whole():
    base = {"a": {"type": "one", "params": {"x": 1}}, "b": {"function": "f", "weight": 2}, "c": {"d": {"e": 1, "f": [1, 2]}}}
    changes = {"a": {"type": "two"}, "b": {"weight": 3}, "c": {"d": {"f": [3]}}}
    assert laid_over(base, changes) == {"a": {"type": "two"}, "b": {"function": "f", "weight": 3}, "c": {"d": {"e": 1, "f": [3]}}}


def test_what_cannot_be_extended_is_one_line(documented, tmp_path):
    for name, words in (
        ("finetun.json", r"mine.json: extends: finetun.json: no such file, here or in configs/train; did you mean 'finetune.json'"),
        ("x" * 300, r"mine.json: extends: x+: no such file"),
        (3, r"mine.json: extends: found 3; expected the name of a run file"),
        ("mine.json", r"mine.json: extends: mine.json leads back to itself"),
    ):
        with pytest.raises(UserError, match=words):
            load_config(extending(tmp_path, extends=name))
    extending(tmp_path, "other.json", extends="mine.json")
    with pytest.raises(UserError, match=r"other.json: extends: mine.json leads back to itself"):
        load_config(extending(tmp_path, extends="other.json"))
    with pytest.raises(UserError, match=r"mine.json: model.max_dips: .*did you mean 'max_disp'"):
        load_config(extending(tmp_path, extends="run.json", model={"max_dips": 64}))
