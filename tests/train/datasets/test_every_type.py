"""Every data set type on a layout of a few pixels with all its files: it is found, decoded, and carries what the README's table says."""

import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

import train.datasets
from tests.layouts import grey, npz, write
from train.datasets import DATASETS, build_dataset
from train.datasets.readers import encode_fsd

WIDTH, HEIGHT = 4, 2
LEFT, RIGHT = grey(10, WIDTH, HEIGHT), grey(200, WIDTH, HEIGHT)
TRUTH = np.array([[0, 1, 2, 4], [8, 0, 2, 3]], np.float32)  # pixels; 0 is unknown
HIDDEN = np.array([[0, 0, 0, 255], [255, 0, 0, 0]], np.uint8)
NOCC_MASK = np.array([[0, 255, 255, 128], [128, 0, 255, 255]], np.uint8)
CALIB = f"cam0=[9 0 1; 0 9 1; 0 0 1]\ncam1=[9 0 2; 0 9 1; 0 0 1]\ndoffs=1\nbaseline=200\nwidth={WIDTH}\nheight={HEIGHT}\n"


def coded(scale: float, dtype: type = np.uint16) -> np.ndarray:
    return (scale * TRUTH).astype(dtype)


def depth(product: float) -> np.ndarray:
    """Of TRUTH, float32; `product` is the focal length times the baseline, in the unit of the file."""
    return np.divide(product, TRUTH, out=np.zeros_like(TRUTH), where=TRUTH > 0)


def sides(pattern: str, left: object = LEFT, right: object = RIGHT, names: tuple[str, str] = ("left", "right")) -> dict[str, object]:
    """Two files whose paths have a name of either side where the pattern has `@`."""
    return {pattern.replace("@", names[0]): left, pattern.replace("@", names[1]): right}


def both(pattern: str, content: object, names: tuple[str, str] = ("left", "right")) -> dict[str, object]:
    return sides(pattern, content, content, names)


def sceneflow(scene: str, below: str = "") -> dict[str, object]:
    return sides(f"{below}frames_cleanpass/{scene}/@/0006.png") | both(f"{below}disparity/{scene}/@/0006.pfm", TRUTH)


def middlebury(scene: str, truth: str) -> dict[str, object]:
    return sides(f"{scene}/im@.png", names=("0", "1")) | both(f"{scene}/{truth}", TRUTH, ("0", "1")) | {f"{scene}/calib.txt": CALIB}


def middlebury_2006() -> dict[str, object]:
    scene, names = "ThirdSize/Aloe", ("1", "5")
    return sides(f"{scene}/view@.png", names=names) | both(f"{scene}/disp@.png", coded(3, np.uint8), names) | {f"{scene}/dmin.txt": "9\n"}


def booster() -> dict[str, object]:
    matrix = '"opencv-matrix"><rows>3</rows><cols>4</cols><dt>d</dt><data>9. 0. 1. 0. 0. 9. 1. 0. 0. 0. 1. 0.</data>'
    both_matrices = "".join(f"<proj_mat{side} type_id={matrix}</proj_mat{side}>" for side in "LR")
    calibration = f'<?xml version="1.0"?><opencv_storage>{both_matrices}<baselineLR>80.</baselineLR></opencv_storage>'
    scene, names = "train/balanced/Room", ("00", "02")
    files = sides(f"{scene}/camera_@/im0.png", names=names) | both(f"{scene}/disp_@.npy", TRUTH, names)
    return files | {f"{scene}/mask_00.png": 255 - HIDDEN, f"{scene}/calib_00-02.xml": calibration}


def dynamic_replica() -> dict[str, object]:
    stored = depth(0.9).astype(np.float16).view(np.uint16)
    files = sides("train/@.png") | both("train/@_depth.png", stored)
    view = {"focal_length": [9, 9], "principal_point": [0, 0], "intrinsics_format": "ndc_isotropic"}
    entries = [
        {
            "sequence_name": "a",
            "frame_number": 0,
            "camera_name": camera,
            "image": {"path": f"{camera}.png", "size": [HEIGHT, WIDTH]},
            "depth": {"path": f"{camera}_depth.png"},
            "viewpoint": view | {"T": [place, 0, 0]},
        }
        for camera, place in (("left", 0), ("right", 0.1))
    ]
    return files | {"train/frame_annotations_train.jgz": gzip.compress(json.dumps(entries).encode())}


def falling_things() -> dict[str, object]:
    intrinsics = {"fx": 100, "fy": 100, "cx": 2, "cy": 1}
    size = {"width": WIDTH, "height": HEIGHT}
    cameras = [{"name": name, "intrinsic_settings": intrinsics, "captured_image_size": size} for name in ("left", "right")]
    files = sides("mixed/kitchen/000000.@.jpg") | both("mixed/kitchen/000000.@.depth.png", depth(60_000).astype(np.uint16))
    return files | {"mixed/kitchen/_camera_settings.json": {"camera_settings": cameras}}


def irs() -> dict[str, object]:
    openexr = pytest.importorskip("OpenEXR")
    stored = openexr.File({"type": openexr.scanlineimage}, {"G": TRUTH})
    content = io.BytesIO()
    stored.write(content)
    return sides("Home/room/@_00001.png", names=("l", "r")) | {"Home/room/d_00001.exr": content.getvalue()}


def scenes() -> dict[str, object]:
    truth = npz(disparity=TRUTH, valid=TRUTH > 0, nocc=(TRUTH > 0) & (TRUTH < 4))
    meta = {"width": WIDTH, "height": HEIGHT, "calibration": {"fx": 9, "baseline_m": 0.2, "doffs": 1, "cx": 1, "cy": 1}}
    return sides("room/@.png") | {"room/disparity.npz": truth, "room/meta.json": meta}


def sintel() -> dict[str, object]:
    code = np.stack([TRUTH // 4, 64 * (TRUTH % 4), 0 * TRUTH], axis=-1).astype(np.uint8)
    masks = {"training/occlusions/a/frame_0001.png": HIDDEN, "training/outofframe/a/frame_0001.png": 0 * HIDDEN}
    return sides("training/clean_@/a/frame_0001.png") | {"training/disparities/a/frame_0001.png": code} | masks


def spring() -> dict[str, object]:
    h5py = pytest.importorskip("h5py")
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["disparity"] = TRUTH.repeat(2, axis=0).repeat(2, axis=1)
    truth = both("train/0001/disp1_@/disp1_@_0001.dsp5", content.getvalue())
    return sides("train/0001/frame_@/frame_@_0001.png") | truth | {"train/0001/cam_data/intrinsics.txt": "1920 1920 960 540\n"}


FLYING = "TRAIN/A/0000"
DRIVING = "15mm_focallength/scene_backwards/fast"
VIEWS = ("Camera_0", "Camera_1")
LAYOUTS = {
    "booster": booster,
    "carla_hr": lambda: middlebury("trainingF/a", "disp@GT.pfm"),
    "crestereo": lambda: sides("tree/0_@.jpg") | both("tree/0_@.disp.png", coded(32)),
    "driving": lambda: sceneflow(DRIVING),
    "dynamic_replica": dynamic_replica,
    "eth3d": lambda: (
        sides("two_view_training/a/im@.png", names=("0", "1"))
        | {"two_view_training/a/calib.txt": CALIB, "two_view_training_gt/a/disp0GT.pfm": np.where(TRUTH > 0, TRUTH, np.float32(np.inf))}
        | {"two_view_training_gt/a/mask0nocc.png": NOCC_MASK}
    ),
    "falling_things": falling_things,
    "ffs_stereo4d": lambda: sides("@/a_frame_000001.png") | {"disparity/0000000/a_frame_000001.png": encode_fsd(TRUTH)},
    "flyingthings3d": lambda: sceneflow(FLYING),
    "flyingthings3d_subset": lambda: (
        sides("train/image_clean/@/0000000.png")
        | sides("train/disparity/@/0000000.pfm", -TRUTH, TRUTH)
        | {"train/disparity_occlusions/left/0000000.png": HIDDEN}
    ),
    "folder": lambda: sides("a/@.png") | {"a/disparity.pfm": TRUTH},
    "fsd": lambda: sides("s/dataset/data/@/rgb/0000.jpg") | {"s/dataset/data/left/disparity/0000.png": encode_fsd(TRUTH)},
    "instereo2k": lambda: sides("train/part1/000001/@.png") | both("train/part1/000001/@_disp.png", coded(100)),
    "irs": irs,
    "kitti2012": lambda: (
        sides("training/colored_@/000000_10.png", names=("0", "1"))
        | sides("training/disp_@/000000_10.png", coded(256), np.where(HIDDEN, 0, coded(256)).astype(np.uint16), ("occ", "noc"))
        | {"training/calib/000000.txt": "P2: 9 0 1 0 0 9 1 0 0 0 1 0\nP3: 9 0 1 -4.5 0 9 1 0 0 0 1 0\n"}
    ),
    "kitti2015": lambda: (
        sides("training/image_@/000000_10.png", names=("2", "3"))
        | both("training/disp_occ_@/000000_10.png", coded(256), ("0", "1"))
        | both("training/disp_noc_@/000000_10.png", np.where(HIDDEN, 0, coded(256)).astype(np.uint16), ("0", "1"))
        | {"training/calib_cam_to_cam/000000.txt": "P_rect_02: 9 0 1 0 0 9 1 0 0 0 1 0\nP_rect_03: 9 0 1 -4.5 0 9 1 0 0 0 1 0\n"}
    ),
    "middeval3": lambda: middlebury("trainingH/Piano", "disp@GT.pfm") | {"trainingH/Piano/mask0nocc.png": NOCC_MASK},
    "middlebury2001": lambda: sides("venus/im@.ppm", names=("2", "6")) | both("venus/disp@.pgm", coded(8, np.uint8), ("2", "6")),
    "middlebury2003": lambda: sides("teddy/im@.png", names=("2", "6")) | both("teddy/disp@.png", coded(4, np.uint8), ("2", "6")),
    "middlebury2005": middlebury_2006,
    "middlebury2006": middlebury_2006,
    "middlebury2014": lambda: middlebury("Piano-perfect", "disp@.pfm"),
    "middlebury2021": lambda: middlebury("data/chess1", "disp@.pfm"),
    "monkaa": lambda: sceneflow("eating_x2"),
    "sceneflow": lambda: sceneflow(FLYING, "FlyingThings3D/") | sceneflow("eating_x2", "Monkaa/") | sceneflow(DRIVING, "Driving/"),
    "scenes": scenes,
    "sintel": sintel,
    "spring": spring,
    "synthetic": dict,
    "tartanair": lambda: (
        sides("ocean/Easy/P000/image_@/000000_@.png") | both("ocean/Easy/P000/depth_@/000000_@_depth.npy", depth(80 * WIDTH / 640))
    ),
    "unreal_stereo4k": lambda: sides("00000/Image@/00000.png", names=("0", "1")) | both("00000/Disp@/00000.npy", TRUTH, ("0", "1")),
    "virtual_kitti2": lambda: (
        sides("Scene01/clone/frames/rgb/@/rgb_00000.jpg", names=VIEWS)
        | both("Scene01/clone/frames/depth/@/depth_00000.png", depth(38623.03 * WIDTH / 1242).astype(np.uint16), VIEWS)
    ),
}
PARAMS = {
    "folder": {"left": "*/left.png", "right": "*/right.png", "disparity": "*/disparity.pfm"},
    "synthetic": {"size": [64, 48], "max_disparity": 20, "length": 2},
    "sintel": {"truth": "occ"},
}


def table() -> dict[str, dict[str, str]]:
    """Type -> column -> cell of the README."""
    rows = [
        [cell.strip() for cell in line.strip("|\n ").split(" | ")]
        for line in (Path(train.datasets.__file__).parent / "README.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    columns = rows[0]
    return {row[0].strip("`"): dict(zip(columns, [*row, ""][: len(columns)], strict=True)) for row in rows[2:]}


def test_the_readme_lists_every_type_with_its_parameters():
    assert sorted(table()) == sorted(DATASETS) == sorted(LAYOUTS)
    for kind, row in table().items():
        if kind != "synthetic":  # has many and no path: described where it is
            stated = re.findall(r"`(\w+)`", row["parameters"])
            assert sorted([*stated, "allow_unpaired"]) == sorted(DATASETS.parameters(kind).model_fields), kind


@pytest.mark.parametrize("kind", sorted(DATASETS))
def test_a_complete_layout_carries_what_the_readme_says(tmp_path, kind):
    write(tmp_path, LAYOUTS[kind]())
    dataset = build_dataset(kind, None if kind == "synthetic" else tmp_path, PARAMS.get(kind, {}), "here")
    row = table()[kind]
    for i in range(len(dataset)):
        sample = dataset.load(i).check()
        assert sample.key == dataset.key(i) and all(file.is_file() for file in dataset.files(i))
        carried = {"right": sample.disparity_right, "hidden": sample.occluded, "camera": sample.calibration}
        for column, value in carried.items():
            assert row[column] in ("as given", "no" if value is None else "yes"), column
        assert dataset.has_right_disparity == (sample.disparity_right is not None)
        if kind != "synthetic":
            assert (sample.left == 10).all() and (sample.right == 200).all()
            assert sample.disparity == pytest.approx(TRUTH, rel=0.04) and (sample.valid == (TRUTH > 0)).all()  # whole cm
            if sample.occluded is not None:
                assert (sample.occluded & sample.valid).tolist() == (HIDDEN > 0).tolist()
    assert len(dataset) == {"sceneflow": 3, "synthetic": 2}.get(kind, 1)
