"""Every kind of picture file becomes 8-bit RGB, and a broken one is an error that names it."""

import numpy as np
import pytest
from PIL import Image

from utils.images import read_image, read_raw, write_image

COLOURS = np.array([[[250, 10, 20], [5, 200, 30]], [[0, 0, 0], [255, 255, 255]]], np.uint8)


def test_rgb_png_round_trip_keeps_the_order_of_channels(tmp_path):
    write_image(tmp_path / "a.png", COLOURS)
    assert (read_image(tmp_path / "a.png") == COLOURS).all()
    assert (read_raw(tmp_path / "a.png") == COLOURS).all()
    assert (np.array(Image.open(tmp_path / "a.png")) == COLOURS).all()


def test_grey_is_repeated(tmp_path):
    grey = np.array([[0, 7], [128, 255]], np.uint8)
    write_image(tmp_path / "grey.png", grey)
    assert (read_image(tmp_path / "grey.png") == grey[..., None]).all()
    assert (read_raw(tmp_path / "grey.png") == grey).all()


def test_16_bits_are_reduced_for_looking_and_kept_for_numbers(tmp_path):
    values = np.array([[0, 256], [32768, 65535]], np.uint16)
    write_image(tmp_path / "deep.png", values)
    assert (read_raw(tmp_path / "deep.png") == values).all()
    image = read_image(tmp_path / "deep.png")
    assert image.dtype == np.uint8 and (image[..., 0] == [[0, 1], [128, 255]]).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bits_are_refused(tmp_path, kind):
    Image.fromarray(np.array([[0, 1], [300, 65535]], kind)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=r"deep\.tif: an image of 32 bits per value, .*; save it with 8 or 16 bits"):
        read_image(tmp_path / "deep.tif")
    Image.fromarray(np.array([[0, 256], [32768, 65535]], np.uint16)).save(tmp_path / "deep.tif")
    assert (read_image(tmp_path / "deep.tif")[..., 0] == [[0, 1], [128, 255]]).all()


def test_alpha_is_dropped(tmp_path):
    rgba = np.dstack([COLOURS, np.full((2, 2), 90, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert (read_image(tmp_path / "alpha.png") == COLOURS).all()
    assert (read_raw(tmp_path / "alpha.png") == rgba).all()
    Image.fromarray(np.full((2, 2, 2), 60, np.uint8)).save(tmp_path / "grey_alpha.png")
    assert (read_image(tmp_path / "grey_alpha.png") == 60).all()


def test_palette_is_looked_up(tmp_path):
    picture = Image.fromarray(COLOURS).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    picture.save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == COLOURS).all()
    picture.save(tmp_path / "palette.gif")
    assert (read_image(tmp_path / "palette.gif") == COLOURS).all()


def test_cmyk_jpeg_has_the_right_colours(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[...] = (200, 30, 40)
    Image.fromarray(red).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - red).max() <= 6


def test_orientation_tag_does_not_turn_a_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 24, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 24, 3)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_cut_off_empty_and_wrong_files_are_named(tmp_path, name):
    path = tmp_path / name
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"no picture at all"):
        path.write_bytes(broken)
        for read in (read_image, read_raw):
            with pytest.raises(ValueError, match=name):
                read(path)
    path.unlink()
    with pytest.raises(OSError, match=name):
        read_image(path)
