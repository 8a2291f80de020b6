"""Gradient checkpointing that changes no number: one call to wrap around a part of a network's forward.

Which parts are worth it is decided where they are called; nothing here knows a network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextmanager
def statistics_kept(modules: tuple[nn.Module, ...]) -> Iterator[None]:
    """Batch norms inside `modules` that are in training mode update copies of their running statistics, which are then forgotten.

    The forward pass has updated them already; the recomputation during backward must not do it a second time. Copies, because
    switching the tracking off would change the set of tensors that autograd saves.
    """
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def checkpointed(function: Callable[..., Any], *args: Any, enabled: bool, modules: tuple[nn.Module, ...] = ()) -> Any:
    """`function(*args)`; when `enabled`, intermediate results are recomputed during backward instead of stored.

    modules: those that `function` runs, for their batch norms. Dropout repeats, because the state of the generators is restored.
    """
    if not (enabled and torch.is_grad_enabled()):
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(modules)))
