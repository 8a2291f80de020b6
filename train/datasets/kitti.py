"""KITTI 2012 and 2015 (Geiger et al. 2012; Menze and Geiger 2015): laser ground truth of the frames `_10`, 16-bit PNG / 256, 0 unknown."""

from functools import partial
from pathlib import Path
from typing import Literal

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_png16_disparity
from train.sample import StereoSample
from utils.calibration_files import KittiCameras, read_kitti_calibration

SCALE = 256
Truth = Literal["occ", "noc"]


@DATASETS.register("kitti2012")
def kitti2012(
    path: Path | None, *, truth: Truth = "occ", images: Literal["colored", "image"] = "colored", allow_unpaired: bool = False
) -> FileDataset:
    """`training/colored_{0,1}/000000_10.png` (`images`: "image" for the grey ones), `training/disp_{occ,noc}/000000_10.png`,
    and, where it is there, `training/calib/000000.txt`.

    truth: occ is all ground truth, noc what both eyes see. With occ the other file, where it is there, gives the occlusion mask.
    """
    views = {"left": f"{images}_0", "right": f"{images}_1", "disparity": f"disp_{truth}"}
    cameras = "colour" if images == "colored" else "grey"
    return _open("kitti2012", path, views, {"noc": "disp_noc"} if truth == "occ" else {}, "calib", cameras, allow_unpaired)


@DATASETS.register("kitti2015")
def kitti2015(path: Path | None, *, truth: Truth = "occ", allow_unpaired: bool = False) -> FileDataset:
    """`training/image_{2,3}/000000_10.png`, `training/disp_{occ,noc}_{0,1}/000000_10.png`, 1 being the right view, and, where it is
    there, `training/calib_cam_to_cam/000000.txt`.

    truth: as for kitti2012. The frames `_11` have no ground truth and are not read.
    """
    views = {"left": "image_2", "right": "image_3", "disparity": f"disp_{truth}_0"}
    extras = {"disparity_right": f"disp_{truth}_1"} | ({"noc": "disp_noc_0"} if truth == "occ" else {})
    return _open("kitti2015", path, views, extras, "calib_cam_to_cam", "colour", allow_unpaired)


def _open(
    kind: str,
    path: Path | None,
    folders: dict[str, str],
    extras: dict[str, str],
    calibration: str,
    cameras: KittiCameras,
    allow_unpaired: bool,
) -> FileDataset:
    required, optional = ({role: f"training/{folder}/{{frame}}_10.png" for role, folder in group.items()} for group in (folders, extras))
    optional |= {"calibration": f"training/{calibration}/{{frame}}.txt"}
    load = partial(_load, cameras=cameras)
    return open_files(kind, path, required, load, key="{frame}_10", optional=optional, allow_unpaired=allow_unpaired)


def _load(files: Files, cameras: KittiCameras) -> StereoSample:
    sample = read_pair(files, partial(read_png16_disparity, scale=SCALE), sparse=True)
    height, width = sample.disparity.shape
    calibrated = "calibration" in files
    return sample.replace(
        occluded=sample.valid & ~read_png16_disparity(files["noc"], SCALE)[1] if "noc" in files else None,
        calibration=read_kitti_calibration(files["calibration"], cameras, (width, height)) if calibrated else None,
    )
