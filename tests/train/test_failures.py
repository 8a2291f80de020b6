"""What the machine does to a run is one line; what the program does keeps its traceback."""

from contextlib import nullcontext

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from train.compilation import plain
from train.failures import explained
from utils.errors import UserError

GLOO = "[/build/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:580. This is typically caused by a remote worker"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(GLOO), r"^another process .* \(Connection closed by peer \[127\.0\.0\.1\]:580\);.*--checkpoint latest"),
        (RuntimeError("[/a/gloo/transport/tcp/x.cc:7] Timed out waiting 8000ms for recv"), r"\(Timed out waiting 8000ms for recv\)"),
        (torch.distributed.DistBackendError("NCCL error\nin: x.cpp"), r"another process .* \(NCCL error in: x.cpp\).*_timeout_s$"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), r"not enough memory \(CUDA.*--batch_size_forward"),
        (RuntimeError("[enforce fail at alloc.cpp:1] DefaultCPUAllocator: can't allocate memory: you"), "not enough memory"),
        (MemoryError(), r"not enough memory \(MemoryError\)"),
        (torch._dynamo.exc.TorchDynamoException("no\ncompiler"), r"torch.compile failed \(no compiler\); set compile.enabled to false"),
    ],
)
def test_what_ends_a_run_from_outside_is_one_line(error, said):
    with pytest.raises(UserError, match=said), explained():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("gloo"), UserError("data: x"), KeyboardInterrupt()])
def test_everything_else_goes_through(error):
    with pytest.raises(type(error)) as found, explained():
        raise error
    assert found.value is error


def fails(graph, inputs):
    """What a compiler made, and fails when it runs."""

    def run(*args):
        raise AssertionError("expected stride 1==128")

    return make_boxed_func(run)


def runs(graph, inputs):
    return make_boxed_func(graph.forward)


@pytest.mark.parametrize("compilers", [(fails, runs), (runs, fails)], ids=["forward", "backward"])
def test_a_compiled_network_that_fails_when_it_runs_is_one_line(compilers):
    torch._dynamo.reset()
    network = torch.nn.Linear(2, 2)
    network.compile(backend=aot_autograd(fw_compiler=compilers[0], bw_compiler=compilers[1]))
    with pytest.raises(UserError, match=r"torch.compile failed \(expected stride 1==128\); set compile.enabled to false"), explained():
        network(torch.ones(1, 2)).sum().backward()


class Wrong(torch.nn.Module):
    def forward(self, x):
        return x[x.long()]


@pytest.mark.parametrize("backend", ["aot_eager", "eager"])
def test_what_fails_in_a_network_that_is_not_compiled_goes_through(backend):
    """Where it runs as it is written, or `eager` compiles nothing of it."""
    torch._dynamo.reset()
    network = Wrong()
    network.compile(backend=backend)
    assert network(torch.zeros(2)).shape == (2,)
    with pytest.raises(IndexError), explained(), plain() if backend == "aot_eager" else nullcontext():
        network(torch.full((2,), 5.0))
