"""The whole run as pydantic models: defaults, a docstring per field, every check of a section by itself. What a part's own parameters
are is stated where the part is registered (networks, losses, data sets, augmentations). How a file becomes a run is in `run_file`.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from train.losses import LossTerm
from train.metrics import METRICS, POSE_MSE
from utils.errors import UserError, did_you_mean


class Section(BaseModel):
    """Common rules: unknown keys are refused, nothing changes after reading, field docstrings become descriptions in the JSON schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


DATA_VARIABLE = "STEREOFOUNDRY_DATA"
Size = tuple[Annotated[int, Field(gt=0, le=16384)], Annotated[int, Field(gt=0, le=16384)]]


class CacheConfig(Section):
    """Decoded and resized samples on a fast disk; filled by `scripts/build_cache.py`, or while runs read. See `train.datasets.cache`."""

    root: str | None = None
    """Its folder; `~` and `$VARIABLE` are expanded, relative paths start where the command runs. Any number of runs may share one."""
    size: Size | None = None
    """(width, height) that samples are stored at, whatever their shape; disparity follows the width. None stores them as they are."""
    require: bool = False
    """End with an error where a sample is missing, out of date or damaged, instead of loading and storing it."""
    enabled: bool = True
    """false in a data set's own `cache`: read this one from its files."""

    def folder(self, where: str) -> Path:
        """Raises UserError for a root that is not given, or a variable in it that is not set."""
        if self.root is None:
            raise UserError(f"{where}.root: not given; name a folder on a fast disk, or set enabled to false")
        return Path(expand(self.root, f"{where}.root"))


class DatasetEntry(Section):
    """One data set of the mixture or of the validation."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w.-]+$")
    """What it is called in metrics and logs."""
    type: str = "fsd"
    """How it is laid out and read: a registered data set type."""
    path: str | None = None
    """Its folder; `~` and `$VARIABLE` are expanded, relative paths start from `data.root`. None for data sets without files."""
    weight: float = Field(1.0, ge=0)
    """Share of the samples, relative to the other weights."""
    steps: int | None = Field(None, gt=0)
    """Share of the samples, as so many of the run's steps: CREStereo's recipe is 264000, 18000 and 18000 steps of its data sets. All data
    sets have it, or none; it takes the place of `weight`, and samples are drawn in these proportions from the first step on."""
    label_type: str = "stereo"
    """Which losses its samples get: a key of `loss`."""
    image_augmentation: list[str | dict[str, Any]] | None = None
    """Photometric augmentations by name, or as {"name": ..., parameters}; None takes `data.image_augmentation`."""
    stereo_augmentation: bool | dict[str, Any] | None = None
    """Scale, crop and flips: true for the defaults, false for a centred crop, or their options; None takes `data.stereo_augmentation`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the data set type."""
    list_file: str | None = None
    """Only the samples whose keys stand in this file, one a line. A relative path starts at, and stays inside, the data set's folder."""
    max_samples: int | None = Field(None, gt=0)
    """At most so many samples, chosen by a hash of their keys."""
    val_fraction: float | None = Field(None, ge=0, lt=1)
    """Share that is held back, in place of `validation.fraction`; the same choice wherever the same share is named."""
    part: Literal["all", "train", "val"] | None = None
    """The samples that are not held back (train), those that are (val), or all. None: of the mixture those that the validation does not
    take, and `train` where `val_fraction` is given; in the validation all."""
    cache: CacheConfig | None = None
    """What differs from `data.cache`; in the validation, which reads whole images otherwise, a cache of its own."""

    @property
    def share(self) -> float:
        """Of the samples, relative to the other data sets."""
        return self.weight if self.steps is None else self.steps

    def folder(self, where: str, root: str | None = None) -> Path | None:
        """Its folder: `path` below `root` (the configuration's `data.root`), else below $STEREOFOUNDRY_DATA, else where the command runs.

        Raises UserError for a variable that is not set.
        """
        if self.path is None:
            return None
        start = os.environ.get(DATA_VARIABLE, "") if root is None else expand(root, "data.root")
        return Path(start, expand(self.path, f"{where}.path"))


def expand(path: str, where: str) -> str:
    """The path with `~` and variables filled in. Raises UserError for a variable that is not set."""
    filled = os.path.expanduser(os.path.expandvars(path))
    if unset := re.search(r"\$\{?(\w+)", filled):
        raise UserError(f"{where}: '{path}' needs the environment variable {unset[1]}, which is not set")
    return filled


class DataConfig(Section):
    """What is trained on."""

    datasets: list[DatasetEntry] = Field(min_length=1)
    """The weighted mixture."""
    root: str | None = None
    """Where relative paths of data sets start. None: at the environment variable STEREOFOUNDRY_DATA, or, without it, where the command
    runs."""
    image_sizes: list[Size] = Field(min_length=1)
    """(width, height) of the crops; one is drawn per step, the same on all processes."""
    max_disparity: float | None = Field(None, gt=0)
    """Ground truth beyond it, in pixels of the crop, is masked out. None takes the network's `max_disp`."""
    image_augmentation: list[str | dict[str, Any]] = Field(default_factory=list)
    """Photometric augmentations of all data sets that do not name their own."""
    stereo_augmentation: bool | dict[str, Any] = True
    """Geometric augmentation of all data sets that do not name their own."""
    workers: int | None = Field(None, ge=0, le=256)
    """Loading processes per training process; None takes one per core that is free for it, at most 8; 0 loads in the training process."""
    prefetch: int = Field(4, ge=1, le=64)
    """Micro-batches that each worker prepares ahead."""
    max_broken: int = Field(100, ge=0)
    """Samples that may turn out unreadable, each replaced by another, before a training process ends with their list."""
    cache: CacheConfig | None = None
    """Decoded and resized samples on a fast disk, for all data sets of the mixture."""

    def cache_of(self, entry: DatasetEntry) -> CacheConfig | None:
        """The cache of a data set of the mixture: its own settings over the common ones."""
        if entry.cache is None or self.cache is None:
            return entry.cache or self.cache
        return self.cache.model_copy(update={name: getattr(entry.cache, name) for name in entry.cache.model_fields_set})

    @field_validator("datasets")
    @classmethod
    def _mixture(cls, entries: list[DatasetEntry]) -> list[DatasetEntry]:
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"two data sets are called '{next(name for name in names if names.count(name) > 1)}'; give each its own name")
        if not any(entry.weight > 0 for entry in entries):
            raise ValueError("no data set has a weight above 0")
        counted = [entry for entry in entries if entry.steps is not None]
        if counted and len(counted) < len(entries):
            without = next(entry.name for entry in entries if entry.steps is None)
            raise ValueError(f"'{counted[0].name}' has steps and '{without}' has none; give steps to all of them, or weights")
        if weighted := [entry.name for entry in counted if entry.weight != 1]:
            raise ValueError(f"'{weighted[0]}' has steps and a weight; steps take the place of weights")
        return entries


class EmaConfig(Section):
    """The averaged weights that validation and the `_ema.pt` checkpoint use."""

    decay: float = Field(0.999, ge=0, lt=1)
    """Share of the old average kept at each update, after a warm-up of (1 + n) / (10 + n)."""


class ValidationConfig(Section):
    """Measuring on held samples while training, with the averaged weights."""

    every: int = Field(1000, ge=0)
    """Steps between two validations, 0 for none. One more runs after the last step."""
    at_start: bool = True
    """Validate before the first step as well: the number to improve on, and a fault in the validation shows now and not after hours."""
    fraction: float = Field(0.05, ge=0, lt=1)
    """Share of every training data set that is held back when `datasets` is empty, chosen by a hash of each sample's key."""
    datasets: list[DatasetEntry] = Field(default_factory=list)
    """Data sets of its own to validate on; of the mixture, only what its `part` or `val_fraction` names is then held back."""
    max_samples: int = Field(64, gt=0)
    """Samples per data set."""
    iterations: int | None = Field(None, gt=0)
    """Refinement iterations; None takes the network's `valid_iters`."""
    size: Size | None = None
    """(width, height) of a centred crop; None measures whole images."""
    best: str | None = "epe"
    """The metric that chooses `checkpoint/best.safetensors`, any of `train.metrics` or pose_mse: of all held samples, or of one data set as
    `<data set>/<metric>`. It is written with the next saved step. None: no weights are the best."""

    @field_validator("best")
    @classmethod
    def _metric(cls, name: str | None) -> str | None:
        if name is not None and (metric := name.rpartition("/")[2]) not in (*METRICS, POSE_MSE):
            raise ValueError(f"unknown metric '{metric}'{did_you_mean(metric, METRICS)}")
        return name

    @field_validator("datasets")
    @classmethod
    def _parts(cls, entries: list[DatasetEntry]) -> list[DatasetEntry]:
        for entry in entries:
            if entry.val_fraction is not None and entry.part is None:
                raise ValueError(f"'{entry.name}' has val_fraction without part; say which part is measured on: val, train or all")
        return entries


class TrackersConfig(Section):
    """Where a run is recorded, beside `<workspace>/metrics.jsonl`, which always is."""

    experiment: str = Field("stereofoundry", min_length=1)
    """Name of the MLflow experiment."""
    run_name: str | None = None
    """Name of the run; None takes the workspace's."""
    log_checkpoints: Literal["none", "final", "all"] = "final"
    """Which checkpoints MLflow stores as artifacts (averaged weights at the end; every one); the others are named in a tag."""
    tensorboard: bool = False
    """Write TensorBoard files to `<workspace>/tensorboard` (extra `tensorboard`)."""


class CheckpointsConfig(Section):
    """Which saved steps stay on the disk. The newest always does, and others are deleted only when a newer one is complete."""

    keep_last: int | None = Field(None, ge=2)
    """The newest so many; from 2, so that one is left to fall back on should the newest turn out damaged. None keeps all."""
    keep_every: int | None = Field(None, gt=0)
    """Beside these, every step that is a multiple of it."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if self.keep_every is not None and self.keep_last is None:
            raise ValueError(
                "keep_every without keep_last deletes nothing; give keep_last, the number of newest checkpoints to keep, as well"
            )
        return self


class TrainingConfig(Section):
    """Rules of the update that belong to the experiment and not to the machine."""

    iterations: int | None = Field(None, gt=0)
    """Refinement iterations in training; None takes the network's `train_iters`."""
    coarse_scale: float | None = Field(None, ge=0.1, lt=1)
    """Every second step starts from what a pass over its pairs at this multiple of their size found, as the passes of `model.valid_scales`
    do; None: none does."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    max_skipped: int = Field(20, ge=1)
    """Updates in a row that may be skipped because the gradient is not finite before the run ends with an error."""


class CompileConfig(Section):
    """torch.compile of the network in training. Checkpoints are the same with and without."""

    enabled: bool = False
    """Off unless asked for, and only with `--enable_gradient_checkpointing false`: the first steps of each size of `data.image_sizes` take
    minutes, and a short run never earns them back."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """What the compiler looks for, as of torch.compile."""
    backend: str = Field("inductor", min_length=1)
    """Who compiles, as of torch.compile; "eager" and "aot_eager" change no kernel and show whether the network can be traced."""


class RunConfig(Section):
    """One training run. Where it is stored and how big its batches are is said by the options of `scripts/train.py`."""

    model: dict[str, Any] = Field(default_factory=dict)
    """`type` names a registered network, default "foundation_stereo"; the other keys are its parameters."""
    data: DataConfig
    loss: dict[str, dict[str, LossTerm]] = Field(min_length=1)
    """Label type -> name of the term -> what it is."""
    optimizer: dict[str, Any] = Field(default_factory=lambda: {"type": "AdamW", "params": [{"params": {"include": ["*"]}, "lr": 1e-4}]})
    """A class of `torch.optim` and its parameter groups by name patterns (include, exclude)."""
    lr_scheduler: dict[str, Any] = Field(default_factory=lambda: {"type": "WarmupCosine", "params": {}})
    """A class of `torch.optim.lr_scheduler` or "WarmupCosine", and its parameters; counted in steps."""
    ema: EmaConfig = EmaConfig()
    validation: ValidationConfig = ValidationConfig()
    trackers: TrackersConfig = TrackersConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    training: TrainingConfig = TrainingConfig()
    compile: CompileConfig = CompileConfig()

    def dump(self) -> dict[str, Any]:
        """Plain values, every default filled in; reading it back gives the same run."""
        return self.model_dump(mode="json")
