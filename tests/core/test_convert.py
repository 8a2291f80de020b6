"""The table between published names and ours: complete, strict, bit-exact."""

import pytest
import torch

from core.convert import TABLE, from_nvidia, published_config, their_names, to_nvidia, unread_shapes
from tests.conftest import SHARED
from tests.core.golden import filled_state, manifest
from utils.errors import UserError

REFERENCE = SHARED / "reference"


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    return filled_state(REFERENCE, "vits", seed=1)


@pytest.mark.data
def test_there_and_back_is_bit_exact(published):
    ours, carried = from_nvidia(published)
    back = to_nvidia(ours, carried)
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], published[name]) and back[name].dtype == published[name].dtype for name in back)
    again, carried_again = from_nvidia(back)
    assert all(torch.equal(again[key], ours[key]) for key in ours) and again.keys() == ours.keys()
    assert carried_again.keys() == carried.keys()


@pytest.mark.data
@pytest.mark.parametrize("variant", ["vits", "vitl"])
def test_the_way_back_has_exactly_the_published_entries(shared, variant):
    """Also for a network that never was a published one: what it lacks is zeros."""
    entries = {key: (tuple(shape), getattr(torch, dtype)) for key, shape, dtype in manifest(shared / "reference", variant)}
    state = {key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in entries.items()}
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()} if variant == "vits" else state
    if variant == "vits":
        ours, carried = from_nvidia(state)
        for back in (to_nvidia(ours, carried), to_nvidia(ours)):
            assert {key: (tuple(value.shape), value.dtype) for key, value in back.items()} == entries
    else:
        found = {name for key in entries_of_ours(variant) for name in their_names(key)} | unread_shapes(variant).keys()
        assert found | {name.replace(".norm3.", ".downsample.1.") for name in found} == entries.keys()


def entries_of_ours(variant: str) -> list[str]:
    from core import build_model

    with torch.device("meta"):
        return list(build_model(published_config(variant), with_pretrained=False).state_dict())


@pytest.mark.data
def test_fine_tuned_norms_are_written_under_both_names(published):
    ours, carried = from_nvidia(published)
    ours["context.stages.1.0.shortcut.1.weight"] = torch.full((96,), 7.0)
    back = to_nvidia(ours, carried)
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
        from_nvidia(broken)
    message = str(caught.value)
    assert "2 missing: proj_cmb.bias, stem_4.1.weight" in message
    assert "1 left over: surplus" in message
    assert "3 wrong" in message and "sam.samconv.weight is [1, 2, 3, 3], expected [1, 2, 7, 7]" in message
    assert "k_proj.bias is [3], expected [28]" in message and "cnet.layer3.0.downsample.1.bias differs" in message
    assert "\n" not in message


@pytest.mark.data
def test_the_way_back_is_strict_too(published):
    ours, carried = from_nvidia(published)
    with pytest.raises(UserError, match=r"1 missing: classifier\.score\.weight"):
        to_nvidia({key: value for key, value in ours.items() if key != "classifier.score.weight"}, carried)
    with pytest.raises(UserError, match="1 left over: surplus"):
        to_nvidia({**ours, "surplus": torch.zeros(1)}, carried)
    with pytest.raises(UserError, match=r"1 missing: stem_4\.1\.weight"):
        to_nvidia(ours, {name: value for name, value in carried.items() if name != "stem_4.1.weight"})


def test_other_files_are_no_foundation_stereo():
    with pytest.raises(UserError, match="no FoundationStereo weights"):
        from_nvidia({"weight": torch.zeros(1)})
    with pytest.raises(UserError, match="no FoundationStereo weights"):
        to_nvidia({"weight": torch.zeros(1)})


def test_no_published_name_has_two_homes():
    names = [name for theirs in TABLE.values() for name in ((theirs,) if isinstance(theirs, str) else theirs)]
    assert len(names) == len(set(names))
