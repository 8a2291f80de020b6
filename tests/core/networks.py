"""Small networks and inputs that the tests of this room share."""

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


def tiny(*, gradient_checkpointing: bool = False, **changes: Any) -> nn.Module:
    """A network of a few hundred thousand parameters, the same in every call, with layer scales large enough to matter."""
    torch.manual_seed(0)
    model = build_model({**TINY, **changes})
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
