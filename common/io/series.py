# SPDX-License-Identifier: Apache-2.0
"""DICOM series through ITK: their files, those that cannot be read, and where their slices lie."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.utils import optional_import

from common.errors import InputError, one_line, shown

__all__ = ["check_plane", "dicom_series", "read_information", "readable_slices", "series_affine", "series_files"]

itk, has_itk = optional_import("itk")
logger = logging.getLogger(__name__)

UNEVEN = 0.02  # slice gaps may differ by this share of their mean (positions are stored with few digits)
ORTHONORMAL = 1e-2  # for directions stored with few digits
BESIDE = 0.1  # mm that a slice may lie beside the straight line through the others
TILT = 0.5  # degrees between the slices' normal and the way from one to the next that are worth a word
NAMED = 5  # files that a line names
# objects whose pixel spacing stands in functional groups: enhanced CT, MR and PET, and legacy ones converted to them
ENHANCED = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130")}


def read_information(path: str) -> Any:
    """Return an `itk.ImageIOBase` that has read the header of `path`."""
    require_itk(path)
    io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise InputError("not an image that ITK can read", path)
    io.SetFileName(path)
    io.ReadImageInformation()
    return io


def require_itk(path: str | os.PathLike) -> None:
    """Raise `InputError` where the package itk is not installed."""
    if not has_itk:
        raise InputError("only NIfTI can be read without the package itk (pip install itk)", path)


def series_files(folder: str | os.PathLike) -> list[str]:
    """Return the files of the one DICOM series in `folder`, in slice order, as MONAI's `ITKReader` would take them.

    Raises:
        InputError: no series, more than one (the line lists the SeriesInstanceUIDs), or itk is not installed.
    """
    require_itk(folder)
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(os.fspath(folder))
    stacks = [list(names.GetFileNames(key)) for key in names.GetSeriesUIDs()]
    if not stacks:
        raise InputError("no DICOM series that can be read", folder)
    if len(stacks) > 1:  # ITKReader would silently take the first
        firsts = [read_information(stack[0]) for stack in stacks]  # kept: ITK's dictionaries die with their readers
        uids = sorted({tag_of(first, "0020|000e") or "without a UID" for first in firsts})
        found = f"{len(uids)} DICOM series ({', '.join(uids)})"
        if len(uids) == 1:
            found = f"{len(stacks)} stacks of one DICOM series ({uids[0]}) that differ in size, slice thickness or date"
        raise InputError(f"holds {found}; put each into a folder of its own", folder)
    return stacks[0]


def dicom_series(folder: str | os.PathLike, allow_missing_slices: bool = False, quiet: bool = False) -> list[str]:
    """`series_files`, after a look for files of the series whose headers cannot be read.

    Args:
        folder: holds one series.
        allow_missing_slices: warn of such files instead of refusing the series.
        quiet: do not even warn.

    Raises:
        InputError: as `series_files`, or files that cannot be read; the line names them.
    """
    gone = [name for name in sorted(os.listdir(folder)) if not os.path.exists(os.path.join(folder, name))]
    if gone:  # at which GDCM stops to list the folder
        raise InputError(f"links to files that are not there: {', '.join(gone[:NAMED])}", folder)
    files = series_files(folder)
    known = {os.path.basename(file) for file in files}
    endings = {_ending(name) for name in known}
    lost = []
    for name in sorted(set(os.listdir(folder)) - known):
        path = os.path.join(folder, name)
        if name.startswith(".") or name == "DICOMDIR" or os.path.isdir(path):
            continue
        if _ending(name) in endings or is_dicom(path):
            lost.append(name)
    _tell_lost(lost, folder, allow_missing_slices, quiet)
    return files


def _ending(name: str) -> str:
    """A name's ending, none where it is a number, as in files named by their UIDs."""
    ending = os.path.splitext(name)[1].lower()
    return "" if ending[1:].isdigit() else ending


def is_dicom(path: str) -> bool:
    """Whether a file starts as DICOM files do."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never answer
            return False
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def readable_slices(files: Sequence[str], folder: str | os.PathLike, allow_missing_slices: bool = False) -> list[str]:
    """The files whose pixels can be read, after reading them together has failed.

    Raises:
        InputError: some cannot and missing slices are not allowed, or none can; the line names them.
    """
    kept, lost = [], []
    for file in files:
        try:
            itk.imread(file)
            kept.append(file)
        except RuntimeError as error:
            lost.append(f"{os.path.basename(file)} ({one_line(error, 60)})")
    if not lost:
        raise InputError("its slices can be read one by one but not together", folder)
    _tell_lost(lost, folder, allow_missing_slices and bool(kept))
    return kept


def _tell_lost(lost: Sequence[str], folder: str | os.PathLike, allow: bool, quiet: bool = False) -> None:
    if not lost:
        return
    named = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
    count = f"{len(lost)} file{'s' if len(lost) > 1 else ''} of the series cannot be read: {named}"
    if not allow:
        raise InputError(f"{count}; --allow_missing_slices true goes on without", folder)
    if not quiet:
        logger.warning("%s: %s; left out", shown(os.fspath(folder)), shown(count))


def tag_of(io: Any, tag: str) -> str:
    """A DICOM element's text, empty where there is none."""
    dictionary = io.GetMetaDataDictionary()
    return str(dictionary[tag]).strip() if dictionary.HasKey(tag) else ""


def check_plane(io: Any, path: str) -> None:
    """Raise `InputError` where a DICOM file states no spacing or direction of its pixels, which ITK would make up."""
    if not tag_of(io, "0008|0016") or tag_of(io, "0008|0016") in ENHANCED:
        return
    spacing = _numbers(io, "0028|0030")
    if len(spacing) != 2 or not all(0 < value < float("inf") for value in spacing):
        raise InputError(f"PixelSpacing is {_told(io, '0028|0030')}: the pixels' size is not known", path)
    if float(tag_of(io, "0028|0008") or 1) > 1:  # each frame may have a plane of its own
        return
    rows = np.array(_numbers(io, "0020|0037"))
    plane = rows.reshape(2, 3) @ rows.reshape(2, 3).T if rows.size == 6 else np.zeros((2, 2))
    if not np.allclose(plane, np.eye(2), atol=ORTHONORMAL):
        raise InputError(f"ImageOrientationPatient is {_told(io, '0020|0037')}: the slice's place is not known", path)


def _numbers(io: Any, tag: str) -> list[float]:
    try:
        return [float(part) for part in tag_of(io, tag).split("\\")]
    except ValueError:
        return []


def _told(io: Any, tag: str) -> str:
    return f'"{tag_of(io, tag)}"' if tag_of(io, tag) else "missing"


def series_affine(files: Sequence[str], folder: str | os.PathLike, quiet: bool = False) -> np.ndarray:
    """Affine of a series in DICOM's axes (LPS), from the positions of its slices; a tilted gantry's shear stays.

    Args:
        files: at least two, in slice order.
        folder: names the series in errors.
        quiet: no warnings.

    Raises:
        InputError: slices that differ in orientation or pixel spacing, share a position, or lie beside one another.
    """
    headers = [read_information(file) for file in files]
    first = headers[0]
    planes = np.array([[io.GetDirection(0), io.GetDirection(1)] for io in headers])
    if np.abs(planes - planes[0]).max() > 1e-3:
        raise InputError("the slices of the series differ in orientation", folder)
    spacing = np.array([[io.GetSpacing(0), io.GetSpacing(1)] for io in headers])
    if np.abs(spacing - spacing[0]).max() > 1e-3 * spacing[0].min():
        raise InputError("the slices of the series differ in pixel spacing", folder)
    places = np.array([[io.GetOrigin(i) for i in range(3)] for io in headers])
    normal = np.cross(*planes[0])
    along = places @ normal
    gaps = np.diff(np.sort(along))
    mean = gaps.mean()
    if gaps.min() <= 1e-3 * max(mean, 1e-3):
        raise InputError("slices share one position: several volumes in one series, or no positions stored", folder)
    if gaps.max() - gaps.min() > UNEVEN * mean and not quiet:
        logger.warning(
            "%s: slices are %.3g to %.3g mm apart (one missing?) and are taken as %.3g mm apart throughout",
            *(shown(os.fspath(folder)), gaps.min(), gaps.max(), mean),
        )
    way = places[-1] - places[0]
    share = (along - along[0]) / (along[-1] - along[0])
    beside = np.linalg.norm(places - places[0] - share[:, None] * way, axis=1).max()
    if beside > BESIDE:
        raise InputError(f"slices lie up to {beside:.3g} mm beside the straight line through the others", folder)
    tilt = np.degrees(np.arccos(min(1.0, abs(way @ normal) / np.linalg.norm(way))))
    if tilt > TILT and not quiet:
        logger.warning(
            "%s: slices are tilted by %.3g degrees; the affine keeps the shear", shown(os.fspath(folder)), tilt
        )
    affine = np.eye(4)
    affine[:3, :2] = planes[0].T * [first.GetSpacing(0), first.GetSpacing(1)]
    affine[:3, 2], affine[:3, 3] = way / (len(files) - 1), places[0]
    return affine
