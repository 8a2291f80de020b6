"""The published network's numbers, array by array. What is compared and how closely is in `golden.py`."""

import pytest
import torch
from torch import nn

from tests.conftest import SHARED
from tests.core.golden import FLOAT32, FLOAT64, check_golden, filled_model

pytestmark = pytest.mark.data
FILE = "golden_vits.npz"


@pytest.fixture(scope="module")
def filled() -> nn.Module:
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED.name}/ beside the project")
    return filled_model(SHARED / "reference", "vits", seed=0)


@pytest.mark.parametrize(("implementation", "parts"), [("alt", "abht"), ("reg", "a")])
def test_float32_gives_the_published_numbers(filled, implementation, parts):
    filled.correlation_implementation = implementation
    check_golden(SHARED / "reference" / FILE, "vits", parts=parts, model=filled, gates=FLOAT32)


@pytest.mark.parametrize(("implementation", "parts"), [("alt", "h"), ("reg", "h")])
def test_float64_gives_the_published_numbers(filled, implementation, parts):
    filled.correlation_implementation = implementation
    try:
        check_golden(SHARED / "reference" / FILE, "vits", parts=parts, model=filled.double(), gates=FLOAT64)
    finally:
        filled.float()


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["alt", "reg"])
def test_float64_gives_every_published_number(filled, implementation):
    filled.correlation_implementation = implementation
    try:
        check_golden(SHARED / "reference" / FILE, "vits", model=filled.double(), gates=FLOAT64)
    finally:
        filled.float()


@pytest.mark.parametrize("variant", ["raft_stereo", "crestereo"])
def test_lighter_networks_give_every_published_number(shared, variant):
    """In float64, and RAFT-Stereo with `reg` and with `alt`."""
    check_golden(shared / "reference" / f"golden_{variant}.npz", variant)


@pytest.mark.parametrize("variant", ["raft_stereo", "crestereo"])
def test_lighter_networks_give_them_in_float32(shared, variant):
    model = filled_model(shared / "reference", variant, seed=0)
    check_golden(shared / "reference" / f"golden_{variant}.npz", variant, model=model)
    with torch.no_grad():
        model.update.flow_head[2].bias += 1e-3
    with pytest.raises(AssertionError, match="delta_update1"):
        check_golden(shared / "reference" / f"golden_{variant}.npz", variant, model=model)


def test_a_wrong_network_is_found_out(filled):
    """The check itself is checked."""
    with torch.no_grad():
        filled.update.disparity_head[4].bias += 1e-1
    try:
        with pytest.raises(AssertionError, match="final_disp"):
            check_golden(SHARED / "reference" / FILE, "vits", parts="h", model=filled, gates=FLOAT32)
    finally:
        with torch.no_grad():
            filled.update.disparity_head[4].bias -= 1e-1
