"""What a number was made with, and the memory it took."""

import sys

import numpy as np
import pytest
import torch

from utils.versions import peak_memory_gib, reset_peak_memory, versions

CPU = torch.device("cpu")


def test_versions_name_what_can_change_a_number():
    found = versions()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["python"].count(".") == 2 and found["commit"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak can be reset on Linux only")
def test_the_peak_begins_anew():
    np.ones(2**26).sum()  # 0.5 GiB, given back at once
    before = peak_memory_gib(CPU)
    reset_peak_memory(CPU)
    after = peak_memory_gib(CPU)
    assert after < before - 0.3
    np.ones(2**26).sum()
    assert peak_memory_gib(CPU) > after + 0.3
