"""The average of the weights, its warm-up and its state."""

import copy

import torch
from torch import nn

from train.ema import Ema, LastStatistics, spread_statistics


def test_the_average_is_worked_out_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    ema = Ema(model, decay=0.3)
    model.weight.data.fill_(1.0)
    ema.update(model)  # decay (1 + 1) / (10 + 1) = 2/11, below 0.3
    torch.testing.assert_close(ema.module.weight.item(), 9 / 11, rtol=1e-6, atol=0)
    ema.update(model)  # 3/12
    torch.testing.assert_close(ema.module.weight.item(), 9 / 11 * 0.25 + 0.75, rtol=1e-6, atol=0)
    for _ in range(50):
        ema.update(model)
    model.weight.data.fill_(2.0)
    before = ema.module.weight.item()
    ema.update(model)  # warmed up: 0.3
    torch.testing.assert_close(ema.module.weight.item(), before * 0.3 + 2 * 0.7, rtol=1e-6, atol=0)


def test_statistics_are_copied_and_the_average_stays_in_evaluation_mode():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    ema = Ema(model, 0.9)
    model(torch.randn(4, 1, 8, 8))
    ema.update(model)
    assert torch.equal(ema.module[1].running_mean, model[1].running_mean)
    assert ema.module[1].num_batches_tracked == 1
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())


def test_a_restored_average_goes_on_as_if_nothing_had_happened(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    ema, weights = Ema(model, 0.9), torch.randn(8, 3, 3)
    for value in weights[:4]:
        model.weight.data.copy_(value)
        ema.update(model)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    again = Ema(nn.Linear(3, 3), 0.9)
    state = torch.load(tmp_path / "ema.pt", weights_only=True)
    again.module.load_state_dict(state["model"])
    again.num_updates = state["num_updates"]
    for value in weights[4:]:
        model.weight.data.copy_(value)
        ema.update(model)
        again.update(model)
    assert torch.equal(ema.module.weight, again.module.weight)


def test_the_update_in_few_kernels_is_the_plain_one_bit_for_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(5, 7))
    ema, plain = Ema(model, 0.9), copy.deepcopy(model)
    for step in range(1, 5):
        for value in (*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())):
            value.data.copy_(torch.randn_like(value))
        model[1].num_batches_tracked += step
        ema.update(model)
        for average, value in zip(plain.parameters(), model.parameters(), strict=True):
            average.data.lerp_(value, 1 - min(0.9, (1 + step) / (10 + step)))
        plain[1].load_state_dict({**plain[1].state_dict(), **dict(model[1].named_buffers())})
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in ema.module.state_dict().items())


def test_kept_statistics_come_back_whole():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(4))
    statistics = LastStatistics(model)
    model[0].running_mean.fill_(2.0)
    model[1].num_batches_tracked.fill_(7)
    statistics.keep()
    kept = {name: value.clone() for name, value in model.named_buffers()}
    for value in model.buffers():
        value.zero_()
    statistics.restore()
    assert all(torch.equal(value, kept[name]) for name, value in model.named_buffers())


def test_statistics_are_sent_in_the_same_order_by_all_processes(monkeypatch):
    """One message per type, in the order of the network, which all processes share; that of a set is each process's own."""
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    before = [value.clone() for value in network.buffers()]
    sent = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed, "broadcast", lambda flat, source: sent.append((flat.dtype, flat.numel(), source)) or flat.add_(1)
    )
    spread_statistics(network)
    assert sent == [(torch.float32, 12, 0), (torch.int64, 2, 0)]
    assert all(torch.equal(value, old + 1) for value, old in zip(network.buffers(), before, strict=True))
