"""The monocular branch: sizes, position embedding, freezing; and pretrained weight files for it."""

import copy

import pytest
import timm
import torch
from timm.models.edgenext import PositionalEncodingFourier

from core import build_model
from core.backbone import Backbone, PositionCode, vit_size_for
from core.convert import rename
from core.foundation_stereo_names import DINO, published_config
from tests.core.networks import TINY, images, tiny
from utils.errors import UserError

DINO_TINY = {**TINY, "feature_type": "dinov2"}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((112, 224), (112, 224)),
        ((32, 384), (112, 448)),
        ((480, 640), (560, 672)),
        ((1344, 1344), (1344, 1344)),
        ((1376, 1024), (1344, 1120)),  # 1456 x 1120: the longer becomes 1344, 1120 * 1344 / 1456 = 1033.8, rounded up 1120
        ((1024, 2048), (784, 1344)),  # 1120 x 2128: 1120 * 1344 / 2128 = 707.4, rounded up 784
        ((2000, 2000), (1344, 1344)),
    ],
)
def test_size_given_to_the_vit(size, expected):
    assert vit_size_for(*size) == expected


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_model(DINO_TINY).backbone


def test_position_embedding_of_the_stored_grid_is_taken_as_it_is(backbone):
    branch = backbone.monocular
    assert branch._position(37, 37) is branch.vit.pos_embed
    smaller = branch._position(8, 16)
    assert smaller.shape == (1, 1 + 8 * 16, 384)
    assert torch.equal(smaller[:, 0], branch.vit.pos_embed[:, 0])


def test_tokens_are_those_of_timm_on_the_stored_grid(backbone):
    """On 37 x 37 patches no rule of ours is involved, and timm's own forward gives the same maps."""
    vit = backbone.monocular.vit.eval()
    image = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = vit.get_intermediate_layers(image, n=[2, 5, 8, 11], reshape=True, norm=True)
        found = backbone.monocular._tokens(image)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def depth_anything_file(path, backbone, *, decoder):
    """A file with the public names, made from one of our networks; also the entries that we have no use for."""
    ours = {f"backbone.{key}": value.clone() for key, value in backbone.state_dict().items()}
    state = rename(published_config("vits"), ours)
    state = {key.removeprefix(f"{DINO}."): value for key, value in state.items() if key.startswith(DINO)}
    if decoder:
        state |= {"depth_head.scratch.output_conv2.0.bias": torch.zeros(32), "pretrained.mask_token": torch.zeros(1, 384)}
    else:  # DINOv2's own files have no prefix
        state = {key.removeprefix("pretrained."): value for key, value in state.items() if not key.startswith("depth_head.")}
        state["mask_token"] = torch.zeros(1, 384)
    torch.save(state, path)
    return path


@pytest.mark.parametrize(("decoder", "frozen"), [(True, {"vit", "decoder"}), (False, {"vit"})])
def test_a_weight_file_is_loaded_and_exactly_that_is_frozen(tmp_path, backbone, decoder, frozen):
    path = depth_anything_file(tmp_path / "weights.pth", backbone, decoder=decoder)
    model = build_model({**DINO_TINY, "pretrained_backbone": str(path)}).train()
    branch = model.backbone.monocular
    assert model.frozen_parts == frozen == set(model.loaded)
    for part in ("vit", "decoder"):
        found, filed = (other.get_submodule(part).state_dict() for other in (branch, backbone.monocular))
        same = all(torch.equal(found[key], filed[key]) for key in found)
        assert same == (part in frozen)
        assert branch.get_submodule(part).training == (part not in frozen)
        assert {p.requires_grad for p in branch.get_submodule(part).parameters()} == {part not in frozen}
    output = model(*images(height=32, width=64))
    output.disparities.mean().backward()
    assert {part for part in ("vit", "decoder") if next(branch.get_submodule(part).parameters()).grad is None} == frozen
    thawed = build_model({**DINO_TINY, "pretrained_backbone": str(path), "freeze_backbone": False})
    assert not thawed.frozen_parts and all(p.requires_grad for p in thawed.parameters())


def test_a_frozen_branch_keeps_nothing_for_backward(tmp_path, backbone):
    model = tiny(feature_type="dinov2", n_gru_layers=1).train()
    held = {}
    for frozen in (False, True):
        model.freeze_backbone_(None if frozen else frozenset())
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.nbytes) or t, lambda t: t):
            feature = model.backbone.monocular(images(height=32, width=64)[0])
        held[frozen] = sum(saved)
        assert feature.requires_grad is not frozen
    assert held[True] == 0 < held[False]


def test_random_weights_are_never_frozen():
    assert not build_model(DINO_TINY).frozen_parts
    with pytest.raises(UserError, match="stay frozen at random weights"):
        build_model({**DINO_TINY, "freeze_backbone": True})
    with pytest.raises(UserError, match="no monocular branch"):
        build_model({**TINY, "freeze_backbone": True})


def test_parts_are_frozen_by_name(tmp_path, backbone):
    path = depth_anything_file(tmp_path / "weights.pth", backbone, decoder=True)
    filled = {**DINO_TINY, "pretrained_backbone": str(path)}
    assert build_model({**filled, "freeze_backbone": ["decoder"]}).frozen_parts == {"decoder"}
    gone = {**DINO_TINY, "pretrained_backbone": "gone.pth", "freeze_backbone": ["vit"]}
    assert build_model(gone, with_pretrained=False).frozen_parts == {"vit"}
    with pytest.raises(UserError, match=r"freeze_backbone: names decoder and vit, .*'none' does not fill"):
        build_model({**DINO_TINY, "freeze_backbone": ["vit", "decoder"]})
    for wrong in ([], ["cnn"], "vit"):
        with pytest.raises(UserError, match=r"model\.freeze_backbone"):
            build_model({**filled, "freeze_backbone": wrong})


def test_a_state_dict_to_come_needs_no_file_but_the_same_parts_are_frozen():
    """For resuming: nothing is read, yet what the file would have filled is frozen."""
    model = build_model({**DINO_TINY, "pretrained_backbone": "timm"}, with_pretrained=False)
    assert model.frozen_parts == {"vit"} and not model.loaded
    model = build_model({**DINO_TINY, "pretrained_backbone": "gone/depth_anything_v2_vits.pth"}, with_pretrained=False)
    assert model.frozen_parts == {"vit", "decoder"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        (b"no pickle at all", "not a readable weight file"),
        ({"pretrained.norm.weight": torch.zeros(1024)}, "does not fit model.vit_size vits"),
        ({"depth_head.nonsense": torch.zeros(1)}, "does not fit|unknown entry"),
        ([1, 2], "no state dict"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        build_model({**DINO_TINY, "pretrained_backbone": str(path)})
    assert "\n" not in str(caught.value)


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"pretrained.norm.weight": Bomb()}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="not a readable weight file"):
        build_model({**DINO_TINY, "pretrained_backbone": str(tmp_path / "weights.pth")})
    assert not (tmp_path / "exploded").exists()


def test_timm_weights_fill_vit_and_cnn(monkeypatch):
    """Without a connection: timm's downloads are replaced by marked random weights."""
    create = timm.create_model

    def fake(name, pretrained=False, **options):
        model = create(name, pretrained=False, **options)
        if pretrained:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(0.25)
        return model

    monkeypatch.setattr(timm, "create_model", fake)
    model = build_model({**DINO_TINY, "pretrained_backbone": "timm"})
    assert model.frozen_parts == {"vit"} and set(model.loaded) == {"vit", "cnn"}
    for part in (model.backbone.cnn, model.backbone.monocular.vit):
        assert all((p == 0.25).all() for p in part.parameters())
    assert build_model({**TINY, "pretrained_backbone": "timm"}).loaded.keys() == {"cnn"}


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    create = timm.create_model

    def refuse(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route\nto host")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r"could not fetch 'edgenext_xx_small'.*no route to host"):
        build_model({**TINY, "pretrained_backbone": "timm"})


def test_a_file_of_the_hub_is_used_like_one_that_lies_here(monkeypatch, tmp_path):
    """Without a connection: the hub's client is replaced by one that finds the file here, under the name that it was asked for."""
    import huggingface_hub

    source = build_model(DINO_TINY).backbone.monocular
    assert source is not None
    path = tmp_path / "weights.pth"
    torch.save({f"pretrained.{key}": torch.full_like(value, 0.5) for key, value in source.vit.state_dict().items()}, path)
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file: asked.append((repository, file)) or str(path))
    for name in ("hf:some/model", "hf:some/model/sub/own.pth"):
        model = build_model({**DINO_TINY, "pretrained_backbone": name})
        assert model.loaded == {"vit": name} and model.frozen_parts == {"vit"}
        assert all((value == 0.5).all() for value in model.backbone.monocular.vit.parameters())
    assert asked == [("some/model", "depth_anything_v2_vits.pth"), ("some/model", "sub/own.pth")]


@pytest.mark.parametrize("name", ["hf:", "hf:model", "hf:/x"])
def test_a_hub_name_that_is_none_is_refused(name):
    with pytest.raises(UserError, match="expected hf:owner/name"):
        build_model({**DINO_TINY, "pretrained_backbone": name})


def test_a_hub_file_that_is_not_there_is_one_line(monkeypatch):
    import huggingface_hub

    def refuse(repository, file):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"'hf:some/model' could not be fetched \(ConnectionError: no route to host\)"):
        build_model({**DINO_TINY, "pretrained_backbone": "hf:some/model"})


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 1, 1), (2, 5, 7), (1, 30, 40)])
def test_the_position_code_is_that_of_timm(batch, height, width):
    """Value and gradients, to the bit."""
    theirs = PositionalEncodingFourier(hidden_dim=8, dim=12)
    ours = copy.deepcopy(theirs)
    ours.__class__ = PositionCode
    found = [code((batch, height, width)) for code in (theirs, ours)]
    for one in found:
        one.square().sum().backward()
    assert torch.equal(*found)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    assert any(type(module) is PositionCode for module in tiny().modules())
