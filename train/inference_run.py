"""Inference over many pairs: calibrate, look, check, write, and say at the end what was found. The steps are in the files beside it."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from train.inference import Estimator
from train.inference_checks import check_range, check_views
from train.inference_output import Output, pose_record
from train.inference_pairs import Pair, Pairs
from utils.calibration_formats import Choices, PairCalibration, can_rectify, read_calibration
from utils.errors import UserError

Known = dict[tuple[Path, tuple[int, int], str], PairCalibration]  # by file, size, and the folder of the images


@dataclass
class Summary:
    """Of a run. warnings: kind -> names of the pairs and the sentence about the first; calibrations: what was read, in words."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    warnings: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    calibrations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def warn(self, name: str, found: dict[str, str]) -> None:
        for kind, sentence in found.items():
            self.warnings.setdefault(kind, ([], sentence))[0].append(name)

    def lines(self) -> list[str]:
        """The warnings, each once, with how many pairs it holds for."""
        count = len(self.pairs)
        return [
            sentence if count == 1 else f"{len(names)} of {count} pairs, first {names[0]}: {sentence}"
            for names, sentence in self.warnings.values()
        ]


def infer_pairs(
    pairs: Pairs,
    estimator: Estimator,
    output: Output,
    *,
    choices: Choices | None = None,
    about: dict[str, Any] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Summary:
    """Every pair, one after the other; `inference.json` is written however it ends. about: what else it should say.

    Raises UserError where a pair or its calibration cannot be used, or the results cannot be written; what was done before is kept, and
    what is not ours is left alone.
    """
    summary, known = Summary(), {}
    try:
        output.claim(
            pairs.names,
            pairs.inputs,
            occluded=estimator.settings.left_right,
            calibrated=bool(pairs.calibrations),
            rectified=(choices is None or choices.rectify is not False) and any(map(can_rectify, pairs.calibrations)),
        )
        try:
            for pair in pairs:
                _infer(pair, estimator, output, choices, known, summary)
                progress()
        finally:
            if summary.pairs:
                output.close({**(about or {}), "settings": asdict(estimator.settings), "pairs": summary.pairs})
    except OSError as error:
        raise UserError(
            f"{error.filename or output.folder}: cannot be written ({error.strerror or error}); pass another --output"
        ) from None
    if not summary.pairs:
        raise UserError("no pair was found; most likely the video has no frame that can be decoded")
    return summary


def _infer(pair: Pair, estimator: Estimator, output: Output, choices: Choices | None, known: Known, summary: Summary) -> None:
    start = time.perf_counter()
    calibrated = _calibration(pair, choices, known, summary)
    rectification = None if calibrated is None else calibrated.rectification
    if rectification is not None:
        left, right = rectification(pair.left, pair.right)
        pair = replace(pair, left=left, right=right)
    result = estimator(pair.left, pair.right)
    seconds = time.perf_counter() - start
    calibration = None if calibrated is None else calibrated.calibration
    found = check_views(pair.left, pair.right) | check_range(result.disparity, estimator.limit_px)
    found |= output.write(pair, result, calibration, rectified=rectification is not None)
    summary.warn(pair.name or pair.source, found)
    summary.seconds += seconds
    finite = result.finite
    summary.pairs.append(
        {
            "name": pair.name,
            "source": pair.source,
            "size": [pair.left.shape[1], pair.left.shape[0]],
            "median_disparity": float(np.median(finite)) if finite.size else None,
            "pose": pose_record(result.pose),
            "seconds": seconds,
            "calibration": None if calibration is None else asdict(calibration),
            "warnings": list(found.values()),
        }
    )


def _calibration(pair: Pair, choices: Choices | None, known: Known, summary: Summary) -> PairCalibration | None:
    """Read once for all pairs of one file, size and folder."""
    if pair.calibration is None:
        return None
    height, width = pair.left.shape[:2]
    key = pair.calibration, (width, height), str(Path(pair.source).parent)
    if key not in known:
        known[key] = read_calibration(pair.calibration, (width, height), choices, images=pair.source)
        summary.calibrations.append(known[key].description)
    return known[key]
