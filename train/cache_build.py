"""Filling a cache ahead of the runs that use it, by several processes. What an entry is, and reading it, is in `datasets.cache`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader, Dataset

from train.config import RunConfig
from train.dataloader import quiet_signals, start_worker
from train.datasets import SampleError
from train.datasets.cache import Cached, CacheMiss
from train.sources import Source, open_sources
from utils.errors import UserError


def cached_sources(config: RunConfig) -> list[Source]:
    """The data sets of a run that are read through a cache, of the mixture and of the validation. UserError where there is none."""
    kept, held = open_sources(config)
    found = [source for source in (*kept, *held) if isinstance(source.dataset, Cached)]
    if not found:
        raise UserError(
            'no data set has a cache; add "cache": {"root": FOLDER, "size": [width, height]} to data, or --set data.cache.root=FOLDER'
        )
    return found


@dataclass
class Built:
    """What a build found and did: samples that were there, that were stored, that could not be read (with the reason); bytes of all."""

    present: int = 0
    stored: int = 0
    broken: list[str] = field(default_factory=list)
    bytes: int = 0


def build_cache(source: Source, *, workers: int, verify: bool = False, progress: Callable[[], Any] = lambda: None) -> Built:
    """Store what is not there, or not right any more, of a source's samples. May be stopped and started again, also twice at a time.

    verify: read every entry and every source file, and compare their content. progress: called after each sample.
    Raises UserError where the cache cannot be written, and where the system has killed a process.
    """
    cached, built = source.dataset, Built()
    assert isinstance(cached, Cached), source.name
    loader = DataLoader(
        _Build(cached, verify),
        batch_size=None,
        sampler=[int(i) for i in source.indices],
        num_workers=workers,
        worker_init_fn=start_worker,
        prefetch_factor=8 if workers else None,
    )
    try:
        with quiet_signals():
            results = iter(loader)
        for done, size, problem in results:
            if done == "failed":
                raise UserError(f"cache {cached.folder}: cannot be written ({problem}); {built.stored} samples were stored before")
            built.present += done == "present"
            built.stored += done == "stored"
            built.bytes += size
            if done == "broken":
                built.broken.append(problem)
            progress()
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"{str(error).splitlines()[0]}: run again with fewer --workers; what is stored is kept") from None
    return built


class _Build(Dataset):
    """Index -> (what was done, bytes of the entry, what went wrong)."""

    def __init__(self, cached: Cached, verify: bool) -> None:
        self._cached, self._verify = cached, verify

    def __getitem__(self, i: int) -> tuple[str, int, str]:
        done, path = "present", self._cached.entry(i)
        try:
            try:
                self._cached.check(i, content=self._verify)
            except CacheMiss:
                self._cached.build(i)
                done = "stored"
            return done, path.stat().st_size, ""
        except SampleError as error:
            return "broken", 0, str(error)
        except OSError as error:
            return "failed", 0, error.strerror or str(error)
