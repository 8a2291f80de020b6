"""The network by torch.compile, in place, so that no name of an entry changes: checkpoints are the same with and without."""

import logging
from contextlib import AbstractContextManager

import torch
from torch import nn

from train.config import CompileConfig
from utils.errors import UserError, did_you_mean

log = logging.getLogger("stereofoundry")


def compile_network(network: nn.Module, config: CompileConfig, forms: int) -> None:
    """Forward and backward of `network` are compiled at the first step of each size of `data.image_sizes`, for that size alone: code for
    any size is slower. Whole images of a validation take `plain`. forms: sizes, or twice as many where some steps are given a start.

    Raises UserError for an unknown backend, and for gradient checkpointing, whose second pass leaves the batch statistics alone in a way
    that the tracer does not follow.
    """
    if not config.enabled:
        return
    if network.gradient_checkpointing:
        raise UserError(
            "compile.enabled: a network with gradient checkpointing is not compiled; pass --enable_gradient_checkpointing false"
        )
    known = torch.compiler.list_backends(exclude_tags=())
    if config.backend not in known:
        raise UserError(
            f"compile.backend: found '{config.backend}'; expected one of {', '.join(known)}{did_you_mean(config.backend, known)}"
        )
    limits, limit = torch._dynamo.config, recompile_limit()
    setattr(limits, limit, max(getattr(limits, limit), forms + 1))  # beyond it, torch goes on uncompiled and says nothing
    network.compile(mode=config.mode, backend=config.backend, dynamic=False)
    log.info("the network is compiled by torch.compile (%s, %s): the first steps of each size take minutes", config.backend, config.mode)


def recompile_limit() -> str:
    """The key of torch's configuration that says how many forms of a function are compiled; it had another name until torch 2.6."""
    return "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"


def plain() -> AbstractContextManager[object]:
    """What runs inside is not compiled, and compiles nothing: for images of any size."""
    return torch.compiler.set_stance("force_eager")
