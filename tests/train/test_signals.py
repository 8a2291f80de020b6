"""Signals that end a run: noted and not obeyed at once, known to all processes, and no business of the loading processes."""

import json
import os
import signal

import pytest
import torch

from tests.scripts.tiny import TINY
from train.run import Options, build_data
from train.run_file import load_config
from train.signals import STOPPING, StopSignals


class Processes:
    """What `spread` needs of accelerate: a sum over processes that are not there."""

    device = torch.device("cpu")

    def __init__(self, told):
        self.told, self.num_processes = told, 1 + len(told)

    def reduce(self, mine, how):
        assert how == "sum"
        return mine + sum(self.told)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_noted_and_the_handlers_come_back(number, capfd):
    before = [signal.getsignal(each) for each in STOPPING]
    with StopSignals() as stop:
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        assert stop.agreed() and stop.received == number
    assert [signal.getsignal(each) for each in STOPPING] == before
    assert f"{signal.Signals(number).name}: the run ends after this step" in capfd.readouterr().err


def test_only_a_second_interrupt_ends_at_once():
    with StopSignals() as stop:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_several_processes_stop_when_any_was_told_before_the_step():
    stop = StopSignals()
    stop.spread(Processes([0, 0]))
    assert not stop.agreed()
    stop.received = signal.SIGUSR1  # in the middle of a step the others do not know it
    assert not stop.agreed()
    stop.spread(Processes([0, 0]))
    assert stop.agreed()
    other = StopSignals()
    other.spread(Processes([0, 1]))
    assert other.agreed()


def test_loading_processes_outlive_the_signals_of_their_group_and_end_with_the_loader(tmp_path):
    from train.dataloader import TrainLoader

    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    config = load_config(tmp_path / "tiny.json", ["data.prefetch=1"])
    mix, _ = build_data(config, Options(tmp_path))
    loader = TrainLoader(mix, config.data, first_step=0, steps=20, batch=1, accumulate=1, rank=0, ranks=1, workers=1)
    (worker,) = loader._batches._workers
    list(loader.batches(0))  # it has started
    for number in STOPPING:
        os.kill(worker.pid, number)
    for step in range(1, 5):
        list(loader.batches(step))
    assert worker.is_alive() and loader.restarts == 0
    loader.close()
    assert not worker.is_alive()
