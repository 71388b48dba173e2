# SPDX-License-Identifier: Apache-2.0
"""What headers tell before any voxel is read: NIfTI through nibabel, other formats and DICOM series through ITK."""

from __future__ import annotations

import gzip
import logging
import math
import os
import re
import zlib
from collections.abc import Iterable, Sequence

import nibabel as nib
import numpy as np
from monai.utils import optional_import
from nibabel.openers import ImageOpener

__all__ = ["InputError", "check_headers", "dicom_series", "one_line"]

itk, has_itk = optional_import("itk")
logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii", ".nii.gz")
SINGULAR = 1e-4  # smallest singular value of the affine's unit columns; a gantry tilt of 30 degrees leaves 0.7
UNEVEN = 0.02  # slice gaps may differ by this share of their mean (positions are stored with few digits)


class InputError(ValueError):
    """The user's input cannot work; the text is one line that names the file and the reason.

    Args:
        reason: what is wrong and, where that is short, what to do about it.
        path: the file, folder or case concerned; it stands in front of the reason.
    """

    def __init__(self, reason: str, path: str | os.PathLike | None = None) -> None:
        self.reason = " ".join(str(reason).split())
        self.path = None if path is None else str(path)
        super().__init__(self.reason if path is None else f"{self.path}: {self.reason}")


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return the telling part of a library's error text as one line of at most `limit` characters."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:  # MONAI's LoadImage quotes the traceback of every reader it tried
        text = text.splitlines()[-1]
    text = re.sub(r".*ITK ERROR: (\w+\(0x[0-9a-fA-F]+\): )?", "", text, flags=re.DOTALL)
    text = " ".join(text.split())
    if not text or isinstance(error, LookupError):  # whose text is only the missing key
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def check_headers(
    paths: Iterable[str], ndim: int = 3, color: bool = False, volumes: bool = False
) -> tuple[list[str], list[tuple[str, str]]]:
    """Sort out, before the first case is processed, the files that cannot work; only headers are read.

    A compressed NIfTI file's last bytes hold its length, which tells of truncation at no cost.

    Args:
        paths: image files and DICOM series folders.
        ndim: number of spatial axes meant, 2 or 3; one more axis of length 1 is accepted.
        color: accept RGB and RGBA pixels too, for loaders that turn them grey (ultrasound screenshots).
        volumes: accept any length of that one more axis, for files that hold several volumes.

    Returns:
        The paths that can work, in their order, and `(path, reason)` for each of the others.
    """
    good, failures = [], []
    for path in map(os.fspath, paths):
        try:
            _check_header(path, ndim, color, volumes)
            good.append(path)
        except InputError as error:
            failures.append((path, error.reason))
        except Exception as error:  # whatever a damaged file makes a reader raise
            failures.append((path, f"cannot be read ({one_line(error)})"))
    return good, failures


def dicom_series(folder: str | os.PathLike) -> list[str]:
    """Return the files of the one DICOM series in `folder`, in slice order, as MONAI's `ITKReader` would take them.

    Raises:
        InputError: no series, more than one (the line lists the SeriesInstanceUIDs), or itk is not installed.
    """
    _require_itk(folder)
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(os.fspath(folder))
    stacks = [list(names.GetFileNames(key)) for key in names.GetSeriesUIDs()]
    if not stacks:
        raise InputError("no DICOM series that can be read", folder)
    if len(stacks) > 1:  # ITKReader would silently take the first
        firsts = [_read_information(stack[0]) for stack in stacks]  # kept: ITK's dictionaries die with their readers
        uids = sorted({first.GetMetaDataDictionary()["0020|000e"] for first in firsts})
        found = f"{len(uids)} DICOM series ({', '.join(uids)})"
        if len(uids) == 1:
            found = f"{len(stacks)} stacks of one DICOM series ({uids[0]}) that differ in size, slice thickness or date"
        raise InputError(f"holds {found}; put each into a folder of its own", folder)
    return stacks[0]


def _check_header(path: str, ndim: int, color: bool, volumes: bool) -> None:
    if os.path.isdir(path):
        _check_dicom_folder(path, ndim, color)
        return
    if not os.path.exists(path):
        raise InputError("a link to a file that is not there" if os.path.islink(path) else "no such file", path)
    if os.path.getsize(path) == 0:
        raise InputError("the file is empty", path)
    if path.lower().endswith(NIFTI_SUFFIXES):
        _check_nifti(path, ndim, volumes)
    else:
        _check_itk(path, ndim, color, volumes)


def _check_nifti(path: str, ndim: int, volumes: bool) -> None:
    if path.lower().endswith(".gz"):
        with open(path, "rb") as stream:
            if stream.read(2) != b"\x1f\x8b":
                raise InputError("not a gzip file although its name ends in .gz", path)
    with ImageOpener(path) as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
        kinds = [kind for kind in (nib.Nifti1Header, nib.Nifti2Header) if kind.may_contain_header(start)]
        if not kinds:
            raise InputError("not a NIfTI image", path)
        stream.seek(0)
        # unchecked, because nibabel's own check would quietly replace a zero spacing by 1
        header = kinds[0].from_fileobj(stream, check=False)
    code, known = int(header["datatype"]), nib.nifti1.data_type_codes
    if code not in known.value_set("code"):
        raise InputError(f"voxel type {code} is not one that NIfTI knows", path)
    if known.dtype[code].kind not in "iuf":
        raise InputError(f"{known.label[code]} voxels; one number per voxel is needed", path)
    shape = header.get_data_shape()
    _check_shape(path, shape, ndim, volumes)
    _check_spacing(path, header["pixdim"][1 : 1 + ndim])
    _check_affine(path, header.get_best_affine()[:3, [*range(ndim), 3]])
    _check_length(path, int(header["vox_offset"]) + math.prod(shape) * known.dtype[code].itemsize)


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
    io = _read_information(path)
    axes = range(io.GetNumberOfDimensions())
    _check_pixels(path, io, color)
    _check_shape(path, [io.GetDimensions(i) for i in axes], ndim, volumes)
    spacing = np.array([io.GetSpacing(i) for i in axes])
    _check_spacing(path, spacing[:ndim])
    columns = [np.array(io.GetDirection(i)) * spacing[i] for i in axes]
    _check_affine(path, np.stack([*columns[:ndim], [io.GetOrigin(i) for i in axes]], axis=1))


def _check_dicom_folder(path: str, ndim: int, color: bool) -> None:
    files = dicom_series(path)
    if len(files) == 1:
        _check_itk(files[0], ndim, color)
        return
    headers = [_read_information(file) for file in files]
    first = headers[0]
    _check_pixels(path, first, color)
    if first.GetNumberOfDimensions() > 2 and first.GetDimensions(2) > 1:
        raise InputError("several multi-frame files in one series; name one of them", path)
    _check_shape(path, [first.GetDimensions(0), first.GetDimensions(1), len(files)], ndim)
    _check_spacing(path, np.array([first.GetSpacing(0), first.GetSpacing(1)]))
    planes = np.array([[io.GetDirection(0), io.GetDirection(1)] for io in headers])
    if np.abs(planes - planes[0]).max() > 1e-3:
        raise InputError("the slices of the series differ in orientation", path)
    normal = np.cross(*planes[0])
    gaps = np.diff(np.sort([normal @ [io.GetOrigin(i) for i in range(3)] for io in headers]))
    mean = gaps.mean()
    if gaps.min() <= 1e-3 * max(mean, 1e-3):
        raise InputError("slices share one position: several volumes in one series, or no positions stored", path)
    if gaps.max() - gaps.min() > UNEVEN * mean:
        logger.warning(
            "%s: slices are %.3g to %.3g mm apart (one missing?) and are taken as %.3g mm apart throughout",
            *(path, gaps.min(), gaps.max(), mean),
        )


def _require_itk(path: str | os.PathLike) -> None:
    if not has_itk:
        raise InputError("only NIfTI can be read without the package itk (pip install itk)", path)


def _read_information(path: str):
    """Return an `itk.ImageIOBase` that has read the header of `path`."""
    _require_itk(path)
    io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise InputError("not an image that ITK can read", path)
    io.SetFileName(path)
    io.ReadImageInformation()
    return io


def _check_pixels(path: str, io, color: bool) -> None:
    name = io.GetPixelTypeAsString(io.GetPixelType())
    if name != "scalar" and not (color and name in ("rgb", "rgba")):
        shown = name.upper() if name.startswith("rgb") else name
        raise InputError(f"{shown} voxels; one number per voxel is needed", path)


def _check_shape(path: str, shape: Sequence[int], ndim: int, volumes: bool = False) -> None:
    shape = [int(n) for n in shape]
    if min(shape, default=0) < 1:
        raise InputError(f"no voxels (shape {shape})", path)
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
