"""A workspace that another process holds, as another run would."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.preflight import claim_workspace


@contextmanager
def claimed_by_another_process(workspace: Path) -> Iterator[tuple[int, int]]:
    """(process, a loading process that it has forked), both asleep. Afterwards the first was killed; the second outlives it."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        kept = claim_workspace(workspace)
        loading = os.fork()
        if loading:
            os.write(writer, f"{loading}\n".encode())
        time.sleep(120)
        os._exit(not kept)
    loading = int(os.read(reader, 20))
    try:
        yield process, loading
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reader)
        os.close(writer)
