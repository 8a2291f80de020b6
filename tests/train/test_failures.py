"""What the machine does to a run is one line; what the program does keeps its traceback."""

import pytest
import torch

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
