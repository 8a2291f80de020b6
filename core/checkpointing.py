"""Gradient checkpointing that changes no number: one call to wrap around a part of a network's forward.

Which parts are worth it is decided where they are called; nothing here knows a network.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

CONVOLUTION = torch.ops.aten.convolution.default
Level = Literal["none", "cheap", "all"]  # what is computed again: nothing, all but convolutions, everything


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


def checkpointed(
    function: Callable[..., Any], *args: Any, enabled: bool, modules: tuple[nn.Module, ...] = (), keep_convolutions: bool = False
) -> Any:
    """`function(*args)`; when `enabled`, intermediate results are recomputed during backward instead of stored.

    modules: those that `function` runs, for their batch norms. Dropout repeats, because the state of the generators is restored.
    keep_convolutions: their results are stored, so that only what is cheap is computed again. None may be changed in place.
    """
    if not (enabled and torch.is_grad_enabled()):
        return function(*args)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        kept: list[Tensor] = []
        first, again = (_Keeping(kept), _Giving(kept)) if keep_convolutions else (nullcontext(), nullcontext())
        return first, _both(statistics_kept(modules), again)

    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def by_level(level: Level, function: Callable[..., Any], *args: Any, modules: tuple[nn.Module, ...] = ()) -> Any:
    return checkpointed(function, *args, enabled=level != "none", modules=modules, keep_convolutions=level == "cheap")


class _Keeping(TorchDispatchMode):
    """Keeps what convolutions return. PyTorch's own selective checkpointing wants every operator to come again in the same order, which
    the casts of autocast do not: the first pass takes them from its cache."""

    def __init__(self, kept: list[Tensor]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is CONVOLUTION:
            self.kept.append(found.detach())
        return found


class _Giving(TorchDispatchMode):
    """Gives what was kept in place of computing it."""

    def __init__(self, kept: list[Tensor]) -> None:
        super().__init__()
        self.kept = kept

    def __enter__(self) -> "_Giving":
        self.rest = iter(self.kept)
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return next(self.rest).detach() if func is CONVOLUTION else func(*args, **(kwargs or {}))


@contextmanager
def _both(outer: AbstractContextManager, inner: AbstractContextManager) -> Iterator[None]:
    with outer, inner:
        yield
