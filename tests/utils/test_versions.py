"""What a number was made with, and the memory it took."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.versions import versions

ROOT = Path(__file__).resolve().parents[2]


def test_versions_name_what_can_change_a_number():
    found = versions()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["python"].count(".") == 2 and found["commit"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak can be reset on Linux only")
def test_the_peak_begins_anew():
    """In a process of its own: what other tests left in this one would hide it."""
    program = """
import numpy as np, torch
from utils.versions import peak_memory_gib, reset_peak_memory
cpu = torch.device("cpu")
np.ones(2**26).sum()  # 0.5 GiB, given back at once
before = peak_memory_gib(cpu)
reset_peak_memory(cpu)
after = peak_memory_gib(cpu)
np.ones(2**26).sum()
print(before, after, peak_memory_gib(cpu))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    before, after, again = map(float, done.stdout.split())
    assert after < before - 0.4 and again > after + 0.4
