"""Booster (Zama Ramirez et al., CVPR 2022): rooms with glass and mirrors under several lights, 12 Mpx, disparity of both views as NPY."""

from pathlib import Path

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_mask, read_npy_disparity
from train.sample import StereoSample
from utils.calibration_files import read_booster_calibration


@DATASETS.register("booster")
def booster(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`train/balanced/<scene>/`: `camera_{00,02}/im0.png`, one per light, `disp_{00,02}.npy` and, where they are there, `mask_00.png`, 0
    where the right eye does not see, and `calib_00-02.xml`. The part `unbalanced` pairs images of two sizes and is not read.
    """
    views = {"left": "camera_00/{light}.png", "right": "camera_02/{light}.png", "disparity": "disp_00.npy"}
    extras = {"disparity_right": "disp_02.npy", "noc": "mask_00.png", "calibration": "calib_00-02.xml"}
    required, optional = ({role: f"train/balanced/{{scene}}/{name}" for role, name in group.items()} for group in (views, extras))
    return open_files("booster", path, required, _load, key="{scene}/{light}", optional=optional, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    sample = read_pair(files, read_npy_disparity)
    height, width = sample.disparity.shape
    return sample.replace(
        occluded=sample.valid & ~read_mask(files["noc"]) if "noc" in files else None,
        calibration=read_booster_calibration(files["calibration"], (width, height)) if "calibration" in files else None,
    )
