"""The tables between published names and ours: complete, strict, bit-exact, for every network that has published weights."""

import json

import pytest
import torch

from core import build_model
from core.convert import PUBLISHED, complete, from_published, our_shapes, their_names, to_published
from core.foundation_stereo_names import TABLE, published_config, unread_shapes
from tests.conftest import SHARED
from tests.core.golden import KINDS, filled_state, manifest, manifest_path
from utils.errors import UserError

REFERENCE = SHARED / "reference"
VARIANTS = ["vits", "raft_stereo", "crestereo"]
REALTIME = {"shared_backbone": True, "n_downsample": 3, "n_gru_layers": 2, "slow_fast_gru": True, "valid_iters": 7}


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    return filled_state(REFERENCE, "vits", seed=1)


@pytest.mark.data
@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_is_bit_exact(shared, published, variant):
    state = published if variant == "vits" else filled_state(REFERENCE, variant, seed=1)
    config, ours, carried = from_published(state)
    assert config["type"] == KINDS[variant]
    back = to_published(config, ours, carried)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in back)
    _, again, carried_again = from_published(back)
    assert all(torch.equal(again[key], ours[key]) for key in ours) and again.keys() == ours.keys()
    assert carried_again.keys() == carried.keys()
    build_model(config, with_pretrained=False).load_state_dict(ours)


@pytest.mark.data
@pytest.mark.parametrize("variant", [*VARIANTS, "vitl"])
def test_the_way_back_has_exactly_the_published_entries(shared, variant):
    """Also for a network that never was a published one: what it lacks is zeros."""
    entries = {key: (tuple(shape), getattr(torch, dtype)) for key, shape, dtype in manifest(REFERENCE, variant)}
    if variant == "vitl":  # a gigabyte, of which the names are enough
        found = {name for key in our_shapes(published_config("vitl")) for name in their_names(key, TABLE)} | unread_shapes("vitl").keys()
        assert found | {name.replace(".norm3.", ".downsample.1.") for name in found} == entries.keys()
        return
    config = published_config("vits") if variant == "vits" else {"type": variant}
    ours = {key: torch.zeros(shape, dtype=torch.int64 if key.endswith("tracked") else None) for key, shape in our_shapes(config).items()}
    back = to_published(config, ours)
    assert {key: (tuple(value.shape), value.dtype) for key, value in back.items()} == entries


@pytest.mark.data
@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_nothing_of_a_network_is_left_out(shared, variant):
    """Every published parameter is one of ours or a bias that a norm cancels."""
    about = json.loads(manifest_path(REFERENCE, variant).read_text())
    _, ours, carried = from_published(filled_state(REFERENCE, variant, seed=0))
    model = build_model({"type": variant})
    model.load_state_dict(ours)
    assert all(name.endswith(".bias") for name in carried)
    assert sum(p.numel() for p in [*model.parameters(), *carried.values()]) == about["total_unique_parameters"]


@pytest.mark.parametrize(
    ("changes", "entries", "parameters"), [(REALTIME, 309, 9_865_568), ({"context_norm": "instance"}, 152, 11_108_688)]
)
def test_raft_stereos_other_files_are_known_by_their_shapes(changes, entries, parameters):
    """raftstereo-realtime and iraftstereo_rvc: entries and parameters as counted in the published code."""
    config = {"type": "raft_stereo", **changes}
    state = to_published(config, build_model(config).state_dict())
    assert len(state) == entries
    own = [name for name in state if ".running_" not in name and not name.endswith("tracked") and ".downsample.1." not in name]
    assert sum(state[name].numel() for name in own) == parameters
    found = from_published(state)[0]
    assert all(found[key] == value for key, value in config.items())
    assert from_published(to_published(*from_published(state)))[0] == found


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("downsample", [1, 2, 3])
def test_raft_stereos_sizes_are_told_by_shapes(levels, downsample):
    config = {"type": "raft_stereo", "n_gru_layers": levels, "n_downsample": downsample, "corr_levels": 3}
    state = to_published(config, build_model(config).state_dict())
    assert from_published(state)[0] == config | {"corr_radius": 4, "context_norm": "batch", "shared_backbone": False}


def test_a_position_table_from_another_machine_is_kept():
    """CREStereo's files hold a table that is computed: left out where the bits are the same, carried where they are not, and checked."""
    config = {"type": "crestereo"}
    state = to_published(config, build_model(config).state_dict())
    assert "positional_encodings.pe" not in from_published(state)[2]
    table = state["positional_encodings.pe"].clone()
    table[0, 0, 0, 0] = torch.nextafter(table[0, 0, 0, 0], torch.tensor(2.0))
    state["positional_encodings.pe"] = table
    config, ours, carried = from_published(state)
    assert torch.equal(to_published(config, ours, carried)["positional_encodings.pe"], table)
    with pytest.raises(UserError, match=r"positional_encodings\.pe is not what its formula gives"):
        from_published({**state, "positional_encodings.pe": table + 1e-3})


def test_crestereos_position_code_by_hand():
    """From 1 on, columns before rows, frequencies 1, exp(-2), ...: as published, where a division floors the exponent's factor."""
    table = PUBLISHED["crestereo"].formulas["positional_encodings.pe"]()
    column, row = 3.0, 2.0
    angles = torch.tensor([column, column, row, row])
    expected = torch.where(torch.tensor([True, False, True, False]), angles.sin(), angles.cos())
    torch.testing.assert_close(table[0, :4, 1, 2], expected)
    torch.testing.assert_close(table[0, 4, 1, 2], (torch.tensor(-2.0).exp() * column).sin())


@pytest.mark.data
def test_fine_tuned_norms_are_written_under_both_names(published):
    config, ours, carried = from_published(published)
    ours["context.stages.1.0.shortcut.1.weight"] = torch.full((96,), 7.0)
    back = to_published(config, ours, carried)
    assert (back["cnet.layer2.0.norm3.weight"] == 7).all() and (back["cnet.layer2.0.downsample.1.weight"] == 7).all()


@pytest.mark.data
def test_what_is_missing_left_over_or_misshapen_is_listed(published):
    broken = dict(published)
    del broken["proj_cmb.bias"], broken["stem_4.1.weight"]
    broken["surplus"] = torch.zeros(1)
    broken["sam.samconv.weight"] = torch.zeros(1, 2, 3, 3)
    broken["cost_agg.atts.4.sa.0.self_attn.k_proj.bias"] = torch.zeros(3)
    broken["cnet.layer3.0.downsample.1.bias"] = torch.ones(128)
    with pytest.raises(UserError) as caught:
        from_published(broken)
    message = str(caught.value)
    assert "2 missing: proj_cmb.bias, stem_4.1.weight" in message
    assert "1 left over: surplus" in message
    assert "3 wrong" in message and "sam.samconv.weight is [1, 2, 3, 3], expected [1, 2, 7, 7]" in message
    assert "k_proj.bias is [3], expected [28]" in message and "cnet.layer3.0.downsample.1.bias differs" in message
    assert "\n" not in message


@pytest.mark.data
def test_the_way_back_is_strict_too(published):
    config, ours, carried = from_published(published)
    with pytest.raises(UserError, match=r"1 missing: classifier\.score\.weight"):
        to_published(config, {key: value for key, value in ours.items() if key != "classifier.score.weight"}, carried)
    with pytest.raises(UserError, match="1 left over: surplus"):
        to_published(config, {**ours, "surplus": torch.zeros(1)}, carried)
    with pytest.raises(UserError, match=r"1 missing: stem_4\.1\.weight"):
        to_published(config, ours, {name: value for name, value in carried.items() if name != "stem_4.1.weight"})


def test_other_widths_have_no_published_form():
    config = {"type": "raft_stereo", "hidden_dims": [16] * 3}
    with pytest.raises(UserError, match=r"context\.hidden\.0\.1\.weight is \[16, 128, 3, 3\], expected \[128"):
        to_published(config, build_model(config).state_dict())


def test_other_files_are_of_no_known_network():
    with pytest.raises(UserError, match=r"no weights of a known network.*crestereo \('feature_encoder\.convnormrelu\.0\.weight'\)"):
        from_published({"weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"no known RAFT-Stereo weights: 35 lookup channels"):
        from_published(
            {"update_block.encoder.convf1.weight": torch.zeros(1), "update_block.encoder.convc1.weight": torch.zeros(64, 35, 1, 1)}
        )
    with pytest.raises(UserError, match=r"1 left over: weight"):
        to_published({"type": "crestereo"}, {"weight": torch.zeros(1)})


@pytest.mark.parametrize("kind", list(PUBLISHED))
def test_no_published_name_has_two_homes(kind):
    network = PUBLISHED[kind]
    table = network.table(complete({"type": kind}))
    names = [name for theirs in table.values() for name in ((theirs,) if isinstance(theirs, str) else theirs)]
    assert len(names) == len(set(names))
