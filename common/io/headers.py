# SPDX-License-Identifier: Apache-2.0
"""What headers tell before any voxel is read: NIfTI through nibabel, other formats and DICOM series through ITK."""

from __future__ import annotations

import gzip
import math
import os
import stat
import zlib
from collections.abc import Iterable, Sequence
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

from common.errors import InputError, one_line
from common.io.pictures import SUFFIXES as PICTURES
from common.io.pictures import open_picture
from common.io.series import check_plane, dicom_series, is_dicom, read_information, series_affine

__all__ = [
    "NIFTI_SUFFIXES",
    "UNITS",
    "check_file",
    "check_headers",
    "dicom_series",
    "millimetres",
    "nifti_header",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
SINGULAR = 1e-4  # smallest singular value of the affine's unit columns; a gantry tilt of 30 degrees leaves 0.7
MOST_VOXELS = 2**31
UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # mm in NIfTI's unknown units, metres, mm and micrometres


def check_headers(
    paths: Iterable[str],
    ndim: int = 3,
    color: bool = False,
    volumes: bool = False,
    allow_missing_slices: bool = False,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Sort out, before the first case is processed, the files that cannot work; only headers are read.

    A compressed NIfTI file's last bytes hold its length, which tells of truncation at no cost.

    Args:
        paths: image files and DICOM series folders.
        ndim: number of spatial axes meant, 2 or 3; one more axis of length 1 is accepted.
        color: accept RGB and RGBA pixels too, for loaders that turn them grey (ultrasound screenshots).
        volumes: accept any length of that one more axis, for files that hold several volumes.
        allow_missing_slices: accept DICOM series of which some files cannot be read.

    Returns:
        The paths that can work, in their order, and `(path, reason)` for each of the others.
    """
    good, failures = [], []
    for path in map(os.fspath, paths):
        try:
            _check_header(path, ndim, color, volumes, allow_missing_slices)
            good.append(path)
        except InputError as error:
            failures.append((path, error.reason))
        except Exception as error:  # whatever a damaged file makes a reader raise
            failures.append((path, f"cannot be read ({one_line(error)})"))
    return good, failures


def check_file(path: str | os.PathLike) -> None:
    """Raise InputError unless `path` is a file with something in it; a pipe or a device would be read for ever."""
    path = os.fspath(path)
    if not os.path.exists(path):
        raise InputError("a link to a file that is not there" if os.path.islink(path) else "no such file", path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError("not a regular file", path)
    if os.path.getsize(path) == 0:
        raise InputError("the file is empty", path)


def nifti_header(path: str | os.PathLike) -> nib.Nifti1Header:
    """Return the header of a NIfTI file as it stands, without the repairs that nibabel makes.

    Raises:
        InputError: no NIfTI file, or a header that says where or how voxels are stored in a way that cannot be.
    """
    path = os.fspath(path)
    check_file(path)
    if path.lower().endswith(".gz"):
        with open(path, "rb") as stream:
            if stream.read(2) != b"\x1f\x8b":
                raise InputError("not a gzip file although its name ends in .gz", path)
    try:
        with ImageOpener(path) as stream:
            start = stream.read(nib.Nifti2Header.sizeof_hdr)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"the gzip stream is truncated or damaged ({one_line(error)})", path) from error
    kinds = [kind for kind in (nib.Nifti1Header, nib.Nifti2Header) if kind.may_contain_header(start)]
    if not kinds:
        raise InputError("not a NIfTI image", path)
    # unchecked, because nibabel's own check would quietly replace a zero spacing by 1
    header = kinds[0](start[: kinds[0].sizeof_hdr], check=False)
    if header["magic"].item() != kinds[0].single_magic:
        raise InputError("one half of a pair of NIfTI files; convert the pair to one file", path)
    code, known = int(header["datatype"]), nib.nifti1.data_type_codes
    if code not in known.value_set("code"):
        raise InputError(f"voxel type {code} is not one that NIfTI knows", path)
    kind = _voxel_type(code)
    if not kind.itemsize:
        raise InputError(f"voxel type {code} tells no size of a voxel", path)
    if kind.kind not in "iuf":
        raise InputError(f"{known.label[code]} voxels; one number per voxel is needed", path)
    if not 1 <= int(header["dim"][0]) <= 7:
        raise InputError(f"the header counts {int(header['dim'][0])} axes", path)
    offset, least = float(header["vox_offset"]), kinds[0].single_vox_offset
    if not least <= offset < 2**63:  # also NaN
        raise InputError(f"vox_offset is {offset:g}: voxels cannot start before byte {least}", path)
    for name in ("scl_slope", "scl_inter"):
        if not np.isfinite(header[name]):
            raise InputError(f"{name} is {float(header[name]):g}: the scaling of the voxels is not known", path)
    if abs(header["pixdim"][0]) != 1:  # the quaternion's handedness: the standard takes 0 as 1, and so does nibabel
        header["pixdim"][0] = 1
    return header


def millimetres(header: nib.Nifti1Header) -> np.ndarray:
    """Return the 4x4 scaling from a header's units of space to mm; unknown units are taken as mm."""
    return np.diag([UNITS.get(int(header["xyzt_units"]) & 7, 1.0)] * 3 + [1.0])


def _check_header(path: str, ndim: int, color: bool, volumes: bool, allow_missing_slices: bool) -> None:
    if os.path.isdir(path):
        _check_dicom_folder(path, ndim, color, allow_missing_slices)
        return
    check_file(path)
    if path.lower().endswith(NIFTI_SUFFIXES):
        _check_nifti(path, ndim, volumes)
    elif path.lower().endswith(PICTURES):
        with open_picture(path) as picture:
            if picture.mode.startswith("RGB") and not color:
                raise InputError("RGB voxels; one number per voxel is needed", path)
            _check_shape(path, picture.size, ndim, volumes)
    else:
        _check_itk(path, ndim, color, volumes)


def _check_nifti(path: str, ndim: int, volumes: bool) -> None:
    header = nifti_header(path)
    shape = header.get_data_shape()
    _check_shape(path, shape, ndim, volumes)
    _check_spacing(path, header["pixdim"][1 : 1 + ndim])
    _check_affine(path, _affine_of(header, path)[:3, [*range(ndim), 3]])
    itemsize = _voxel_type(int(header["datatype"])).itemsize
    _check_length(path, int(header["vox_offset"]) + math.prod(shape) * itemsize)


def _voxel_type(code: int) -> np.dtype:
    return cast(np.dtype, nib.nifti1.data_type_codes.dtype[code])  # nibabel types its tables as any hashable


def _affine_of(header: nib.Nifti1Header, path: str) -> np.ndarray:
    try:
        return header.get_best_affine()
    except Exception as error:  # a quaternion that is no rotation
        raise InputError(f"the affine cannot be read from the qform ({one_line(error)})", path) from error


def _check_length(path: str, needed: int) -> None:
    """Raise InputError unless the file holds `needed` bytes, counted after decompression."""
    size = os.path.getsize(path)
    if path.lower().endswith(".gz"):
        with open(path, "rb") as stream:
            stream.seek(-4, os.SEEK_END)
            if int.from_bytes(stream.read(4), "little") == needed % 2**32:
                return
        # Padding, or several gzip members in one file (bgzip): rare enough to count the bytes.
        size = 0
        try:
            with gzip.open(path) as stream:
                while block := stream.read(1 << 20):
                    size += len(block)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"the gzip stream is truncated or damaged ({one_line(error)})", path) from error
    if size < needed:
        raise InputError(f"the file is truncated: {size} of {needed} bytes", path)


def _check_itk(path: str, ndim: int, color: bool, volumes: bool = False) -> None:
    io = read_information(path)
    axes = range(io.GetNumberOfDimensions())
    _check_pixels(path, io, color)
    _check_shape(path, [io.GetDimensions(i) for i in axes], ndim, volumes)
    if is_dicom(path):
        check_plane(io, path)
    spacing = np.array([io.GetSpacing(i) for i in axes])
    _check_spacing(path, spacing[:ndim])
    columns = [np.array(io.GetDirection(i)) * spacing[i] for i in axes]
    _check_affine(path, np.stack([*columns[:ndim], [io.GetOrigin(i) for i in axes]], axis=1))


def _check_dicom_folder(path: str, ndim: int, color: bool, allow_missing_slices: bool) -> None:
    files = dicom_series(path, allow_missing_slices)
    if len(files) == 1:
        _check_itk(files[0], ndim, color)
        return
    first = read_information(files[0])
    _check_pixels(path, first, color)
    if first.GetNumberOfDimensions() > 2 and first.GetDimensions(2) > 1:
        raise InputError("several multi-frame files in one series; name one of them", path)
    _check_shape(path, [first.GetDimensions(0), first.GetDimensions(1), len(files)], ndim)
    for file in files:
        check_plane(read_information(file), file)
    _check_spacing(path, np.array([first.GetSpacing(0), first.GetSpacing(1)]))
    _check_affine(path, series_affine(files, path)[:3])


def _check_pixels(path: str, io, color: bool) -> None:
    name = io.GetPixelTypeAsString(io.GetPixelType())
    if name != "scalar" and not (color and name in ("rgb", "rgba")):
        shown = name.upper() if name.startswith("rgb") else name
        raise InputError(f"{shown} voxels; one number per voxel is needed", path)


def _check_shape(path: str, shape: Sequence[int], ndim: int, volumes: bool = False) -> None:
    shape = [int(n) for n in shape]
    if min(shape, default=0) < 1:
        raise InputError(f"no voxels (shape {shape})", path)
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(f"{math.prod(shape) / 2**30:.3g} x 2^30 voxels; at most 2 x 2^30 are taken", path)
    meant = shape[:-1] if len(shape) == ndim + 1 and (volumes or shape[-1] == 1) else shape
    if len(meant) != ndim:
        size = " x ".join(map(str, shape))
        raise InputError(f"{len(shape)}D image ({size}) where a {ndim + volumes}D one is meant", path)


def _check_spacing(path: str, spacing: np.ndarray) -> None:
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        shown = " x ".join(f"{float(s):g}" for s in spacing)
        raise InputError(f"voxel spacing {shown} mm is not positive", path)


def _check_affine(path: str, affine: np.ndarray) -> None:
    """Raise InputError unless the axes, the columns of `affine` before the last, are finite and independent."""
    if not np.isfinite(affine).all():
        raise InputError("the affine has NaN or infinite entries", path)
    lengths = np.linalg.norm(affine[:, :-1], axis=0)
    if (lengths == 0).any() or np.linalg.svd(affine[:, :-1] / lengths, compute_uv=False)[-1] < SINGULAR:
        raise InputError("the affine is singular (an axis has no length or no direction of its own)", path)
