# SPDX-License-Identifier: Apache-2.0
"""DICOM series of every kind, and the files that pydicom brings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from .kinds import ALL, kind
from .volumes import blob, seed_of

SLICED = ("mri_sr3d", "rslm_denoise", "lesion_msgan")
COUNT = 12


def dataset(plane: np.ndarray, position, number: int = 1, uid: str = "1.2.826.0.1.77", **elements) -> pydicom.Dataset:
    """A slice ``(rows, columns)`` of an MR series."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = MRImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid, str(number)])
    made.StudyInstanceUID, made.SeriesInstanceUID, made.Modality = "1.2.3", uid, "MR"
    made.PatientName, made.PatientID = "Doe^Jane", "17"
    made.InstanceNumber, made.SliceThickness = number, 2.5
    made.ImagePositionPatient = [f"{value:.6f}" for value in position]
    made.ImageOrientationPatient, made.PixelSpacing = [1, 0, 0, 0, 1, 0], [1.2, 1.1]
    made.set_pixel_data(plane, "MONOCHROME2", plane.dtype.itemsize * 8)
    for name, value in elements.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def write_series(folder: Path, stem: str = "", step=(0, 0, 2.5), change=None, count: int = COUNT, **elements) -> Path:
    """A series in a folder of its own; ``change(number, dataset)`` may alter a slice, or drop it by returning False."""
    folder.mkdir(parents=True, exist_ok=True)
    planes = blob(seed=seed_of(stem)).transpose(2, 1, 0)[:count].astype(np.int16)
    for number, plane in enumerate(planes):
        position = np.array([-10.0, 5.0, 30.0]) + number * np.array(step)
        made = dataset(plane, position, number + 1, **elements)
        if change is None or change(number, made) is not False:
            made.save_as(folder / f"IM{number:03d}.dcm", enforce_file_format=True)
    return folder


def affine_of(step=(0, 0, 2.5)):
    """The affine in RAS that a series of ``write_series`` has."""
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([[1.1, 0, 0], [0, 1.2, 0], step])
    affine[:3, 3] = [-10, 5, 30]
    return np.diag([-1, -1, 1, 1]) @ affine


def series_kind(name: str, says: str | None = None, step=(0, 0, 2.5), after=None, shape=None, **how) -> None:
    """Registers a series; ``after(folder)`` changes its files."""
    warns, affine = how.pop("warns", None), how.pop("affine", True)

    def make(folder, stem):
        made = write_series(folder / "series", stem, step, **how)
        if after:
            after(made)
        return made

    more = {"warns": warns, "place": lambda path: affine_of(step), "shape": shape or (20, 24, COUNT)}
    kind(name, says, SLICED, dicom=True, affine=affine, **more)(make)


def _cut(number, keep):
    def change(folder):
        path = folder / f"IM{number:03d}.dcm"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return change


def _replace(number, content):
    return lambda folder: (folder / f"IM{number:03d}.dcm").write_bytes(content)


def _set(number=None, **elements):
    """Changes elements of one slice, or of all; None takes one away."""

    def change(index, made):
        if number in (None, index):
            for name, value in elements.items():
                if value is None:
                    delattr(made, name)
                else:
                    setattr(made, name, value)

    return change


def _rescaled(number, made):
    made.RescaleSlope, made.RescaleIntercept = 1 + number / 10, 0


def _pixels(values, number=None):
    def change(index, made):
        if number in (None, index):
            made.set_pixel_data(values, "RGB" if values.ndim == 3 else "MONOCHROME2", values.dtype.itemsize * 8)

    return change


def _dicomdir(folder):
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(99))


def _notes(folder):
    (folder / "notes.txt").write_text("notes", encoding="utf-8")


def _all(*changes):
    return lambda folder: [change(folder) for change in changes]


series_kind("DICOM series")
series_kind("DICOM series, tilted gantry", step=(0, 0.7, 2.5), warns="tilted")
series_kind("DICOM series, from above to below", step=(0, 0, -2.5), shape=(20, 24, -COUNT))
for _where, _number in (("first", 0), ("middle", 6), ("last", COUNT - 1)):
    _name = f"IM{_number:03d}.dcm"
    series_kind(f"DICOM series, {_where} slice cut in its pixels", _name, after=_cut(_number, 0.7))
    series_kind(f"DICOM series, {_where} slice cut in its header", _name, after=_cut(_number, 0.12))
    series_kind(f"DICOM series, {_where} slice empty", _name, after=_replace(_number, b""))
    series_kind(f"DICOM series, {_where} slice is text", _name, after=_replace(_number, b"no DICOM" * 99))
series_kind("DICOM series, first bytes of a slice damaged", "IM003.dcm", after=_replace(3, bytes(9000)))
series_kind(
    "DICOM series, three slices damaged", "IM002.*IM003.*IM007", after=lambda f: [_cut(n, 0.1)(f) for n in (2, 3, 7)]
)
series_kind(
    "DICOM series, no slice readable",
    "no DICOM series",
    after=lambda f: [_replace(n, b"x" * 999)(f) for n in range(COUNT)],
)
series_kind("DICOM series, PixelSpacing missing", "PixelSpacing", change=_set(PixelSpacing=None))
series_kind("DICOM series, PixelSpacing missing once", "PixelSpacing|spacing", change=_set(4, PixelSpacing=None))
series_kind("DICOM series, PixelSpacing 0", "PixelSpacing", change=_set(PixelSpacing=[0, 0]))
series_kind("DICOM series, PixelSpacing empty", "PixelSpacing", change=_set(PixelSpacing=""))
series_kind("DICOM series, PixelSpacing negative", "PixelSpacing", change=_set(PixelSpacing=[-1, 1]))
series_kind("DICOM series, PixelSpacing of one number", "PixelSpacing", change=_set(PixelSpacing=[1]))
series_kind("DICOM series, PixelSpacing differs once", "differ in pixel spacing", change=_set(4, PixelSpacing=[2, 2]))
series_kind("DICOM series, no positions", "position", change=_set(ImagePositionPatient=None))
series_kind("DICOM series, no orientation", "ImageOrientationPatient", change=_set(ImageOrientationPatient=None))
series_kind(
    "DICOM series, orientation of zeros",
    "ImageOrientationPatient",
    change=_set(ImageOrientationPatient=[0] * 6),
)
series_kind(
    "DICOM series, one slice turned", "orientation", change=_set(5, ImageOrientationPatient=[0, 1, 0, -1, 0, 0])
)
series_kind("DICOM series, one slice moved sideways", "beside", change=_set(5, ImagePositionPatient=[0, 5, 42.5]))
series_kind("DICOM series, a position twice", "position", change=_set(5, ImagePositionPatient=[-10, 5, 40]))
series_kind("DICOM series, a slice is not there", warns="apart", affine=False, change=lambda number, made: number != 6)
series_kind(
    "DICOM series, uneven gaps", warns="apart", affine=False, change=_set(6, ImagePositionPatient=[-10, 5, 45.9])
)
series_kind("DICOM series, one slice alone", "", count=1)
series_kind("DICOM series, two slices", count=2, shape=(20, 24, 2))
series_kind(
    "DICOM series, another scaling in each slice",
    change=lambda n, made: (setattr(made, "RescaleSlope", 1 + n / 10), setattr(made, "RescaleIntercept", 0))[0],
)
series_kind("DICOM series, scaling of 0", "", change=_set(RescaleSlope=0, RescaleIntercept=0))
series_kind(
    "DICOM series, a slice of another size",
    "stacks|differ|size",
    change=lambda n, made: made.set_pixel_data(np.ones((10, 10), np.int16), "MONOCHROME2", 16) if n == 4 else None,
)
series_kind(
    "DICOM series, colour", "RGB", change=lambda n, made: made.set_pixel_data(np.zeros((24, 20, 3), np.uint8), "RGB", 8)
)
series_kind(
    "DICOM series, black",
    "constant",
    change=lambda n, made: made.set_pixel_data(np.zeros((24, 20), np.int16), "MONOCHROME2", 16),
)
series_kind("DICOM series, no pixels", "", change=_set(PixelData=None))
series_kind("DICOM series, without UIDs", "", change=_set(SeriesInstanceUID=None))
series_kind("DICOM series of CT", change=_set(SOPClassUID=CTImageStorage, RescaleSlope=1, RescaleIntercept=-1024))
series_kind("DICOM series beside a text file", after=_notes)
series_kind(
    "DICOM series with a DICOMDIR", after=lambda f: (f / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(99))
)
series_kind("DICOM series without endings", after=lambda f: [p.rename(p.with_suffix("")) for p in list(f.iterdir())])


@kind("two DICOM series in one folder", "2 DICOM series", bundles=SLICED, dicom=True)
def _(folder, stem):
    write_series(folder / "series", stem)
    for path in list((folder / "series").iterdir()):
        path.rename(path.with_name(f"first-{path.name}"))
    return write_series(folder / "series", stem, uid="1.2.826.0.1.78")


@kind(
    "a DICOM series among links to its own folder",
    bundles=SLICED,
    dicom=True,
    place=lambda path: affine_of(),
    shape=(20, 24, COUNT),
)
def _(folder, stem):
    made = write_series(folder / "series", stem)
    (made / "again").symlink_to(made)
    return made


@kind("a DICOM series with a link to nowhere", "IM099", bundles=SLICED, dicom=True)
def _(folder, stem):
    made = write_series(folder / "series", stem)
    (made / "IM099.dcm").symlink_to(made / "gone")
    return made


def _pydicom_files() -> list[Path]:
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    return sorted(path for path in root.rglob("*.dcm") if path.is_file())


for _file in _pydicom_files():

    def _make(folder, stem, file=_file):
        shutil.copy(file, folder / "file.dcm")
        os.chmod(folder / "file.dcm", 0o644)
        return folder / "file.dcm"

    _bundles = [name for name in ALL if name != "brasyn_synthesis"]
    kind(f"pydicom's {_file.stem}", "", _bundles, dicom=True, affine=False)(_make)
