"""Lookups: `alt` against `reg`, both against a plain loop, and the reads at the border worked out by hand."""

import os
import subprocess
import sys

import pytest
import torch

from core import correlation
from core.correlation import VECTORISED, Lookup, Reader, Sources, halve, look, lookup_channels, pyramid, unit
from tests.conftest import ROOT


def features(height=3, width=16, channels=8, planes=16, volume=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(2, channels, height, width, generator=generator, dtype=dtype) for _ in range(2))
    cost = torch.randn(2, volume, planes, height, width, generator=generator, dtype=dtype)
    disparity = torch.rand(2, 1, height, width, generator=generator, dtype=dtype) * (width + 8) - 4  # some far outside
    return left, right, cost, disparity


def plain_lookup(left, right, cost, disparity, levels, radius):
    """The description read aloud: positions, linear interpolation, zero outside, channel order."""
    pairs = torch.einsum("bchx,bchs->bhxs", left, right)
    batch, volume, _, height, width = cost.shape
    out = torch.zeros(batch, lookup_channels(volume=volume, levels=levels, radius=radius), height, width, dtype=left.dtype)

    def read(line, position):
        low = int(torch.tensor(position).floor())
        at = [line[i] if 0 <= i < len(line) else 0.0 for i in (low, low + 1)]
        return at[0] * (1 - (position - low)) + at[1] * (position - low)

    for b in range(batch):
        for y in range(height):
            for x in range(width):
                d, channel = float(disparity[b, 0, y, x]), 0
                lines = [cost[b, v, :, y, x] for v in range(volume)] + [pairs[b, y, x]]
                for level in range(levels):
                    for index, line in enumerate(lines):
                        centre = (d if index < volume else x - d) / 2**level
                        for offset in range(-radius, radius + 1):
                            out[b, channel, y, x] = read(line, centre + offset)
                            channel += 1
                    lines = [line[: len(line) // 2 * 2].view(-1, 2).mean(1) for line in lines]
    return out


@pytest.mark.parametrize("implementation", ["reg", "alt"])
@pytest.mark.parametrize(("levels", "radius"), [(2, 4), (1, 1), (3, 2)])
def test_lookup_equals_a_plain_loop(implementation, levels, radius):
    left, right, cost, disparity = features()
    found = Lookup(left, right, cost, implementation=implementation, levels=levels, radius=radius)(disparity)
    expected = plain_lookup(left, right, cost, disparity, levels, radius)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", [16, 13])
def test_alt_equals_reg_with_gradients(width):
    results = []
    for implementation in ("reg", "alt"):
        left, right, cost, disparity = features(width=width, dtype=torch.float32)
        inputs = [tensor.requires_grad_() for tensor in (left, right, cost)]
        lookup = Lookup(left, right, cost, implementation=implementation, levels=2, radius=4)
        values = torch.cat([lookup(disparity), lookup(disparity / 2)])
        weights = torch.linspace(-1, 1, values.numel()).view_as(values)
        results.append([values.detach(), *torch.autograd.grad((values * weights).sum(), inputs)])
    for reg, alt in zip(*results, strict=True):
        torch.testing.assert_close(alt, reg, atol=1e-4, rtol=0)


def test_alt_gradient_is_the_numerical_one():
    left, right, cost, disparity = features(height=1, width=8, channels=3, planes=8, volume=1)
    inputs = tuple(tensor[:1].requires_grad_() for tensor in (left, right, cost))

    def value(left, right, cost):
        return Lookup(unit(left), unit(right), cost, implementation="alt", levels=2, radius=1)(disparity[:1])

    assert torch.autograd.gradcheck(value, inputs)


def test_samples_fade_out_at_the_border():
    rows = torch.tensor([2.0, 4.0, 6.0]).view(1, 3, 1, 1, 1)
    for position, expected in ((0.0, 2.0), (0.5, 3.0), (-0.5, 1.0), (-1.0, 0.0), (2.25, 4.5), (3.0, 0.0), (-7.0, 0.0), (1e6, 0.0)):
        at = torch.full((1, 1, 1), position)
        found = look(Sources([rows], [], []), 1, at, at)[0, 1, 0, 0]
        assert found == expected, position


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lookups_that_share_a_gradient_give_the_one_of_autograd(dtype):
    left, right, cost, disparity = features(planes=7, dtype=dtype)
    positions = [disparity.squeeze(1), disparity.squeeze(1) / 3, torch.full_like(disparity.squeeze(1), 2.0)]
    leaves = [tensor.requires_grad_() for tensor in (cost, left, right)]
    sources = Sources(pyramid(cost.permute(0, 2, 3, 4, 1).contiguous(), 1, 2), [left], pyramid(right, 3, 2))
    reader = Reader(sources, 2)
    found = torch.stack([reader(position, 9 - position) for position in positions])
    expected = torch.stack([look(sources, 2, position, 9 - position) for position in positions])
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    weights = torch.linspace(-1, 1, found.numel(), dtype=dtype).view_as(found)
    twins = torch.autograd.grad((expected * weights).sum(), leaves)
    for _ in range(2):  # a second backward pass begins anew
        gradients = torch.autograd.grad((found * weights).sum(), leaves, retain_graph=True)
        torch.testing.assert_close(gradients, twins, atol=1e-5 if dtype == torch.float32 else 1e-13, rtol=0)
        assert not reader.gradients
    parts = torch.autograd.grad((found[1] * weights[1]).sum(), leaves)
    assert all(0 < part.abs().sum() < twin.abs().sum() for part, twin in zip(parts, twins, strict=True))


def test_kernels_give_the_vectorised_numbers():
    """By Triton's interpreter, in a process of its own: it is chosen when Triton is imported."""
    pytest.importorskip("triton", minversion="3.6", reason="older interpreters do not run with numpy 2.4")
    code = (
        "import torch, core.correlation as c, core.correlation_triton as k\n"
        "forms = c.Forms(k.look, k.look_backward)\n"
        "c.check_forms(forms, torch.device('cpu'))\n"
        "try: c.check_forms(forms._replace(look=lambda *a: 1.01 * k.look(*a)), torch.device('cpu'))\n"
        "except AssertionError: print('checked')\n"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "checked", done.stderr[-2000:]


@pytest.mark.parametrize(("volume", "channels"), [(28, 224), (0, 224), (28, 0)])
def test_kernels_are_compiled_for_a_gpu_where_there_is_none(volume, channels, tmp_path, monkeypatch):
    """The interpreter takes what the compiler refuses, such as a name that changes its shape in a loop."""
    triton = pytest.importorskip("triton", minversion="3.6", reason="older ones compile by another interface")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from core import correlation_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"VOLUME": volume, "VOLUME_PADDED": max(triton.next_power_of_2(volume), 1), "CHANNELS": channels}
    sizes |= {"RADIUS": 4, "SAMPLES": 9, "SAMPLES_PADDED": 16, "BLOCK": kernels.BLOCK}
    whole = {"height", "width", "planes", "columns", "out_channels"}
    for kernel in (kernels._look, kernels._look_backward):
        kinds = {name: "constexpr" if name in sizes else "i32" if name in whole else "*fp32" for name in kernel.arg_names} | {
            "scale": "fp32"
        }
        values = {(kernel.arg_names.index(name),): value for name, value in sizes.items()}
        compiled = triton.compile(ASTSource(fn=kernel, signature=kinds, constexprs=values), target=GPUTarget("cuda", 90, 32))
        assert compiled.asm["cubin"]


def test_kernels_are_not_used_where_they_are_not_proven(monkeypatch):
    """On a device that Triton has no driver for, a warning, and the vectorised form."""
    correlation._proven_kernels.cache_clear()
    with pytest.warns(UserWarning, match="not done by Triton's kernels on cpu"):
        assert correlation._proven_kernels(torch.device("cpu")) is VECTORISED
    correlation._proven_kernels.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert correlation._proven_kernels(torch.device("cpu")) is VECTORISED
    correlation._proven_kernels.cache_clear()


def test_halving_takes_pairs_and_drops_an_odd_one():
    line = torch.tensor([1.0, 3.0, 5.0, 9.0, 100.0]).view(1, 5, 1)
    assert halve(line, 1).flatten().tolist() == [2.0, 7.0]
    assert [level.flatten().tolist() for level in pyramid(line, 1, 3)] == [[1, 3, 5, 9, 100], [2, 7], [4.5]]


def test_alt_keeps_no_volume_of_all_pairs():
    """Bytes kept for backward by one lookup: more than linear in the width for reg, linear for alt."""

    def kept(implementation, width):
        left, right, cost, disparity = features(height=2, width=width, volume=1, planes=8, dtype=torch.float32)
        left.requires_grad_()
        seen = {}

        def pack(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            lookup = Lookup(left, right, cost, implementation=implementation, levels=2, radius=4)
            lookup(disparity)
        for reader in filter(None, (lookup.reader, lookup.pairs)):
            seen |= {tensor.data_ptr(): tensor.nbytes for tensor in reader.sources.flat()}
        return sum(seen.values())

    assert kept("alt", 256) < 2.1 * kept("alt", 128)
    assert kept("reg", 256) > 2.5 * kept("reg", 128)


@pytest.mark.parametrize("implementation", ["reg", "alt"])
def test_lookup_stays_float32_under_autocast(implementation):
    left, right, cost, disparity = features(dtype=torch.float32)
    plain = Lookup(left, right, cost, implementation=implementation, levels=2, radius=4)(disparity)
    with torch.autocast("cpu", torch.bfloat16):
        cast = Lookup(left, right, cost, implementation=implementation, levels=2, radius=4)(disparity)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, atol=0, rtol=0)
