"""An exponential moving average of the weights, and its state. When it is updated is the loop's decision."""

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
