"""CARLA-HR, the HR-VS set of high-res-stereo (Yang et al., CVPR 2019): driving scenes, PFM of both views.

The sign of the stored disparity says the direction, so that its size is taken. The `calib.txt` beside it is not read: that it counts the
baseline in millimetres, as Middlebury's format does, has not been confirmed.
"""

from functools import partial
from pathlib import Path

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_pfm_disparity
from train.sample import StereoSample


@DATASETS.register("carla_hr")
def carla_hr(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`carla-highres` itself: `trainingF/<scene>/{im0,im1}.png`, `{disp0GT,disp1GT}.pfm`."""
    required = {"left": "trainingF/{scene}/im0.png", "right": "trainingF/{scene}/im1.png", "disparity": "trainingF/{scene}/disp0GT.pfm"}
    optional = {"disparity_right": "trainingF/{scene}/disp1GT.pfm"}
    return open_files("carla_hr", path, required, _load, key="{scene}", optional=optional, allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    return read_pair(files, partial(read_pfm_disparity, signed=True))
