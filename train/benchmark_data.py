"""How fast samples are made on one core, and where the time goes: of a configuration, of the renderer, and against a plain pipeline.

Times are those that the processor spent on this process, so that other work on the machine counts little, but for reading, which is
waiting. Sides that are compared take turns, and medians are compared.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance

from train.augment.pipeline import Augmentation
from train.config import RunConfig
from train.dataloader import Loaded, Mixture, MixtureDataset, collate, plan_batch
from train.datasets import StereoDataset, build_dataset
from train.datasets.cache import Cached
from train.sample import StereoSample
from train.sources import Source, check_caches, open_sources
from utils.pfm import write_pfm

STAGES = ("read", "decode", "augment", "collate")
BATCH = 8

# RAFT-Stereo's dense augmentor (core/utils/augmentor.py): strengths of the colours, sides of a patch, exponents of scale and stretch
BRIGHTNESS = CONTRAST = SATURATION = (0.6, 1.4)
HUE = (-0.5 / np.pi, 0.5 / np.pi)  # turns of the colour circle
ASYMMETRIC = 0.2
PATCH = (50, 99)
SCALE, STRETCH, STRETCH_PROBABILITY = (-0.2, 0.5), 0.2, 0.8
SIZE, CROP = (960, 540), (720, 320)  # (width, height) of the stored pair and of what is trained on

OURS: dict[str, Any] = {
    "image": [
        {
            "name": "jittering",
            "brightness": BRIGHTNESS,
            "contrast": CONTRAST,
            "saturation": SATURATION,
            "hue": HUE,
            "gamma": (1.0, 1.0),
            "asymmetric_probability": ASYMMETRIC,
        },
        {"name": "eraser", "probability": 0.5, "patches": (1, 2), "size": PATCH},
    ],
    "stereo": {
        "scale": SCALE,
        "scale_probability": 1.0,
        "stretch": STRETCH,
        "stretch_probability": STRETCH_PROBABILITY,
        "horizontal_flip": 0.0,
        "vertical_flip": 0.0,
        "y_jitter": 2.0,
    },
}


def use_one_thread() -> None:
    """As a worker process of a run does."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@dataclass
class Timing:
    """Seconds per stage, one number for each sample (of `collate` its share of the batch)."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def stage(self, name: str, samples: int = 1) -> Iterator[None]:
        clock = time.perf_counter if name == "read" else time.process_time
        start = clock()
        yield
        self.seconds[name] += [(clock() - start) / samples] * samples

    def report(self) -> dict[str, Any]:
        """`{"samples", "samples_per_s", "ms", "stages": {name: {"ms", "share"}}}`, from the mean of each stage, shares of 1."""
        ms = {name: 1000 * float(np.mean(values)) for name, values in self.seconds.items()}
        total = sum(ms.values())
        return {
            "samples": max(map(len, self.seconds.values())),
            "samples_per_s": 1000 / total,
            "ms": total,
            "stages": {name: {"ms": value, "share": value / total} for name, value in ms.items()},
        }


# ---- a configuration --------------------------------------------------------------------------------------------------------------------


def measure_config(config: RunConfig, samples: int, progress: Callable[[int], Any] = lambda _: None) -> dict[str, Any]:
    """What a worker process does for `samples` samples of the configured mixture, by stage, overall and per data set.

    read: the files' bytes; decode: all else that the data set does, its files being in memory by then. The first batch is not counted.
    """
    kept, _ = open_sources(config)
    check_caches(kept)
    timings = {source.name: Timing() for source in kept}
    sources = tuple(
        replace(source, dataset=_TimedDataset(source.dataset, timings[source.name]), augment=_timed(source, timings[source.name]))
        for source in kept
    )
    loader = MixtureDataset(Mixture(sources, tuple(config.data.image_sizes), 0, config.data.max_disparity))
    for step in range(1 + -(-samples // BATCH)):
        if step == 1:
            for timing in timings.values():
                timing.seconds.clear()
        items = [loader[draw] for draw in plan_batch(loader.mix, step, range(BATCH), BATCH)]
        _collate(items, timings)
        progress(BATCH if step else 0)
    overall = Timing()
    for timing in timings.values():
        for name, values in timing.seconds.items():
            overall.seconds[name] += values
    seen = {name: timing.report() for name, timing in timings.items() if timing.seconds}
    return overall.report() | {"datasets": seen}


class _TimedDataset:
    """A data set whose files are read once more beforehand, so that reading and decoding can be told apart."""

    def __init__(self, dataset: StereoDataset, timing: Timing) -> None:
        self._dataset, self._timing = dataset, timing
        self.has_right_disparity, self.has_pose = dataset.has_right_disparity, dataset.has_pose

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, i: int) -> str:
        return self._dataset.key(i)

    def files(self, i: int) -> list[Path]:
        cached = isinstance(self._dataset, Cached) and self._dataset.entry(i)
        return [cached] if cached and cached.exists() else self._dataset.files(i)

    def load(self, i: int) -> StereoSample:
        with self._timing.stage("read"):
            for file in self.files(i):
                if file.exists():
                    file.read_bytes()
        with self._timing.stage("decode"):
            return self._dataset.load(i)


def _timed(source: Source, timing: Timing) -> Callable[[StereoSample, tuple[int, int], np.random.Generator], StereoSample]:
    def augment(sample: StereoSample, size: tuple[int, int], rng: np.random.Generator) -> StereoSample:
        with timing.stage("augment"):
            return source.augment(sample, size, rng)

    return augment


def _collate(items: list[Loaded], timings: dict[str, Timing]) -> None:
    batch = Timing()
    with batch.stage("collate", len(items)):
        collate(items)
    for item, seconds in zip(items, batch.seconds["collate"], strict=True):
        timings[item.source.name].seconds["collate"].append(seconds)


# ---- the renderer -----------------------------------------------------------------------------------------------------------------------


def measure_synthetic(pairs: int, size: tuple[int, int] = (512, 384), progress: Callable[[int], Any] = lambda _: None) -> dict[str, Any]:
    """Pairs per second of the renderer with its default options, at `size` (width, height)."""
    dataset, timing = build_dataset("synthetic", None, {"size": size}, "synthetic"), Timing()
    for i in range(pairs + 1):
        if i == 1:
            timing.seconds.clear()  # the first one pays for what is prepared once
        with timing.stage("render"):
            dataset.load(i)
        progress(1 if i else 0)
    return timing.report() | {"size": list(size)}


# ---- against a plain pipeline -----------------------------------------------------------------------------------------------------------


def measure_against_reference(folder: Path, samples: int, progress: Callable[[int], Any] = lambda _: None) -> dict[str, Any]:
    """The same work by this project and by `plain_sample`: a 960x540 PNG pair with PFM, made in `folder`, to a 720x320 crop.

    Both take turns, sample by sample, in this process; the first few are not counted. ratio: median of the plain time over that of ours.
    """
    dataset = make_pairs(folder)
    source = Source("made", dataset, np.arange(len(dataset)), 1.0, "stereo", Augmentation(OURS["image"], OURS["stereo"], "ours"))
    ours, plain, waiting = Timing(), Timing(), []
    source = replace(source, augment=_timed(source, ours))
    loader = MixtureDataset(Mixture((source,), (CROP,), 0))
    for i, draw in enumerate(plan_batch(loader.mix, 0, range(samples + BATCH), samples + BATCH)):
        if i == BATCH:
            ours.seconds.clear()
            plain.seconds.clear()
        with ours.stage("load"):
            waiting.append(loader[draw])
        if len(waiting) == BATCH:
            with ours.stage("collate", BATCH):
                collate(waiting)
            waiting.clear()
        paths = [folder / place.format(i % len(dataset)) for place in PLACES]
        with plain.stage("load"):
            plain_sample(*paths, np.random.default_rng(i), plain)
        progress(1 if i >= BATCH else 0)
    whole, ours_augment = ours.seconds.pop("load"), ours.seconds["augment"]
    median = np.median(whole) + np.median(ours.seconds["collate"])
    ours.seconds["decode"] = [load - augment for load, augment in zip(whole, ours_augment, strict=True)]
    plain_median = np.median(plain.seconds.pop("load"))
    return {
        "ours": ours.report() | {"median_ms": 1000 * float(median)},
        "plain": plain.report() | {"median_ms": 1000 * float(plain_median)},
        "ratio": float(plain_median / median),
    }


PLACES = ("frames_cleanpass/made/left/{:04d}.png", "frames_cleanpass/made/right/{:04d}.png", "disparity/made/left/{:04d}.pfm")


def make_pairs(folder: Path, count: int = 4) -> StereoDataset:
    """Rendered pairs of `SIZE` under `folder`, as SceneFlow's Monkaa is laid out; PNG files as Pillow writes them."""
    renderer = build_dataset("synthetic", None, {"size": SIZE, "seed": 1}, "synthetic")
    for i in range(count):
        sample = renderer.load(i)
        left, right, disparity = (folder / name.format(i) for name in PLACES)
        for path in (left, right, disparity):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.left).save(left)
        Image.fromarray(sample.right).save(right)
        write_pfm(disparity, sample.disparity)
    return build_dataset("monkaa", folder, {}, "monkaa")


def plain_sample(
    left_path: Path, right_path: Path, disparity_path: Path, rng: np.random.Generator, timing: Timing
) -> tuple[torch.Tensor, ...]:
    """What RAFT-Stereo's dense augmentor does, step by step and in its order: colours on whole images by Pillow, an eraser on the right
    one, scale with the disparity as a flow field, crop with the right image up to two rows off; float tensors.
    """
    with timing.stage("decode"):
        left, right = (np.array(Image.open(path)).astype(np.uint8)[..., :3] for path in (left_path, right_path))
        with open(disparity_path, "rb") as file:
            file.readline()
            width, height = map(int, file.readline().split())
            file.readline()
            disparity = np.flipud(np.fromfile(file, "<f4").reshape(height, width))
        flow = np.stack([-disparity, np.zeros_like(disparity)], axis=-1)

    with timing.stage("colour"):
        if rng.random() < ASYMMETRIC:
            left, right = plain_colour(left, rng), plain_colour(right, rng)
        else:
            left, right = np.split(plain_colour(np.concatenate([left, right]), rng), 2)

    with timing.stage("eraser"):
        if rng.random() < 0.5:
            mean = right.reshape(-1, 3).mean(axis=0)
            right = right.copy()
            for _ in range(rng.integers(1, 3)):
                x, y = rng.integers(width), rng.integers(height)
                right[y : y + rng.integers(PATCH[0], PATCH[1] + 1), x : x + rng.integers(PATCH[0], PATCH[1] + 1)] = mean

    with timing.stage("spatial"):
        scale_x = scale_y = 2 ** rng.uniform(*SCALE)
        if rng.random() < STRETCH_PROBABILITY:
            scale_x *= 2 ** rng.uniform(-STRETCH, STRETCH)
            scale_y *= 2 ** rng.uniform(-STRETCH, STRETCH)
        least = max((CROP[1] + 8) / height, (CROP[0] + 8) / width)
        scale_x, scale_y = max(scale_x, least), max(scale_y, least)
        left, right, flow = (cv2.resize(a, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR) for a in (left, right, flow))
        flow = flow * [scale_x, scale_y]
        y, x = rng.integers(2, left.shape[0] - CROP[1] - 2), rng.integers(2, left.shape[1] - CROP[0] - 2)
        y_right = y + rng.integers(-2, 3)
        left, flow = (a[y : y + CROP[1], x : x + CROP[0]] for a in (left, flow))
        right = right[y_right : y_right + CROP[1], x : x + CROP[0]]

    with timing.stage("tensors"):
        left, right, flow = (torch.from_numpy(np.ascontiguousarray(a)).permute(2, 0, 1).float() for a in (left, right, flow))
        valid = (flow[0].abs() < 512) & (flow[1].abs() < 512)
        return left, right, flow, valid.float()


def plain_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter does it to a Pillow image."""

    def turn_hue(picture: Image.Image) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        turned = np.array(hue) + np.uint8(int(rng.uniform(*HUE) * 255) % 256)
        return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")

    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda picture: ImageEnhance.Brightness(picture).enhance(rng.uniform(*BRIGHTNESS)),
        lambda picture: ImageEnhance.Contrast(picture).enhance(rng.uniform(*CONTRAST)),
        lambda picture: ImageEnhance.Color(picture).enhance(rng.uniform(*SATURATION)),
        turn_hue,
    ]
    picture = Image.fromarray(image)
    for i in rng.permutation(len(changes)):
        picture = changes[i](picture)
    return np.array(picture)


def table(found: dict[str, Any]) -> str:
    """What was measured, for people: one line for each side or data set, stages in milliseconds."""
    lines = []
    for name, result in found.items():
        sides = {side: result[side] for side in ("ours", "plain") if side in result} or _rows(result)
        lines.append(f"{name}: {result['ratio']:.2f} times as fast as the plain pipeline" if "ratio" in result else f"{name}:")
        for side, numbers in sides.items():
            stages = ", ".join(f"{stage} {value['ms']:.2f} ms ({100 * value['share']:.0f} %)" for stage, value in numbers["stages"].items())
            lines.append(f"  {side:<24} {numbers['samples_per_s']:7.1f} samples/s and core, {numbers['ms']:6.2f} ms: {stages}")
    return "\n".join(lines)


def _rows(result: dict[str, Any]) -> dict[str, Any]:
    datasets = result.get("datasets", {})
    return datasets if len(datasets) == 1 else {"all": result, **datasets}
