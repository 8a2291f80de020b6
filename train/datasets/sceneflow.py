"""SceneFlow (Mayer et al., CVPR 2016): FlyingThings3D, its subset, Monkaa and Driving; PFM, dense, of both views, 960x540.

The sign of the stored disparity says the direction (the subset's left view is negative), so that its size is taken. A frame rendered twice
(`render`: clean without blur and haze, final with them, or both) is two samples with one ground truth.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from train.datasets.base import DATASETS
from train.datasets.layout import Fields, FileDataset, Files, open_files, read_pair
from train.datasets.readers import read_mask, read_pfm_disparity
from train.sample import StereoSample

Render = Literal["clean", "final", "both"]
Split = Literal["TRAIN", "TEST", "all"]
Set = Literal["FlyingThings3D", "Monkaa", "Driving"]


class Places(NamedTuple):
    """Templates of the folders that hold `left` and `right`, and of the sample's name before the frame."""

    pictures: str
    disparity: str
    name: str


@DATASETS.register("flyingthings3d")
def flyingthings3d(path: Path | None, *, render: Render = "clean", split: Split = "TRAIN", allow_unpaired: bool = False) -> FileDataset:
    """`frames_{clean,final}pass/{TRAIN,TEST}/A/0000/{left,right}/0006.png`, `disparity/TRAIN/A/0000/{left,right}/0006.pfm`."""
    splits = {"split": ("TRAIN", "TEST") if split == "all" else (split,)}
    return _open("flyingthings3d", path, _passes("{split}/{letter}/{sequence}"), render, allow_unpaired, splits)


@DATASETS.register("monkaa")
def monkaa(path: Path | None, *, render: Render = "clean", allow_unpaired: bool = False) -> FileDataset:
    """`frames_{clean,final}pass/<scene>/{left,right}/0000.png`, `disparity/<scene>/{left,right}/0000.pfm`."""
    return _open("monkaa", path, _passes("{scene}"), render, allow_unpaired)


@DATASETS.register("driving")
def driving(path: Path | None, *, render: Render = "clean", allow_unpaired: bool = False) -> FileDataset:
    """`frames_{clean,final}pass/15mm_focallength/scene_backwards/fast/{left,right}/0001.png`, `disparity/...` alike."""
    return _open("driving", path, _passes("{focal}mm_focallength/{direction}/{speed}"), render, allow_unpaired)


@DATASETS.register("sceneflow")
def sceneflow(
    path: Path | None,
    *,
    sets: Sequence[Set] = ("FlyingThings3D", "Monkaa", "Driving"),
    render: Render = "clean",
    split: Split = "TRAIN",
    allow_unpaired: bool = False,
) -> FileDataset:
    """The `sets` together, each laid out as its own type in the folder of its name. split: of FlyingThings3D; the others have one part."""

    def keep(fields: Fields) -> bool:
        return fields["set"] != "FlyingThings3D" or split in ("all", fields["scene"].partition("/")[0])

    return _open("sceneflow", path, _passes("{scene:**}", "{set}/"), render, allow_unpaired, {"set": sets}, keep=keep)


@DATASETS.register("flyingthings3d_subset")
def flyingthings3d_subset(
    path: Path | None, *, render: Render = "clean", split: Literal["train", "val", "all"] = "train", allow_unpaired: bool = False
) -> FileDataset:
    """`{train,val}/image_{clean,final}/{left,right}/0000000.png`, `train/disparity/{left,right}/0000000.pfm`, and, where it is there,
    `train/disparity_occlusions/left/0000000.png`, not 0 where the right eye does not see.
    """
    places = Places("{split}/image_{render}", "{split}/disparity", "{render}/{split}")
    splits = {"split": ("train", "val") if split == "all" else (split,)}
    optional = {"occluded": "{split}/disparity_occlusions/left/{frame}.png"}
    return _open("flyingthings3d_subset", path, places, render, allow_unpaired, splits, optional=optional)


def _passes(scene: str, below: str = "") -> Places:
    return Places(f"{below}frames_{{render}}pass/{scene}", f"{below}disparity/{scene}", f"{below}{{render}}/{scene}")


def _open(
    kind: str,
    path: Path | None,
    places: Places,
    render: Render,
    allow_unpaired: bool,
    choose: Mapping[str, Sequence[str]] = MappingProxyType({}),
    *,
    keep: Callable[[Fields], bool] | None = None,
    optional: Mapping[str, str] = MappingProxyType({}),
) -> FileDataset:
    required = {
        "left": f"{places.pictures}/left/{{frame}}.png",
        "right": f"{places.pictures}/right/{{frame}}.png",
        "disparity": f"{places.disparity}/left/{{frame}}.pfm",
    }
    return open_files(
        kind,
        path,
        required,
        _load,
        key=f"{places.name}/{{frame}}",
        optional={"disparity_right": f"{places.disparity}/right/{{frame}}.pfm", **optional},
        choose={"render": ("clean", "final") if render == "both" else (render,), **choose},
        keep=keep,
        allow_unpaired=allow_unpaired,
    )


def _load(files: Files) -> StereoSample:
    occluded = read_mask(files["occluded"]) if "occluded" in files else None
    return read_pair(files, partial(read_pfm_disparity, signed=True), occluded=occluded)
