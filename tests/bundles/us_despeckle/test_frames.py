# SPDX-License-Identifier: Apache-2.0
"""Files of every kind, in and out."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from common.errors import InputError
from us_despeckle_lib.frames import find_frames, read_frames
from us_despeckle_lib.savers import write_like
from us_despeckle_lib.transforms import LoadFramesd, PlainPictured, measure_frames


def dicom(path, pixels, photometric="MONOCHROME2", bits=8, boxes=()):
    """Write an ultrasound file of ``(N, H, W[, 3])``."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.SeriesInstanceUID = pydicom.uid.generate_uid()
    dataset.PatientName, dataset.Modality, dataset.ImageType = "X^Y", "US", ["ORIGINAL", "PRIMARY", "ABDOMINAL"]
    dataset.set_pixel_data(pixels, photometric, bits)
    regions = []
    for left, top, right, bottom in boxes:
        region = pydicom.Dataset()
        region.RegionSpatialFormat, region.RegionDataType = 1, 1
        region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right, bottom
        regions.append(region)
    if regions:
        dataset.SequenceOfUltrasoundRegions = regions
    dataset.save_as(path, enforce_file_format=True)


def levels(shape, seed=0, top=255):
    return np.random.default_rng(seed).integers(0, top + 1, shape).astype(np.uint8 if top == 255 else np.uint16)


def write(path, pixels):
    """Write ``(N, H, W[, 3])`` as the ending says."""
    if path.suffix == ".dcm":
        dicom(path, pixels, "RGB" if pixels.ndim == 4 else "MONOCHROME2", 8 if pixels.dtype == np.uint8 else 12)
        return
    pages = [Image.fromarray(page) for page in pixels]
    more = {"save_all": True, "append_images": pages[1:]} if len(pages) > 1 else {}
    pages[0].save(path, **more, **({"quality": 95} if path.suffix == ".jpg" else {}))


CASES = [
    ("a.png", levels((1, 9, 13))),
    ("a.png", levels((1, 9, 13, 3))),
    ("a.png", levels((1, 9, 13), top=65535)),
    ("a.tif", levels((3, 9, 13))),
    ("a.tif", levels((1, 9, 13, 3))),
    ("a.dcm", levels((4, 9, 13))),
    ("a.dcm", levels((1, 9, 13))),
    ("a.dcm", levels((2, 9, 13, 3))),
    ("a.dcm", levels((2, 9, 13), top=4095)),
]


@pytest.mark.parametrize(("name", "pixels"), CASES)
def test_read_change_the_region_and_write_the_same_kind(tmp_path, name, pixels):
    source, target = tmp_path / name, tmp_path / f"out{name[1:]}"
    write(source, pixels)
    frames = read_frames(source)
    assert np.array_equal(frames.pixels, pixels)
    region = np.zeros(pixels.shape[1:3], bool)
    region[2:6, 3:9] = True
    write_like(source, target, np.full(pixels.shape[:3], 0.5, np.float32), region)
    again = read_frames(target)
    assert again.pixels.dtype == pixels.dtype
    assert again.pixels.shape == pixels.shape
    assert np.array_equal(again.pixels[:, ~region], pixels[:, ~region])
    assert np.abs(again.grey()[:, region] - 0.5).max() < 0.003


def test_a_grey_level_survives_the_way_through_rgb(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    write(tmp_path / "a.png", np.repeat(grey[..., None], 3, axis=-1))
    frames = read_frames(tmp_path / "a.png")
    assert np.array_equal(np.rint(frames.grey() * 255), grey)
    assert not frames.coloured().any()


def test_coloured_pixels_are_known(tmp_path):
    pixels = np.full((1, 8, 8, 3), 90, np.uint8)
    pixels[0, 2, 3] = (30, 60, 200)
    write(tmp_path / "a.png", pixels)
    assert np.argwhere(read_frames(tmp_path / "a.png").coloured()).tolist() == [[0, 2, 3]]


def test_a_picture_that_is_coloured_throughout_has_no_domain(tmp_path):
    pixels = levels((1, 40, 40, 3))
    write(tmp_path / "a.png", pixels)
    assert measure_frames(LoadFramesd("image")({"image": str(tmp_path / "a.png")})["image"]) == {}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_stays_jpeg_and_its_margins_nearly_as_they_were(tmp_path, mode):
    source = tmp_path / "a.jpg"
    smooth = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(source, quality=80)
    before = read_frames(source)
    region = np.zeros((64, 80), bool)
    region[16:48, 16:64] = True
    write_like(str(source), tmp_path / "b.jpg", np.full((1, 64, 80), 0.25, np.float32), region)
    with Image.open(tmp_path / "b.jpg") as after:
        assert (after.format, after.mode, after.size) == ("JPEG", mode, (80, 64))
    difference = np.abs(read_frames(tmp_path / "b.jpg").pixels.astype(int) - before.pixels)[0]
    assert difference[~region].max() <= 3
    assert difference[region].max() > 20
    write_like(str(source), tmp_path / "c.png", np.full((1, 64, 80), 0.25, np.float32), region, lossless=True)
    exact = read_frames(tmp_path / "c.png").pixels
    assert np.array_equal(exact[:, ~region], before.pixels[:, ~region])


def test_a_dicom_result_is_a_derived_picture_of_the_same_patient(tmp_path):
    dicom(tmp_path / "a.dcm", levels((3, 9, 13)), boxes=[(1, 2, 10, 7)])
    assert read_frames(tmp_path / "a.dcm").boxes == [(1, 2, 10, 7)]
    write_like(tmp_path / "a.dcm", tmp_path / "b.dcm", np.zeros((3, 9, 13), np.float32), np.ones((9, 13), bool))
    before, after = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    assert after.PatientName == before.PatientName
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert list(after.ImageType) == ["DERIVED", "SECONDARY", "ABDOMINAL"]
    assert "not for diagnosis" in after.DerivationDescription
    assert len(after.SequenceOfUltrasoundRegions) == 1


def test_inverted_grey_is_shown_as_it_is_meant(tmp_path):
    pixels = levels((2, 6, 7))
    dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1")
    assert np.array_equal(read_frames(tmp_path / "a.dcm").pixels, 255 - pixels)
    write_like(tmp_path / "a.dcm", tmp_path / "b.dcm", np.ones((2, 6, 7), np.float32), np.eye(6, 7, dtype=bool))
    again = read_frames(tmp_path / "b.dcm").pixels
    assert (again[:, np.eye(6, 7, dtype=bool)] == 255).all()
    assert pydicom.dcmread(tmp_path / "b.dcm").PhotometricInterpretation == "MONOCHROME1"


def test_transparency_is_kept(tmp_path):
    picture = np.dstack([levels((9, 9, 3)), np.full((9, 9), 77, np.uint8)])
    Image.fromarray(picture, "RGBA").save(tmp_path / "a.png")
    write_like(str(tmp_path / "a.png"), tmp_path / "b.png", np.ones((1, 9, 9), np.float32), np.zeros((9, 9), bool))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), picture)


def test_pictures_are_found_and_results_left_out(tmp_path):
    for name in ("b.PNG", "a.jpg", "deep/c.tif", ".hidden.png", "notes.txt", "a_despeckled.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(path, "PNG")
    dicom(tmp_path / "IM0001", levels((1, 4, 4)))
    (tmp_path / "a_despeckled.png.provenance.json").write_text("{}", encoding="utf-8")
    found = [p.removeprefix(str(tmp_path) + "/") for p in find_frames(tmp_path)]
    assert found == ["a.jpg", "b.PNG", "deep/c.tif", "IM0001"]
    assert find_frames(tmp_path / "notes.txt") == [str(tmp_path / "notes.txt")]


def test_what_cannot_be_read_is_named(tmp_path):
    Image.new("L", (40, 40), 3).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    Image.new("L", (4, 4)).save(tmp_path / "a.bmp")
    reasons = {"half.png": "truncated|cannot be read", "text.png": "not a picture", "float.tif": "pixels of kind F"}
    for name, reason in {**reasons, "a.bmp": "BMP is not read", "none.png": "no such file"}.items():
        with pytest.raises(InputError, match=reason) as error:
            read_frames(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    for folder, reason in ((tmp_path / "empty", "no PNG"), (tmp_path / "none", "no such file or folder")):
        if folder.name == "empty":
            folder.mkdir()
        with pytest.raises(InputError, match=reason):
            find_frames(folder)


@pytest.mark.parametrize(
    "pixels", [levels((1, 9, 13)), levels((1, 9, 13), top=65535), np.repeat(levels((1, 9, 13))[..., None], 3, -1)]
)
def test_the_picture_for_monai_label_is_what_the_saver_writes(tmp_path, pixels):
    write(tmp_path / "in.png", pixels)
    region = np.zeros((9, 13), bool)
    region[2:7, 3:11] = True
    grey = np.random.default_rng(1).random((1, 9, 13)).astype(np.float32)
    write_like(str(tmp_path / "in.png"), tmp_path / "out.png", grey, region)
    written = np.asarray(Image.open(tmp_path / "out.png"))
    meta = {"filename_or_obj": str(tmp_path / "in.png"), "region": torch.from_numpy(region.astype(np.uint8))}
    plain = PlainPictured("pred")({"pred": MetaTensor(torch.from_numpy(grey), meta=meta)})["pred"].numpy()
    assert plain.dtype == pixels.dtype
    np.testing.assert_array_equal(plain.T, written if written.ndim == 2 else written[..., 0])


def test_frames_come_in_natural_order_and_links_once(tmp_path):
    for name in ("case10.png", "case2.png"):
        write(tmp_path / name, levels((1, 9, 13)))
    (tmp_path / "case1.png").symlink_to(tmp_path / "case2.png")
    (tmp_path / "case3.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_frames(tmp_path)
    assert [path.removeprefix(f"{tmp_path}/") for path in found] == ["case2.png", "case3.png", "case10.png"]
    with pytest.raises(InputError, match="a link to a file that is not there"):
        read_frames(tmp_path / "case3.png")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_the_way_a_viewer_turns_a_picture_is_kept_and_nothing_else_of_exif(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "Jane Doe"
    Image.fromarray(levels((9, 13))).save(tmp_path / f"a{ending}", exif=exif)
    write_like(str(tmp_path / f"a{ending}"), tmp_path / f"b{ending}", np.ones((1, 9, 13)), np.ones((9, 13), bool))
    with Image.open(tmp_path / f"b{ending}") as after:
        assert dict(after.getexif()) == {0x0112: 6}


def test_a_grey_picture_keeps_its_alpha(tmp_path):
    picture = Image.fromarray(levels((9, 13)))
    picture.putalpha(Image.fromarray(levels((9, 13), seed=1)))
    picture.save(tmp_path / "a.png")
    write_like(str(tmp_path / "a.png"), tmp_path / "b.png", np.ones((1, 9, 13)), np.zeros((9, 13), bool))
    with Image.open(tmp_path / "b.png") as after:
        assert after.mode == "LA"
        np.testing.assert_array_equal(np.asarray(after), np.asarray(picture))
