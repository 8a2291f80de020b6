"""Pseudo-labels of FoundationStereo on Stereo4D's internet videos (nvidia/ffs_stereo4d, its data set card), encoded as in `fsd`.

Published are disparities of 784x784 in zip files, named `<clip>_frame_<number>.png`; the pictures are the user's to fetch and rectify, at
1024x1024 with Stereo4D's own tool. How these are laid out is not published, so that it is said here. No focal length is known here.
"""

from pathlib import Path

from train.datasets.base import DATASETS
from train.datasets.layout import FileDataset, Files, open_files
from train.datasets.readers import read_fsd_disparity
from train.sample import StereoSample
from utils.geometry import resize_image
from utils.images import read_image


@DATASETS.register("ffs_stereo4d")
def ffs_stereo4d(path: Path | None, *, allow_unpaired: bool = False) -> FileDataset:
    """`disparity/**/<clip>_frame_000012.png` (the unpacked zip files), `left/<the same name>.{png,jpg}`, `right/...`.

    Pictures of another size than the disparity but of its shape are resized to it. allow_unpaired: for labels whose video is gone.
    """
    files = {"disparity": "disparity/{zip:**}/{frame}.png", "left": "left/{frame}.{suffix}", "right": "right/{frame}.{suffix}"}
    return open_files("ffs_stereo4d", path, files, _load, key="{frame}", allow_unpaired=allow_unpaired)


def _load(files: Files) -> StereoSample:
    disparity, valid = read_fsd_disparity(files["disparity"])
    left, right = read_image(files["left"]), read_image(files["right"])
    height, width = disparity.shape
    if left.shape == right.shape and left.shape[0] * width == left.shape[1] * height:
        left, right = resize_image(left, (width, height)), resize_image(right, (width, height))
    return StereoSample(left, right, disparity, valid)
