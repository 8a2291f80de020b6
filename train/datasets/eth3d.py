"""ETH3D low-resolution two-view (Schoeps et al., CVPR 2017), in the file forms of Middlebury's evaluation v3; grey, half of it known."""

from pathlib import Path

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, open_files
from train.datasets.middlebury import load


@DATASETS.register("eth3d")
def eth3d(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`two_view_training/<scene>/{im0,im1}.png`, `calib.txt`, `two_view_training_gt/<scene>/{disp0GT.pfm,mask0nocc.png}`."""
    pictures, truth = "two_view_training/{scene}", "two_view_training_gt/{scene}"
    required = {"left": f"{pictures}/im0.png", "right": f"{pictures}/im1.png", "disparity": f"{truth}/disp0GT.pfm"}
    optional = {"nocc": f"{truth}/mask0nocc.png", "calibration": f"{pictures}/calib.txt"}
    return open_files("eth3d", path, required, load, key="{scene}", optional=optional, allow_unpaired=allow_unpaired)
