"""Lists of data sets to measure on, with their protocols: files of `configs/eval`, or of the user's. Scoring is in `scores`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from train.augment.spatial import resize
from train.config import DataConfig, DatasetEntry, Section
from train.datasets import DATASETS
from train.run_file import ROOT, apply_override
from train.sample import StereoSample
from train.scores import Protocol
from train.sources import Source, build_sources
from utils.errors import UserError, did_you_mean
from utils.files import read_config
from utils.registry import explain

FOLDER = ROOT / "configs" / "eval"


class SuiteEntry(DatasetEntry):
    """A data set of a suite: an entry as in a run file, and what is counted on it."""

    protocol: Protocol | None = None
    """What differs from the suite's protocol."""


class Suite(Section):
    """What is measured on, and how."""

    description: str = ""
    """For people."""
    protocol: Protocol = Protocol()
    """Of all data sets that do not name their own."""
    datasets: list[SuiteEntry] = Field(min_length=1)
    """Measured one after the other."""

    @field_validator("datasets")
    @classmethod
    def _names(cls, entries: list[SuiteEntry]) -> list[SuiteEntry]:
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"two data sets are called '{next(name for name in names if names.count(name) > 1)}'; give each its own name")
        return entries


@dataclass(frozen=True)
class Task:
    """One image of a suite. name: what it is called in results, unique in the suite."""

    name: str
    source: Source
    index: int
    protocol: Protocol

    def load(self) -> StereoSample:
        """The image at the resolution of the protocol. Raises `SampleError` as the data set does."""
        sample, size = self.source.dataset.load(self.index), self.protocol.resolution
        return sample if size == "native" else resize(sample, size)


def load_suite(name: str) -> Suite:
    """A file, or the name of one in `configs/eval` with or without its ending. Raises UserError in one line."""
    path = Path(name)
    found = next((file for file in (path, FOLDER / path, FOLDER / f"{name}.json") if file.is_file()), None)
    if found is None:
        shipped = [file.stem for file in FOLDER.glob("*.json")]
        raise UserError(f"--suite {name}: no such file, here or in configs/eval{did_you_mean(name, shipped)}")
    try:
        suite = Suite(**read_config(found))
    except ValidationError as error:
        raise UserError(explain(error, Suite, f"{found}:")) from None
    except TypeError:
        raise UserError(f"{found}: the keys at the top must be words; known: {', '.join(Suite.model_fields)}") from None
    for i, entry in enumerate(suite.datasets):
        where = f"{found}: datasets[{i}]"
        DATASETS.find(entry.type, f"{where}.type")
        DATASETS.check(entry.type, entry.params, f"{where}.params")
    return suite


def open_suite(suite: Suite, data_root: Path | None) -> list[Task]:
    """Every image of the suite. data_root: where relative paths start, in place of $STEREOFOUNDRY_DATA.

    Raises UserError for a data set that is not there.
    """
    root = None if data_root is None else str(data_root)
    whole = [entry.model_copy(update={"weight": 1.0, "steps": None}) for entry in suite.datasets]  # what is measured is measured once
    data = DataConfig(datasets=[*whole], image_sizes=[(32, 32)], stereo_augmentation=False, root=root)  # sizes are native
    sources, _ = build_sources(whole, data, "datasets", part="all")
    several = len(sources) > 1
    tasks = []
    for entry, source in zip(whole, sources, strict=True):
        protocol = suite.protocol
        if entry.protocol is not None:
            protocol = protocol.model_copy(update={name: getattr(entry.protocol, name) for name in entry.protocol.model_fields_set})
        for index in source.indices:
            key = source.dataset.key(int(index))
            tasks.append(Task(f"{source.name}/{key}" if several else key, source, int(index), protocol))
    return tasks


def first_of_each(tasks: list[Task], count: int) -> list[Task]:
    """At most `count` images of each data set, evenly spread."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.source.name, []).append(task)
    return [group[len(group) * k // min(count, len(group))] for group in groups.values() for k in range(min(count, len(group)))]


def model_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """`--set model.key=value` as keys of the model section. Raises UserError for another section."""
    content: dict[str, Any] = {}
    for override in overrides:
        apply_override(content, override)
    if other := sorted(content.keys() - {"model"}):
        raise UserError(f"--set {other[0]}: only keys of the network can be changed here, as in --set model.disparity_attention=heads")
    changes = content.get("model", {})
    if not isinstance(changes, dict):
        raise UserError(f"--set model={changes!r}: expected a key of the network, as in --set model.disparity_attention=heads")
    return changes
