"""Networks: tensors in, disparity out. Knows no data set, no run and no command line; one file per part of a network.

`build_model` is the way in from a configuration, `load_model` from a file; what networks return is `StereoOutput`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core.crestereo import CREStereo
from core.foundation_stereo import FoundationStereo
from core.output import StereoOutput
from core.raft_stereo import RAFTStereo
from core.unet import UNet
from core.weight_files import load_model
from utils.errors import UserError
from utils.registry import Registry

MODELS = Registry("model")
MODELS.register("foundation_stereo")(FoundationStereo)
MODELS.register("raft_stereo")(RAFTStereo)
MODELS.register("crestereo")(CREStereo)
MODELS.register("unet")(UNet)


def build_model(config: Mapping[str, Any], *, with_pretrained: bool = True) -> nn.Module:
    """The network that the "model" section of a configuration describes; key "type" is its name, the others are its parameters.

    with_pretrained: false when a state dict is loaded afterwards; the backbone's pretrained weights are then not fetched.
    Raises `UserError` for an unknown type or key and for values that do not go together.
    """
    params = dict(config)
    name = params.pop("type", "foundation_stereo")
    if not isinstance(name, str):
        raise UserError(f"model.type: found {name!r}; expected one of {', '.join(MODELS)}")
    checked = MODELS.check(name, params, where="model")
    return MODELS[name](with_pretrained, **checked)


def offered(config: Mapping[str, Any]) -> frozenset[str]:
    """The fields of `StereoOutput` that the network of a checked "model" section fills beside the disparities: those that it always has and
    those that a key of the section switches on."""
    network = MODELS[config["type"]]
    return network.offers | {field for field, key in switches(network).items() if config.get(key)}  # pyright: ignore


def switches(network: Any) -> Mapping[str, str]:
    """Further fields that a registered network fills -> the key of its configuration that has to be true for it."""
    return getattr(network, "switched", {})


__all__ = [
    "MODELS", "CREStereo", "FoundationStereo", "RAFTStereo", "StereoOutput", "UNet", "build_model", "load_model", "offered", "switches",
]  # fmt: skip
