# SPDX-License-Identifier: Apache-2.0
"""Images come in where their headers place them, whole, or not at all."""

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from common.errors import InputError
from common.io.headers import check_headers
from common.io.readers import LoadScan, LoadScand, grid_of

SHAPE = (6, 7, 5)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [10, 20, -15], degrees=True).as_matrix() * [0.9, 1.1, 3]
OBLIQUE[:3, 3] = [-11.45, 200.25, 7.5]


def voxels(dtype=np.float32):
    return (np.random.default_rng(0).random(SHAPE) * 1000).astype(dtype)


def write(path, data=None, sform=OBLIQUE, qform=OBLIQUE, codes=(1, 1), units="mm", pixdim=None):
    """A NIfTI file with its two affines as given."""
    image = nib.Nifti1Image(voxels() if data is None else data, np.eye(4))
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    image.header.set_xyzt_units(units)
    nib.save(image, path)
    return str(path)


@pytest.mark.parametrize(
    ("sform", "qform", "codes"),
    [
        (OBLIQUE, OBLIQUE, (1, 1)),
        (OBLIQUE @ np.diag([1.06, 1.03, 1, 1]), OBLIQUE, (1, 1)),
        (OBLIQUE @ np.diag([1.06, 1.03, 1, 1]), np.eye(4), (2, 0)),
        (OBLIQUE @ (np.eye(4) + np.diag([0.3, 0.1], 2)), OBLIQUE, (4, 1)),
        (np.eye(4), OBLIQUE, (0, 1)),
        (np.eye(4), np.diag([2, 3, 4, 1]), (0, 0)),
    ],
)
def test_the_affine_is_nibabels(tmp_path, sform, qform, codes):
    path = write(tmp_path / "a.nii.gz", sform=sform, qform=qform, codes=codes)
    image = LoadScan()(path)
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    np.testing.assert_array_equal(image[0], voxels())
    assert (grid_of(path)[0], image.shape[1:]) == (SHAPE, SHAPE)
    np.testing.assert_array_equal(grid_of(path)[1], nib.load(path).affine)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"sform": OBLIQUE @ np.diag([1.06, 1, 1, 1])}, "sform and qform disagree by up to 0.27 mm"),
        ({"codes": (1, 0), "pixdim": (1, 1.1, 3)}, "voxels of 0.9 x 1.1 x 3 by the sform, of 1 x 1.1 x 3 by pixdim"),
        ({}, None),
        ({"codes": (1, 0)}, None),
        ({"codes": (0, 1), "sform": np.eye(4)}, None),
    ],
)
def test_what_disagrees_is_told_in_one_line(tmp_path, caplog, how, told):
    path = write(tmp_path / "a.nii", **how)
    with caplog.at_level(logging.WARNING):
        LoadScan()(path)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("common")]
    assert lines == ([] if told is None else [f"{path}: {told}; the sform counts"])


def test_a_result_has_one_place_where_its_input_has_two(tmp_path):
    path = write(tmp_path / "a.nii", sform=OBLIQUE + 1, codes=(4, 1))
    meta = LoadScan()(path).meta
    assert int(meta["qform_code"]) == int(meta["sform_code"]) == 4


@pytest.mark.parametrize(("units", "factor"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_units_become_mm(tmp_path, units, factor):
    path = write(tmp_path / "a.nii", units=units)
    wanted = np.diag([factor, factor, factor, 1]) @ nib.load(path).affine
    np.testing.assert_allclose(LoadScan()(path).affine, wanted, rtol=1e-7)
    np.testing.assert_allclose(grid_of(path)[1], wanted, rtol=1e-7)


def test_a_compressed_file_is_read_to_its_checksum(tmp_path):
    path = tmp_path / "a.nii.gz"
    content = bytearray(gzip.compress(Path(write(tmp_path / "a.nii")).read_bytes(), 0))  # stored: damage decompresses
    path.write_bytes(content)
    assert LoadScan()(path).shape == (1, *SHAPE)
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="CRC") as error:
        LoadScan()(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_voxels_of_any_type_become_float32(tmp_path, kind):
    data = voxels().astype(np.uint8).astype(kind)
    image = LoadScan()(write(tmp_path / "a.nii", data))
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image[0], data.astype(np.float32))


def test_values_beyond_single_precision_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"1e\+303 lie beyond single precision"):
        LoadScan()(write(tmp_path / "a.nii", np.where(voxels() > 500, 1e303, 1.0)))


def test_no_other_reader_is_tried(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"text" * 200)
    with pytest.raises(InputError, match="not a NIfTI image"):
        LoadScan()(tmp_path / "a.nii")


def test_slices_that_cannot_be_read_are_named_and_may_be_left_out(tmp_path, write_dicom, caplog):
    write_dicom(tmp_path / "s", voxels(np.int16))
    whole = LoadScan()(tmp_path / "s")
    for number in (0, 5):  # at both ends
        (tmp_path / "s" / f"{number}.dcm").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"2 files of the series cannot be read: 0.dcm, 5.dcm; --allow_missing_slices"):
        LoadScan()(tmp_path / "s")
    with caplog.at_level(logging.WARNING):
        assert check_headers([tmp_path / "s"], allow_missing_slices=True)[1] == []
        rest = LoadScan(allow_missing_slices="true")(tmp_path / "s")
    assert caplog.text.count("0.dcm, 5.dcm; left out") == 1
    np.testing.assert_array_equal(rest, whole[..., 1:-1])
    np.testing.assert_allclose(rest.affine[:3, 3], (whole.affine @ torch.tensor([0, 0, 1.0, 1]).double())[:3])


@pytest.mark.parametrize("number", [0, 3, 5])
def test_a_slice_whose_pixels_are_cut_is_named(tmp_path, write_dicom, number):
    write_dicom(tmp_path / "s", voxels(np.int16))
    path = tmp_path / "s" / f"{number}.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=f"{number}.dcm"):
        LoadScan()(tmp_path / "s")


def picture(mode="L"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 13)).astype(np.uint8)).convert(mode)


def test_pictures_become_grey_and_say_how_they_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("RGB").save(tmp_path / "a.png", exif=exif)
    image = LoadScand("image")({"image": tmp_path / "a.png"})["image"]
    assert image.meta["orientation"] == 6
    np.testing.assert_array_equal(image[0].T, np.asarray(picture()))


@pytest.mark.parametrize(("mode", "reason"), [("P", "palette"), ("LA", "transparent"), ("1", "1 bit")])
def test_pictures_that_a_result_could_not_keep_are_refused_but_as_masks(tmp_path, mode, reason):
    made = picture(mode)
    if mode == "LA":
        made.putalpha(7)
    made.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=reason):
        LoadScan()(tmp_path / "a.png")
    assert LoadScan(kept=False)(tmp_path / "a.png").shape == (1, 13, 9)


@pytest.mark.parametrize("step", [(0, 0, 5), (0, 1.4, 5), (0.6, -0.9, -4)])
def test_a_tilted_series_keeps_its_shear(tmp_path, write_dicom, step, caplog):
    write_dicom(tmp_path / "s", voxels(np.int16))
    for number in range(SHAPE[0]):
        path = tmp_path / "s" / f"{number}.dcm"
        made = pydicom.dcmread(path)
        made.ImagePositionPatient = list(np.array([-9.0, 4, 0]) + number * np.array(step))
        made.save_as(path)
    with caplog.at_level(logging.WARNING):
        assert check_headers([tmp_path / "s"])[1] == []
        image = LoadScan()(tmp_path / "s")
    assert caplog.text.count("tilted by") == (step[:2] != (0, 0))
    corner = image.affine @ torch.tensor([0, 0, SHAPE[0] - 1.0, 1]).double()
    ends = np.array([[9.0, -4, 0], np.array([9.0, -4, 0]) + 5 * np.array(step) * [-1, -1, 1]])
    found = np.array([image.affine[:3, 3].numpy(), corner[:3].numpy()])
    np.testing.assert_allclose(found if step[2] > 0 else found[::-1], ends, atol=1e-4)


@pytest.mark.parametrize(
    ("element", "value", "reason"),
    [
        ("PixelSpacing", None, "PixelSpacing is missing"),
        ("PixelSpacing", [0, 0], r'PixelSpacing is "0.0\0.0"'),
        ("ImageOrientationPatient", None, "ImageOrientationPatient is missing"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "ImageOrientationPatient is"),
    ],
)
def test_what_dicom_does_not_state_is_not_made_up(tmp_path, write_dicom, element, value, reason):
    write_dicom(tmp_path / "s", voxels(np.int16))
    for path in (tmp_path / "s").iterdir():
        made = pydicom.dcmread(path)
        if value is None:
            delattr(made, element)
        else:
            setattr(made, element, value)
        made.save_as(path)
    ((_, told),) = check_headers([tmp_path / "s"])[1]
    assert reason in told


def test_making_a_reader_says_nothing_of_decoders_that_nobody_asked_for(caplog, recwarn):
    LoadScan()
    assert not caplog.records and not recwarn.list
