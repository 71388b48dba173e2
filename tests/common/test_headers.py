# SPDX-License-Identifier: Apache-2.0
"""Every kind of file that cannot work is named in one line, from its header alone."""

import gzip
import logging
import struct
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage
from scipy.spatial.transform import Rotation

from common.errors import InputError, one_line
from common.io.headers import check_headers, dicom_series
from common.io.inputs import find_scans

SHAPE = (7, 9, 5)
SPACING = (0.5, 0.7, 3.0)
ORIGIN = (-10.0, 20.0, 5.5)
TILTED = Rotation.from_euler("xyz", [10, 20, -15], degrees=True).as_matrix()


def voxels(shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(0).integers(0, 500, shape).astype(dtype)


def write_nifti(path, data=None, affine=None, image_class=nib.Nifti1Image):
    nib.save(image_class(voxels() if data is None else data, np.eye(4) if affine is None else affine), path)
    return str(path)


def write_patched(path, offset, content):
    """Write an uncompressed NIfTI-1 file and replace some bytes of its header."""
    write_nifti(path)
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)
    return str(path)


def write_series(folder, uid="1.2.826.0.1.77", positions=(0, 3, 6, 9, 12), axes=None, thickness=3.0):
    """Write one DICOM file per slice; `positions` in mm along the slice normal, `axes` one matrix per slice."""
    folder.mkdir(parents=True, exist_ok=True)
    data = voxels((len(positions), SHAPE[1], SHAPE[0]))
    for k, position in enumerate(positions):
        direction = TILTED if axes is None else axes[k]
        origin = np.array(ORIGIN) + direction[:, 2] * position
        image = itk.image_from_array(data[k : k + 1])
        image.SetSpacing(list(SPACING))
        image.SetOrigin(origin.tolist())
        image.SetDirection(itk.matrix_from_array(direction))
        tags = image.GetMetaDataDictionary()
        tags["0008|0016"] = "1.2.840.10008.5.1.4.1.1.4"
        tags["0008|0018"] = f"{uid}.{k + 1}"
        tags["0008|0060"] = "MR"
        tags["0018|0050"] = str(thickness)
        tags["0020|000d"] = "1.2.3"
        tags["0020|000e"] = uid
        tags["0020|0013"] = str(k + 1)
        tags["0020|0032"] = "\\".join(f"{v:.6f}" for v in origin)
        tags["0020|0037"] = "\\".join(f"{v:.8f}" for v in direction.T[:2].ravel())
        io = itk.GDCMImageIO.New()
        io.KeepOriginalUIDOn()
        itk.ImageFileWriter.New(image, FileName=str(folder / f"{uid}-{thickness:g}-{k}.dcm"), ImageIO=io).Update()
    return data


def reason_for(path, **options):
    """Check one file that must be refused; return the reason."""
    good, failures = check_headers([str(path)], **options)
    assert good == []
    ((named, reason),) = failures
    assert named == str(path)
    assert "\n" not in reason and str(path) not in reason
    return reason


# NIfTI


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_good_nifti_files_pass(tmp_path, name, kind):
    sheared = np.eye(4) + np.diag([0.2, 0.1], 2)
    path = write_nifti(tmp_path / name, affine=sheared, image_class=kind)
    assert check_headers([path]) == ([path], [])


def test_good_files_keep_their_order_beside_bad_ones(tmp_path):
    good = [write_nifti(tmp_path / name) for name in ("b.nii", "a.nii.gz")]
    bad = str(tmp_path / "none.nii")
    assert check_headers([good[0], bad, good[1]]) == (good, [(bad, "no such file")])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert reason_for(tmp_path / name) == "the file is empty"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "not a gzip file"), ("a.nii", "not a NIfTI image"), ("a.mha", "not an image"), ("a.txt", "not an")],
)
def test_text_is_no_image(tmp_path, name, expected):
    (tmp_path / name).write_text("no image at all\n" * 50, encoding="utf-8")
    assert expected in reason_for(tmp_path / name)


def test_link_to_a_file_that_is_not_there(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "annex")
    assert "link" in reason_for(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("kept", [40, 0.3, 0.9, -1])
def test_truncated_gzip(tmp_path, kept):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, voxels((40, 30, 20)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if isinstance(kept, float) else kept])
    assert "ended before" in reason_for(path) or "truncated" in reason_for(path)


def test_damaged_gzip_with_another_length(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(Path(write_nifti(path)).read_bytes())[:-10]))
    assert "truncated: 972 of 982 bytes" in reason_for(path)


def test_gzip_of_several_members_with_padding_is_good(tmp_path):
    path = tmp_path / "a.nii.gz"
    raw = gzip.decompress(Path(write_nifti(path)).read_bytes())
    path.write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]) + gzip.compress(b"pad"))
    assert check_headers([path]) == ([str(path)], [])


def test_truncated_without_compression(tmp_path):
    path = tmp_path / "a.nii"
    write_nifti(path)
    path.write_bytes(path.read_bytes()[:500])
    assert "truncated: 500 of 982 bytes" in reason_for(path)


@pytest.mark.parametrize("shape", [(7, 9, 5, 4), (7, 9), (7, 9, 5, 1, 3)])
def test_other_dimensions_than_meant(tmp_path, shape):
    path = write_nifti(tmp_path / "a.nii.gz", voxels(shape))
    assert f"{len(shape)}D image ({' x '.join(map(str, shape))}) where a 3D one is meant" == reason_for(path)
    if len(shape) == 4:
        assert check_headers([path], volumes=True) == ([path], [])
    else:
        assert "where a 4D one is meant" in reason_for(path, volumes=True)


def test_one_trailing_axis_of_length_one_is_fine(tmp_path):
    volume, plane = (
        write_nifti(tmp_path / "v.nii", voxels((7, 9, 5, 1))),
        write_nifti(tmp_path / "p.nii", voxels((7, 9, 1))),
    )
    assert check_headers([volume]) == ([volume], [])
    assert check_headers([plane], ndim=2) == ([plane], [])
    assert "4D image" in reason_for(volume, ndim=2)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_spacing_must_be_positive(tmp_path, value):
    path = write_patched(tmp_path / "a.nii", 76 + 4 * 2, struct.pack("<f", value))
    assert f"voxel spacing 1 x {value:g} x 1 mm is not positive" == reason_for(path)


@pytest.mark.parametrize(
    ("row", "expected"), [((0, 0, 0, 0), "singular"), ((0, 0, float("nan"), 0), "NaN"), ((0, 2, 0, 0), "singular")]
)
def test_affine_must_have_three_axes(tmp_path, row, expected):
    path = write_patched(tmp_path / "a.nii", 312, struct.pack("<4f", *row))  # the third row of the sform
    assert expected in reason_for(path)


def test_voxels_must_be_numbers(tmp_path):
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert reason_for(write_nifti(tmp_path / "rgb.nii", rgb)).startswith("RGB voxels")
    assert reason_for(write_nifti(tmp_path / "c.nii", voxels(dtype=np.complex64))).startswith("complex64 voxels")
    assert reason_for(write_patched(tmp_path / "t.nii", 70, b"\x07\x00")) == "voxel type 7 is not one that NIfTI knows"


def test_no_voxels(tmp_path):
    assert "no voxels" in reason_for(write_patched(tmp_path / "a.nii", 42, b"\x00\x00"))


# other formats, through ITK


def test_mha_and_png(tmp_path):
    volume = str(tmp_path / "v.mha")
    itk.imwrite(itk.image_from_array(voxels()), volume)
    assert check_headers([volume]) == ([volume], [])
    frame = str(tmp_path / "f.png")
    itk.imwrite(itk.image_from_array(voxels((8, 6), np.uint8)), frame)
    assert check_headers([frame], ndim=2) == ([frame], [])
    assert reason_for(frame) == "2D image (6 x 8) where a 3D one is meant"


def test_color_is_accepted_only_on_request(tmp_path):
    path = str(tmp_path / "f.png")
    itk.imwrite(itk.image_from_array(voxels((8, 6, 3), np.uint8), is_vector=True), path)
    assert reason_for(path, ndim=2).startswith("RGB voxels")
    assert check_headers([path], ndim=2, color=True) == ([path], [])


@pytest.mark.parametrize(
    ("spacing", "direction", "expected"),
    [("1 0 1", "1 0 0 0 1 0 0 0 1", "spacing 1 x 0 x 1 mm"), ("1 1 1", "1 0 0 1 0 0 0 0 1", "the affine is singular")],
)
def test_zero_spacing_and_singular_directions_through_itk(tmp_path, spacing, direction, expected):
    path = tmp_path / "v.mha"
    head = (
        f"ObjectType = Image\nNDims = 3\nTransformMatrix = {direction}\nElementSpacing = {spacing}\nDimSize = 2 2 2\n"
    )
    path.write_bytes(f"{head}ElementType = MET_UCHAR\nElementDataFile = LOCAL\n".encode() + bytes(8))
    assert expected in reason_for(path)


# DICOM


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "series"
    return folder, write_series(folder)


def test_dicom_series_passes_and_loads_with_the_right_affine(series):
    folder, data = series
    assert check_headers([folder]) == ([str(folder)], [])
    image = LoadImage()(str(folder))
    lps = np.eye(4)
    lps[:3] = np.column_stack([TILTED * SPACING, ORIGIN])
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-4)
    np.testing.assert_array_equal(image, data.transpose(2, 1, 0))


def test_dicom_files_come_in_slice_order_whatever_their_names(tmp_path):
    write_series(tmp_path / "s", positions=(6, 0, 3))
    assert [file[-5] for file in dicom_series(tmp_path / "s")] == ["1", "2", "0"]


def test_two_series_in_one_folder(tmp_path):
    for uid in ("1.2.77", "1.2.9"):
        write_series(tmp_path / "s", uid, positions=(0, 3))
    reason = reason_for(tmp_path / "s")
    assert "2 DICOM series (1.2.77, 1.2.9)" in reason
    with pytest.raises(InputError) as caught:  # nothing else to go on with: told at once
        find_scans(tmp_path / "s")
    assert str(caught.value) == f"{tmp_path / 's'}: {reason}"


def test_two_stacks_in_one_series(tmp_path):
    for thickness in (3.0, 6.0):
        write_series(tmp_path / "s", positions=(0, 3), thickness=thickness)
    assert "2 stacks of one DICOM series (1.2.826.0.1.77)" in reason_for(tmp_path / "s")


def test_several_volumes_in_one_series(tmp_path):
    write_series(tmp_path / "s", positions=(0, 3, 0, 3))
    assert "share one position" in reason_for(tmp_path / "s")


def test_slices_of_other_orientation(tmp_path):
    write_series(tmp_path / "s", positions=(0, 3), axes=[np.eye(3), TILTED])
    assert "differ in orientation" in reason_for(tmp_path / "s")


def test_missing_slice_is_a_warning(tmp_path, caplog):
    write_series(tmp_path / "s", positions=(0, 3, 9))
    with caplog.at_level(logging.WARNING):
        assert check_headers([tmp_path / "s"]) == ([str(tmp_path / "s")], [])
    (record,) = caplog.records
    assert "3 to 6 mm apart" in record.getMessage() and str(tmp_path / "s") in record.getMessage()


def test_sound_series_gives_no_warning(series, caplog):
    check_headers([series[0]])
    assert not caplog.records


def test_one_dicom_slice_is_a_frame(series, tmp_path):
    frame = dicom_series(series[0])[0]
    assert check_headers([frame], ndim=2) == ([frame], [])
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "frame.dcm").write_bytes(Path(frame).read_bytes())
    assert check_headers([tmp_path / "one"])[1] == []
    assert "3D image" in reason_for(series[0], ndim=2)


def test_folder_without_a_series(tmp_path):
    (tmp_path / "a.dcm").write_text("no DICOM", encoding="utf-8")
    assert "no DICOM series" in reason_for(tmp_path)


# texts


def test_library_errors_become_one_short_line():
    assert one_line(RuntimeError("/a/b.cxx:10:\nITK ERROR: GDCMImageIO(0x55e): Cannot read")) == "Cannot read"
    assert one_line(RuntimeError("no reader\nTraceback (most recent call last):\n  x\nOSError: bad")) == "OSError: bad"
    assert one_line(KeyError("unit")) == "KeyError 'unit'"
    assert one_line(EOFError()) == "EOFError"
    assert len(one_line(ValueError("x" * 999))) == 200
