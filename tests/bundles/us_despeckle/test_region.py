# SPDX-License-Identifier: Apache-2.0
"""Where the ultrasound is, and where speckle is measured."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from common.data.sample_data.ultrasound import PROBES, make_frame
from common.errors import InputError
from us_despeckle_lib.frames import Frames, read_frames
from us_despeckle_lib.region import detect_region, parse_box, ultrasound_region
from us_despeckle_lib.rois import CONTRAST, find_rois, given_rois

from .layouts import SCREENS, make_screen


def screen(shape=(240, 320), box=(40, 30, 250, 200)):
    """A black screen with a rectangle of speckle and thin text; and the rectangle's mask."""
    left, top, right, bottom = box
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    random = np.random.default_rng(0)
    pixels = np.where(mask, np.clip(random.normal(110, 40, shape), 0, 255), 0).astype(np.uint8)
    pixels[8:12, 60:180:3] = 230  # thin text
    pixels[220, 20:300] = 200
    return pixels, mask


def agreement(first, second):
    return (first & second).sum() / (first | second).sum()


def test_a_rectangle_is_found_without_text():
    pixels, mask = screen()
    assert agreement(detect_region(pixels / 255), mask) > 0.97


def test_text_right_above_the_image_stays_out():
    shape = (540, 720)
    pixels, mask = screen(shape, (100, 60, 600, 500))
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).text((300, 46), "TIS: 0.01, MI: 0.45, Nerve", fill=200)
    region = detect_region(np.asarray(picture) / 255)
    assert agreement(region, mask) > 0.97
    assert not region[46:57].any()


def test_a_fan_is_found_without_text():
    frame = make_frame(3, PROBES["low"], 256, fan=True)
    region = detect_region(frame["image"] / 255)
    assert agreement(region, frame["clean"] > 0) > 0.93
    assert not region[-16:, :120].any()


def test_a_picture_without_margins_is_all_ultrasound():
    assert detect_region(make_frame(3, PROBES["low"], 128)["image"] / 255).all()
    assert detect_region(np.zeros((20, 30))).all()


@pytest.mark.parametrize("name", SCREENS)
def test_the_scan_is_found_on_the_screens_of_many_scanners(name):
    pixels, mask = make_screen(SCREENS[name])
    region = detect_region(pixels / 255)
    assert agreement(region, mask) > 0.96
    assert not (region & ~ndimage.binary_dilation(mask, iterations=2)).any()  # no text, bar, ruler or margin
    assert (region & ~mask).sum() < 0.003 * mask.sum()


def test_the_palette_picture_of_pydicom_is_one_frame_with_a_fan():
    path = pydicom.data.get_testdata_file("examples_palette.dcm", download=False)
    if path is None:
        pytest.skip("this pydicom has no such example")
    frames = read_frames(path)
    assert frames.pixels.shape == (1, 350, 800, 3)
    assert frames.boxes == [(120, 60, 799, 349)]  # named down to row 518 of a picture that was cropped
    region = ultrasound_region(frames, path=str(path))
    rows, columns = np.nonzero(region)
    assert 325 <= columns.min() < columns.max() <= 600 and 60 <= rows.min() < rows.max() < 180
    assert not region[64, 460]  # above the curved probe
    assert region[110, 460]


REAL = {
    "hd11": (120, 70, 742, 508),
    "logicscan": (237, 43, 997, 686),
    "logiqe9-gl": (105, 55, 693, 525),
    "smartus": (378, 94, 1287, 818),
    "mindray": None,
    "logiqe9-vl": None,
}


@pytest.mark.parametrize("name", REAL)
def test_the_scan_is_found_in_real_frames(name):
    folder = Path(os.environ.get("ULTRASOUND_FRAMES", "")) / name
    if not os.environ.get("ULTRASOUND_FRAMES") or not folder.is_dir():
        pytest.skip("ULTRASOUND_FRAMES names no folder with real frames")
    for path in sorted(folder.iterdir())[::6]:
        region = ultrasound_region(read_frames(path), path=str(path))
        rows, columns = np.nonzero(region)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        if REAL[name] is None:  # some of these have no margins
            assert region.mean() > 0.4, path
            continue
        slanted = name == "hd11"  # its depth changes the slant, and with it the right end
        wrong = np.abs(found - REAL[name])[[0, 1, 3] if slanted else slice(None)]
        assert wrong.max() <= 6, (path, found)
        assert region.sum() > (0.78 if slanted else 0.97) * (found[2] - found[0]) * (found[3] - found[1]), path


def test_dicom_tells_where_to_look_and_a_given_box_decides():
    pixels, mask = screen()
    pixels[60:180, 270:310] = 120  # a bright bar beside the image
    frames = Frames(pixels[None], 255, [(30, 25, 255, 205)])
    assert agreement(ultrasound_region(frames), mask) > 0.97
    inside = ultrasound_region(frames, (50, 60, 70, 90))
    assert np.argwhere(inside).min(axis=0).tolist() == [60, 50]
    assert inside.sum() == 20 * 30


def test_coloured_pixels_are_left_out_and_doppler_is_named(caplog):
    pixels, mask = screen()
    colour = np.repeat(pixels[None, ..., None], 3, axis=-1)
    colour[0, 80:110, 100:140] = (200, 30, 30)
    with caplog.at_level(logging.WARNING):
        region = ultrasound_region(Frames(colour, 255), path="flow.png")
    assert "flow.png" in caplog.text and "Doppler" in caplog.text
    assert not region[80:110, 100:140].any()
    assert agreement(region | (mask & ~region), mask) > 0.97
    caplog.clear()
    colour[0, 80:110, 100:140] = 90
    colour[0, 50:53, 50:53] = (30, 60, 220)  # a mark of the scanner
    ultrasound_region(Frames(colour, 255), path="mark.png")
    assert not caplog.text


@pytest.mark.parametrize("box", ["[1,2,3]", "[5,5,5,9]", "[-1,0,4,4]", "[0,0,4.5,4]", "box"])
def test_boxes_that_are_none(box):
    with pytest.raises(InputError, match="region must be"):
        parse_box(box)
    assert parse_box("null") is None
    assert parse_box("[1, 2, 30, 40]") == (1, 2, 30, 40)


def test_homogeneous_tissue_and_the_darkest_patch_are_found():
    random = np.random.default_rng(0)
    image = random.normal(0.5, 0.08, (160, 160))
    image[:, 80:] += 0.25 * np.sin(np.arange(80) / 6)  # uneven on the right
    image[100:125, 20:45] = random.normal(0.05, 0.02, (25, 25))  # a vessel
    labels = find_rois(image.clip(0, 1), np.ones(image.shape, bool))
    assert set(np.unique(labels)) == {CONTRAST, 0, 1, 2, 3}
    assert np.argwhere(labels > 0)[:, 1].max() < 84
    assert not ((labels > 0)[100:125, 20:45]).any()
    rows, columns = np.nonzero(labels == CONTRAST)
    assert rows.min() >= 98 and rows.max() <= 126 and columns.min() >= 18 and columns.max() <= 46


def test_patches_stay_in_the_region():
    region = np.zeros((120, 120), bool)
    region[30:90, 40:100] = True
    labels = find_rois(np.random.default_rng(0).random((120, 120)), region)
    assert labels.any()
    assert not labels[~region].any()
    assert not find_rois(np.ones((8, 8)), np.ones((8, 8), bool)).any()


def test_an_area_of_one_grey_level_is_no_tissue():
    image = np.random.default_rng(0).random((120, 120))
    image[:, :60] = 0.5  # the most homogeneous of all, and its SSNR would be infinite
    labels = find_rois(image, np.ones(image.shape, bool))
    assert (labels > 0).any() and not (labels[:, :49] > 0).any()


def test_given_boxes_and_masks(tmp_path):
    labels = given_rois((40, 50), "[[2,3,10,12],[20,20,30,30]]", "[40,0,50,10]", None, "a.png")
    assert (labels == 1).sum() == 72 and (labels == 2).sum() == 100 and (labels == CONTRAST).sum() == 100
    assert given_rois((40, 50), None, None, "null", "a.png") is None
    mask = np.zeros((40, 50), np.uint8)
    mask[:5], mask[10:15] = 1, 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    for source in (tmp_path, tmp_path / "a.png"):
        labels = given_rois((40, 50), None, None, str(source), "in/a.dcm")
        assert (labels == 1).sum() == 250 and (labels == CONTRAST).sum() == 250
    assert not given_rois((40, 50), None, None, str(tmp_path), "in/other.dcm").any()
    with pytest.raises(InputError, match=r"50 x 40 pixels, b\.png 50 x 41"):
        given_rois((41, 50), None, None, str(tmp_path / "a.png"), "b.png")
    with pytest.raises(InputError, match="lies outside the picture of 50 x 40 pixels"):
        given_rois((40, 50), [0, 0, 51, 4], None, None, "b.png")
