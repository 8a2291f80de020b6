"""What is kept beside the weights of a network: their moving average, and the statistics of the last good update.

When either is taken or used is the loop's decision.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from train.sharding import local, twin


class Ema:
    """Averaged copy of a network: average <- decay * average + (1 - decay) * weights.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not an average of its random start.
    Buffers (batch-norm statistics) are copied: they are averages already. `num_updates` is part of the state; without it a resumed run
    would begin its warm-up again and throw the average away.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.module = twin(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages, values = ([local(value) for value in module.parameters()] for module in (self.module, model))
        torch._foreach_lerp_(averages, values, 1 - decay)
        copy_all(self.module.buffers(), model.buffers())

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.module.state_dict(), "num_updates": self.num_updates}


class LastStatistics:
    """The buffers of a network (batch-norm statistics) as they were after the last update that was taken.

    A forward pass changes them before anybody knows whether its gradient is finite: without this a single overflow would leave NaN in the
    running statistics, harmless in training and fatal in every evaluation after it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._saved = [value.detach().clone() for value in model.buffers()]

    def keep(self) -> None:
        copy_all(self._saved, self._model.buffers())

    def restore(self) -> None:
        copy_all(self._model.buffers(), self._saved)


@torch.no_grad()
def spread_statistics(model: nn.Module) -> None:
    """The buffers of the first process on all, which call this together: in a checkpoint are those of the first alone."""
    if not torch.distributed.is_initialized():
        return
    buffers = list(model.buffers())
    for kind in dict.fromkeys(buffer.dtype for buffer in buffers):  # in the same order on all, which a set has not
        same = [buffer for buffer in buffers if buffer.dtype == kind]
        flat = torch.cat([buffer.flatten() for buffer in same])  # one message, not one for each
        torch.distributed.broadcast(flat, 0)
        copy_all(same, [part.view_as(buffer) for part, buffer in zip(flat.split([b.numel() for b in same]), same, strict=True)])


@torch.no_grad()
def copy_all(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Each source into its target, of the same shape and type: one kernel per type instead of one per tensor."""
    by_type: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for pair in zip(targets, sources, strict=True):
        by_type.setdefault(pair[0].dtype, []).append(pair)
    for pairs in by_type.values():
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
