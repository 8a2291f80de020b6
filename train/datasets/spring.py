"""Spring (Mehl et al., CVPR 2023): frames of an animated film, 1920x1080, disparity of both views in HDF5 at twice that size."""

from pathlib import Path

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair
from train.datasets.readers import need, read_spring_disparity
from train.sample import StereoSample
from utils.calibration_files import read_spring_calibration

SIZE = (1920, 1080)
BASELINE_M = 0.065  # spring_utils, pointcloud.py


@DATASETS.register("spring")
def spring(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`train/0001/frame_{left,right}/frame_{left,right}_0001.png`, `disp1_{left,right}/disp1_{left,right}_0001.dsp5` and, where it is
    there, `cam_data/intrinsics.txt`. The test part has no ground truth. Needs the package h5py.
    """
    need("h5py", "spring", "spring")
    files = {"left": "frame_left", "right": "frame_right"}
    truth = {"disparity": "disp1_left", "disparity_right": "disp1_right"}
    required = {role: f"train/{{scene}}/{name}/{name}_{{frame}}.png" for role, name in files.items()}
    required |= {role: f"train/{{scene}}/{name}/{name}_{{frame}}.dsp5" for role, name in truth.items()}
    optional = {"calibration": "train/{scene}/cam_data/intrinsics.txt"}
    return open_files("spring", path, required, _load, key="{scene}/{frame}", optional=optional, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    sample = read_pair(files, read_spring_disparity)
    if "calibration" not in files:
        return sample
    frame = int(files["left"].stem.rpartition("_")[2])
    height, width = sample.disparity.shape
    return sample.replace(calibration=read_spring_calibration(files["calibration"], frame, SIZE, BASELINE_M).scaled((width, height)))
