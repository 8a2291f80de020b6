"""Scenes in a form of our own: a folder each with the pair, an NPZ of what is known about its disparity, and a description."""

from pathlib import Path

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files
from train.datasets.readers import known, looks_sparse, read_npz
from train.sample import StereoSample
from utils.calibration_files import read_scene_calibration
from utils.images import read_image


@DATASETS.register("scenes")
def scenes(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`<scene>/{left,right}.png`, `disparity.npz` with `disparity` and, where it knows more, `valid` and `nocc`, and `meta.json`.

    nocc: what both eyes see, of what is valid. meta.json: the geometry, as `read_scene_calibration` describes it.
    """
    required = {"left": "{scene}/left.png", "right": "{scene}/right.png", "disparity": "{scene}/disparity.npz"}
    return open_files("scenes", path, required, _load, key="{scene}", optional={"meta": "{scene}/meta.json"}, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    left, arrays = read_image(files["left"]), read_npz(files["disparity"])
    if any(array.shape != left.shape[:2] for array in arrays.values()) or "disparity" not in arrays:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{files['disparity']}: expected 'disparity' and masks of the picture's size {left.shape[:2]}, found {found}")
    disparity, valid = known(arrays["disparity"])
    if "valid" in arrays:
        valid &= arrays["valid"].astype(bool)
        disparity[~valid] = 0
    return StereoSample(
        left,
        read_image(files["right"]),
        disparity,
        valid,
        occluded=valid & ~arrays["nocc"].astype(bool) if "nocc" in arrays else None,
        sparse=looks_sparse(valid),
        calibration=read_scene_calibration(files["meta"]) if "meta" in files else None,
    )
