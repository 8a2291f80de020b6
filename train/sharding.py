"""FSDP 2: of weights, gradients, optimizer states and average each process holds a share. All that a run asks of shards it asks here; where
every process holds the whole network, what it gets is what it came with.

`fully_shard` of torch does it, on CPUs as on GPUs. accelerate's own plugin is kept out of it: it is for GPUs alone, where no test sees it.
"""

import copy
import itertools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from train.config import RunConfig
from utils.errors import UserError

log = logging.getLogger("stereofoundry")

REQUEST = "ACCELERATE_USE_FSDP"  # in the environment, by accelerate's launcher
OTHERS = ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
UNSUPPORTED = {"offload_params": "true", "activation_checkpointing": "true", "reshard_after_forward": "false"}  # of `fsdp_config`
# Those that treat each value of a tensor by itself; others mix the values of a matrix, of which a process has some rows.
OPTIMIZERS = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
ON_CPU = hasattr(torch.cpu.Stream, "record_event")  # before torch 2.7 `fully_shard` is for GPUs alone
BLANK = "blank"  # of a network in shards: one of its kind that is not, whose parameters have no content


# ---- what the launch file asks for ------------------------------------------------------------------------------------------------------


def check_launch(config: RunConfig, precision: str) -> None:
    """Raises UserError for a way to split the network that is not this one, and for what does not go with it."""
    where = "accelerate's launch configuration asks for"
    instead = "use configs/accelerate/fsdp2.yaml, or another file there, with which each process holds the whole network"
    for name in OTHERS:
        if _flag(f"ACCELERATE_USE_{name}"):
            raise UserError(f"{where} {name}, and of the ways to split a network over processes FSDP 2 alone is known here; {instead}")
    if not _flag(REQUEST):
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(f"{where} FSDP {version}; expected fsdp_version: 2 in its fsdp_config; {instead}")
    for key, value in UNSUPPORTED.items():
        if os.environ.get(f"FSDP_{key.upper()}", "").lower() == value:
            more = ", as --enable_gradient_checkpointing does it" if key == "activation_checkpointing" else ""
            raise UserError(f"{where} fsdp_{key}: {value}, which is not done here; remove it from its fsdp_config{more}")
    if precision == "fp16":
        raise UserError("--precision fp16: its loss scaling is not done with FSDP; pass --precision bf16, which needs none")
    if config.compile.enabled:
        raise UserError("compile.enabled: a network that FSDP shards is not compiled; set it to false, or launch without FSDP")
    if (kind := config.optimizer.get("type")) in vars(torch.optim) and kind not in OPTIMIZERS:
        raise UserError(f"optimizer.type: {kind} is not for a network that FSDP shards; take one of {', '.join(OPTIMIZERS)}")


@contextmanager
def without_plugin() -> Iterator[None]:
    """What accelerate builds inside does not see that FSDP is asked for."""
    asked = os.environ.pop(REQUEST, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[REQUEST] = asked


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1", "yes")


# ---- shards -----------------------------------------------------------------------------------------------------------------------------


def shard(network: nn.Module, accelerator: Accelerator) -> None:
    """In place, where the launch file asks for it and there are processes to share with. Comes before the optimizer takes the parameters.

    The network's `units` are gathered one after another, when they run; all the rest is whole from the forward pass to the end of the
    backward pass, because it is also read outside the modules that it belongs to.
    """
    if not _flag(REQUEST) or accelerator.num_processes == 1:
        return
    if accelerator.device.type == "cpu" and not ON_CPU:
        raise UserError(
            f"FSDP: torch {torch.__version__} shards a network on GPUs alone, and none is visible; on a CPU, take torch 2.7 or newer"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for value in itertools.chain(network.parameters(), network.buffers()):  # all begin as the first, as with DDP
        torch.distributed.broadcast(value.detach(), 0)
    memo: dict[int, Any] = {id(value): _without_content(value) for value in network.parameters()}
    blank = copy.deepcopy(network, memo)  # now: afterwards torch refuses
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nobody changes an output in place
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in (*getattr(network, "units", ()), network):
        fully_shard(module, mesh=mesh)
    network.__dict__[BLANK] = blank  # past nn.Module, which would take it for a part of the network
    if accelerator.is_main_process:
        held, there = sum(map(share, network.parameters())), sum(value.numel() for value in network.parameters())
        log.info(
            "FSDP: %d processes share the network; each holds %s of its %s parameters", accelerator.num_processes, f"{held:,}", f"{there:,}"
        )


def prepare(accelerator: Accelerator, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    """As `accelerator.prepare`; a network in shards gets the precision and no DDP around it."""
    if BLANK not in vars(network):
        return accelerator.prepare(network, optimizer)
    model = accelerator.prepare_model(network, device_placement=False, evaluation_mode=True)
    return model, accelerator.prepare_optimizer(optimizer, device_placement=False)


def plain(network: nn.Module) -> nn.Module:
    """For its structure: `network`, or one of its kind whose parameters are whole and have no content."""
    return vars(network).get(BLANK, network)


def twin(network: nn.Module) -> nn.Module:
    """A deep copy. Of a network in shards it has shards of its own, and cannot run."""
    if BLANK not in vars(network):
        return copy.deepcopy(network)
    found = _filled(network, {key: value.detach().clone() for key, value in network.state_dict().items()})
    found.__dict__[BLANK] = plain(network)
    return found


def whole(network: nn.Module) -> nn.Module:
    """To run it, or to load weights into it: `network`, or a copy of one in shards with all of its tensors, which shares the buffers.

    All processes call this together, and each may then do with it what the others do not.
    """
    if BLANK not in vars(network):
        return network
    return _filled(network, {key: full(value) for key, value in network.state_dict().items()})


@torch.no_grad()
def take(network: nn.Module, found: nn.Module) -> None:
    """The parameters of `found`, which `whole` made of `network`, as those of `network`. All processes call this together."""
    if found is not network:
        for ours, theirs in zip(network.parameters(), found.parameters(), strict=True):
            local(ours).copy_(local(_scattered(theirs.detach(), ours)))


def full(value: Tensor) -> Tensor:
    """A tensor with all of its entries, on all processes, which call this together."""
    return value.full_tensor() if _in_shards(value) else value  # pyright: ignore[reportAttributeAccessIssue]


def gathered(state: Any) -> Any:
    """A state as it is saved, with whole tensors, which are on the CPU of the first process and None on the others, so that none holds
    them all on its GPU. All processes call this together."""
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value) for value in state)
    if not isinstance(state, Tensor) or not _in_shards(state):
        return state
    found = full(state.detach())
    return found.cpu() if torch.distributed.get_rank() == 0 else None


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """As `optimizer.load_state_dict`, with the errors of that. state: of whole tensors. All processes call this together."""
    values = [value for group in optimizer.param_groups for value in group["params"]]
    if any(map(_in_shards, values)):
        names = [name for group in state["param_groups"] for name in group["params"]]
        parameter_of = dict(zip(names, values, strict=False))  # of another number, torch says so below
        entries = {
            name: {key: _scattered(entry, parameter_of[name]) for key, entry in kept.items()} for name, kept in state["state"].items()
        }
        state = {**state, "state": entries}
    optimizer.load_state_dict(dict(state))


def local(value: Tensor) -> Tensor:
    """What this process holds of a tensor, where no graph is made: the tensor, or its shard, which shares the memory."""
    return value.to_local() if _in_shards(value) else value  # pyright: ignore[reportAttributeAccessIssue]


def share(value: Tensor) -> int:
    """How many entries of a tensor a process holds, at most: the same number on all."""
    if not _in_shards(value):
        return value.numel()
    rows = -(-value.shape[0] // value.device_mesh.size())  # pyright: ignore[reportAttributeAccessIssue]
    return rows * (value.numel() // value.shape[0])


def gathered_bytes(network: nn.Module) -> int:
    """What an update has whole for a time, at most, beside the shares: weights and gradients of one unit and of what is in none, and the
    weights of the next unit, which are gathered meanwhile."""
    if BLANK not in vars(network):
        return 0
    units = [list(unit.parameters()) for unit in getattr(network, "units", ())]
    inside = {id(value) for unit in units for value in unit}
    rest = [value for value in network.parameters() if id(value) not in inside]
    most = max((_bytes(unit) for unit in units), default=0)
    gradients = max((_bytes(value for value in unit if value.requires_grad) for unit in units), default=0)
    return _bytes(rest) + 2 * most + _bytes(value for value in rest if value.requires_grad) + gradients


def _bytes(values: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)


def _in_shards(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")  # a DTensor; importing the class takes a second of every start


def _without_content(value: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=value.requires_grad)


def _filled(network: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    found = copy.deepcopy(plain(network))  # with the buffers that are in no state dict
    found.load_state_dict(dict(state), assign=True)
    return found


def _scattered(value: Any, like: Tensor) -> Any:
    """In shards as those of `like`, where it is a tensor of that shape."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # pyright: ignore[reportAttributeAccessIssue]
