"""What ends a run though neither its input nor this program is wrong: a process that is gone, memory that is full, a compiler that fails.
Each becomes one line that says how to go on; everything else keeps its traceback.
"""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import UserError

CONTINUE = "continue with --checkpoint latest"
RUNS_COMPILED = re.compile(r"torch/(_functorch/_aot_autograd|_inductor)/")  # files of torch that only a compiled network passes through


@contextmanager
def explained() -> Iterator[None]:
    """Raises UserError in place of the errors that `explain` knows."""
    try:
        yield
    except Exception as error:  # the code that a compiler made raises any
        line = explain(error)
        if line is None:
            raise
        raise UserError(line) from None


def explain(error: Exception) -> str | None:
    """One line for a failure of the machine; None for any other error."""
    if lost_process(error):
        return (
            f"another process of this run is gone or does not answer ({reason(error)}); what it said last tells why; {CONTINUE}; how long "
            "processes wait for one another is said by --collective_timeout_s"
        )
    if out_of_memory(error):
        return (
            f"not enough memory ({reason(error)}); lower --batch_size_forward and raise --gradient_accumulation_steps by as much, which "
            "trains on the same samples, or take --enable_gradient_checkpointing true, --precision bf16 or smaller data.image_sizes; "
            f"{CONTINUE}"
        )
    if compiler_failed(error):
        return f"compile: torch.compile failed ({reason(error)}); set compile.enabled to false, or install a C++ compiler"
    return None


def lost_process(error: Exception) -> bool:
    """What a collective raises where another process closed its connection or let the time-out pass. gloo's errors have no class."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "/gloo/transport/" in str(error))


def out_of_memory(error: Exception) -> bool:
    """On a GPU, on a CPU (torch's own allocator raises a plain RuntimeError), or in Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def compiler_failed(error: Exception) -> bool:
    """Whatever torch.compile raises at the first step of a size: tracing, code generation, a C++ compiler that is not there; and what its
    code raises when it runs. The backend "eager" runs the program's own operations, and their errors are the program's."""
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, torch._dynamo.exc.TorchDynamoException) or any(RUNS_COMPILED.search(file) for file in files)


def reason(error: Exception) -> str:
    """The beginning of an error's text in one line, without the place in torch's source."""
    text = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())) or type(error).__name__
    return text.partition(". This is typically")[0][:200]
