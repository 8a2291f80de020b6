"""Where numbers stop being finite: hooks for `--detect_anomaly`. What a run does about a gradient that is not finite is in `loop`.

Looking at every output waits for the device at every module, and a step takes many times as long: a switch for looking, not for training.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from train.sharding import full
from utils.errors import UserError, shorten

log = logging.getLogger("stereofoundry")


class AnomalyDetector:
    """Names the first module whose output is not finite, and then the parameters whose gradients are not."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.where = "before the first step"
        self._listed = False
        self.handles = [
            module.register_forward_hook(lambda module, inputs, output, name=name: self._look(name, module, inputs, output))
            for name, module in network.named_modules()
            if name
        ]

    def at(self, step: int, samples: Iterable[str]) -> None:
        """What the next forward pass is of, for the error."""
        self.where = f"step {step}, samples {shorten(samples)}"

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    @torch.no_grad()
    def _look(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """A module's hooks run after those of the modules inside it: the first to see it is the innermost."""
        bad = [value for value in _tensors(output) if not _finite(value)]
        if not bad:
            return
        known = [f"its {key} {statistics(value)}" for key, value in module.state_dict().items() if "." not in key and _numbers(value)]
        told = [f"output {statistics(bad[0])}", *(f"input {statistics(value)}" for value in _tensors(inputs)), *known]
        kind = type(module).__name__
        raise UserError(f"--detect_anomaly: {self.where}: the first output that is not finite is of {name} ({kind}): {'; '.join(told)}")

    def look_at_gradients(self) -> None:
        """After the backward pass: warns of parameters without a gradient, once, and names those whose gradient is not finite."""
        trainable = {name: value for name, value in self.network.named_parameters() if value.requires_grad}
        if not self._listed:
            self._listed = True
            if missing := [name for name, value in trainable.items() if value.grad is None]:
                log.warning("--detect_anomaly: %d trainable parameters got no gradient: %s", len(missing), shorten(missing))
        gradients = ((name, full(value.grad)) for name, value in trainable.items() if value.grad is not None)
        bad = [f"{name} {statistics(value)}" for name, value in gradients if not _finite(value)]
        if bad:
            log.warning("--detect_anomaly: %s: %d gradients are not finite: %s", self.where, len(bad), shorten(bad))


def statistics(value: Tensor) -> str:
    """Shape, range and mean of the finite values, and how many are not finite."""
    value = value.detach()
    finite = value[value.isfinite()].double()
    left_out = value.numel() - finite.numel()
    found = "nothing finite"
    if finite.numel():
        found = f"from {float(finite.min()):.3g} to {float(finite.max()):.3g}, mean {float(finite.mean()):.3g}"
    return f"{list(value.shape)}: {found}" + (f", {left_out} of {value.numel()} not finite" if left_out else "")


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _numbers(value: Tensor) -> bool:
    return value.is_floating_point() and value.numel() > 0


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors in what modules take and return: tensors, lists, tuples (also named ones) and dictionaries of them."""
    if isinstance(value, Tensor):
        return [value] if _numbers(value) else []
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []
