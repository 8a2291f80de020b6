"""What is kept beside the weights of a network: their moving average, and the statistics of the last good update.

When either is taken or used is the loop's decision.
"""

import copy
from typing import Any

import torch
from torch import nn


class Ema:
    """Averaged copy of a network: average <- decay * average + (1 - decay) * weights.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not an average of its random start.
    Buffers (batch-norm statistics) are copied: they are averages already. `num_updates` is part of the state; without it a resumed run
    would begin its warm-up again and throw the average away.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages = list(self.module.parameters())
        torch._foreach_lerp_(averages, [value.detach() for value in model.parameters()], 1 - decay)
        for average, value in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(value)

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

    @torch.no_grad()
    def keep(self) -> None:
        for saved, value in zip(self._saved, self._model.buffers(), strict=True):
            saved.copy_(value)

    @torch.no_grad()
    def restore(self) -> None:
        for saved, value in zip(self._saved, self._model.buffers(), strict=True):
            value.copy_(saved)
