"""Small networks and inputs that the tests of this room share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core import build_model

TINY: dict[str, Any] = {
    "feature_type": "cnn",
    "cnn": "edgenext_xx_small",
    "hidden_dims": [16, 16, 16],
    "volume_dim": 8,
    "corr_groups": 4,
    "context_dims": [8, 8, 16],
    "max_disp": 64,
    "train_iters": 2,
    "valid_iters": 3,
}


TINIES: dict[str, dict[str, Any]] = {
    "foundation_stereo": TINY,
    "raft_stereo": {
        "hidden_dims": [16, 16, 16],
        "feature_dims": [8, 8, 16],
        "feature_dim": 16,
        "corr_levels": 2,
        "train_iters": 2,
        "valid_iters": 3,
    },
    "crestereo": {
        "feature_dims": [8, 8, 16],
        "feature_dim": 32,
        "corr_groups": 2,
        "attention_heads": 2,
        "train_iters": 2,
        "valid_iters": 3,
    },
    "unet": {"dims": [8, 16, 24, 32, 32], "max_disp": 32, "predict_pose": True},
}
"""Of every registered network a configuration that trains within seconds; tests that take any network take it from here."""


def tiny_of(kind: str, **changes: Any) -> nn.Module:
    """The same numbers in every call."""
    torch.manual_seed(0)
    return build_model({"type": kind, **TINIES[kind], **changes})


def tiny(*, gradient_checkpointing: bool = False, **changes: Any) -> nn.Module:
    """A network of a few hundred thousand parameters, the same in every call, with layer scales large enough to matter."""
    model = tiny_of("foundation_stereo", **changes)
    model.gradient_checkpointing = gradient_checkpointing
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "gamma_xca", "scale")):
                parameter.fill_(0.5)
    return model


def images(batch: int = 1, height: int = 64, width: int = 96, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Noise seen from two places: the right view is the left one moved by 6 pixels."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.rand(batch, 3, height, width + 6, generator=generator)
    return scene[..., :-6].contiguous(), scene[..., 6:].contiguous()


@contextmanager
def bf16_of(device: str) -> Iterator[None]:
    """Autocast as on a device that need not be there, where `torch.autocast` refuses: for tensors without content."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        torch.clear_autocast_cache()


def deviations(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative to the size of what is expected."""
    assert found.keys() == expected.keys()
    return {name: float((found[name] - value).norm() / value.norm()) for name, value in expected.items()}


def assert_as_near(found: dict[str, Tensor], other: dict[str, Tensor], truth: dict[str, Tensor], *, rounding: float) -> None:
    """Each value and each gradient of `found` is as near to the truth as that of `other`: both round, at different places.

    Never is one beyond nine tenths of its own size accepted, as one that is missing would be; where `other` is, hardly anywhere, nothing
    is known.
    """
    own, ours = deviations(other, truth), deviations(found, truth)
    unresolved = {name for name, value in own.items() if not value <= 0.9}
    assert len(unresolved) <= 0.01 * len(own), unresolved
    allowed = {name: min(max(3 * value, rounding), 0.9) for name, value in own.items() if name not in unresolved}
    assert not {name: (ours[name], most) for name, most in allowed.items() if not ours[name] <= most}
