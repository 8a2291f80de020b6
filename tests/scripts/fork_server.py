"""Starts training commands without their seconds of imports; no test of its own. Each is a process, in a group of its own.

Reads a folder and the arguments as one JSON list a line; answers `started ID` and, when the process has ended, `ended STATUS`.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

import train.loop  # what every command would import
import train.run
from scripts.train import main

assert train.loop and train.run
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        folder, *arguments = json.loads(line)
        os.chdir(folder)
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        main(arguments)
    with contextlib.suppress(OSError):  # the child may have done it, or be gone
        os.setpgid(child, child)
    sys.stdout.write(f"started {child}\n")
    sys.stdout.flush()
    sys.stdout.write(f"ended {os.waitpid(child, 0)[1]}\n")
    sys.stdout.flush()
