# SPDX-License-Identifier: Apache-2.0
"""Pictures of scanners as grey levels: PNG, JPEG, TIFF and DICOM, grey or RGB, one frame or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from common.errors import InputError, one_line
from common.io.find import distinct, files_matching
from common.io.hashes import SUFFIX as PROVENANCE
from common.io.headers import check_file
from common.io.pictures import MOST_PIXELS, check_page, open_picture
from common.io.series import is_dicom

__all__ = ["Frames", "find_frames", "read_frames"]

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
KINDS = ("PNG", "JPEG", "TIFF")
ELEMENTS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation")
MOST_TOTAL = 2**30  # pixels of all frames
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
COLOURED = 40  # of 255: largest minus smallest channel of a pixel; JPEG's chroma stays below in grey pictures
TISSUE, TWO_D = 1, 1  # RegionDataType and RegionSpatialFormat of B-mode regions (DICOM PS3.3 C.8.5.5)


@dataclass
class Frames:
    """Pixels of a file.

    Args:
        pixels: ``(N, H, W)`` or ``(N, H, W, 3)``, uint8 or uint16.
        top: grey level shown as white.
        boxes: B-mode regions that DICOM names, ``(left, top, right, bottom)`` in pixels, ends included.
    """

    pixels: np.ndarray
    top: int
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)

    def grey(self) -> np.ndarray:
        """Luminance in [0, 1] as float32 ``(N, H, W)``."""
        if self.pixels.ndim == 3:
            return self.pixels.astype(np.float32) / self.top
        # a grey pixel keeps its level exactly, whatever the weights' rounding
        channels = self.pixels.astype(np.float32)
        level = np.where(np.ptp(self.pixels, axis=-1) == 0, channels[..., 0], channels @ LUMINANCE)
        return level / self.top

    def replaced(self, grey: np.ndarray, region: np.ndarray) -> np.ndarray:
        """The pixels with new grey levels ``(N, H, W)`` in [0, 1] inside a region, boolean ``(H, W)``."""
        levels = np.rint(np.clip(grey, 0, 1) * self.top).astype(self.pixels.dtype)
        pixels = self.pixels.copy()
        pixels[:, region] = levels[:, region] if pixels.ndim == 3 else levels[:, region][..., None]
        return pixels

    def coloured(self) -> np.ndarray:
        """Boolean ``(N, H, W)``: pixels with a hue of their own, such as colour Doppler, marks and logos."""
        if self.pixels.ndim == 3:
            return np.zeros(self.pixels.shape, bool)
        return np.ptp(self.pixels, axis=-1) > COLOURED * self.top / 255


def read_frames(path: str | os.PathLike) -> Frames:
    """All frames of a file.

    Raises:
        InputError: no such file, no picture, damaged, more than 2^25 pixels in a frame or 2^30 in all, or pixels that
            the result could not keep, see ``common.io.pictures.open_picture``.
    """
    path = os.fspath(path)
    check_file(path)
    try:
        return _read_dicom(path) if is_dicom(path) else _read_picture(path)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes a reader raise
        raise InputError(f"cannot be read ({one_line(error)})", path) from error


def _read_picture(path: str) -> Frames:
    with open_picture(path, KINDS) as picture:
        _check_total(getattr(picture, "n_frames", 1), picture.size, path)
        pages = []
        for page in ImageSequence.Iterator(picture):
            check_page(page, path)
            pages.append(np.asarray(_plain(page)))
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        raise InputError("its pages differ in size or kind", path)
    pixels = np.stack(pages)
    return Frames(
        pixels.astype(np.uint16) if pixels.dtype != np.uint8 else pixels, 255 if pixels.dtype == np.uint8 else 65535
    )


def _check_total(count: int, size: Sequence[int], path: str) -> None:
    if count * size[0] * size[1] > MOST_TOTAL:
        shown = f"{count} frames of {size[0]} x {size[1]} pixels"
        raise InputError(f"{shown} are more than the {MOST_TOTAL / 1e6:.0f} million pixels that are taken", path)


def _plain(page: Image.Image) -> Image.Image:
    """Grey or RGB; the alpha channel waits in the source."""
    if page.mode == "I":  # how older Pillow opens 16-bit PNG
        return page.convert("I;16")
    return page.convert({"LA": "L", "RGBA": "RGB"}[page.mode]) if page.mode in ("LA", "RGBA") else page


def _read_dicom(path: str) -> Frames:
    import pydicom  # takes a while to import, and only DICOM needs it

    dataset = pydicom.dcmread(path)
    _check_elements(dataset, path)
    pixels = pydicom.pixels.pixel_array(dataset)
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, dataset)
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{pixels.dtype} pixels; 8 or 16 bit without sign are needed", path)
    top = 2 ** int(dataset.BitsStored) - 1 if pixels.dtype == np.uint16 else 255
    if kind == "MONOCHROME1":
        pixels = top - pixels
    colours = 3 if dataset.SamplesPerPixel == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR" else 0
    if pixels.ndim == (3 if colours else 2):  # one frame alone
        pixels = pixels[None]
    rows, columns = pixels.shape[1:3]
    boxes = []
    for region in dataset.get("SequenceOfUltrasoundRegions", []):
        if (region.get("RegionSpatialFormat"), region.get("RegionDataType")) == (TWO_D, TISSUE):
            names = ("MinX0", "MinY0", "MaxX1", "MaxY1")
            left, top_row, right, bottom = (int(region[f"RegionLocation{name}"].value) for name in names)
            # files are about whose regions reach beyond the picture, such as of pictures cropped afterwards
            box = (max(left, 0), max(top_row, 0), min(right, columns - 1), min(bottom, rows - 1))
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append(box)
    return Frames(pixels, top, boxes)


def _check_elements(dataset: Any, path: str) -> None:
    """Names what a DICOM file lacks before its pixels are decoded, and how many there are."""
    if "PixelData" not in dataset:
        raise InputError("a DICOM file without a picture", path)
    lacking = [name for name in ELEMENTS if dataset.get(name) in (None, "")]
    if lacking:
        raise InputError(f"a DICOM file without {', '.join(lacking)}", path)
    size = (int(dataset.Columns), int(dataset.Rows))
    if size[0] * size[1] > MOST_PIXELS:
        shown = f"{size[0]} x {size[1]} pixels"
        raise InputError(f"{shown} are more than the {MOST_PIXELS / 1e6:.1f} million that are taken", path)
    _check_total(int(dataset.get("NumberOfFrames", 1) or 1), size, path)


def find_frames(folder: str | os.PathLike, names: Sequence[str] = ("**/*",)) -> list[str]:
    """Paths of the pictures in a folder and below, in natural order; results of this collection are left out.

    Files count by their ending; files without one when they are DICOM. One file is taken whatever its name.

    Raises:
        InputError: no such folder, or nothing in it.
    """
    root = Path(folder).expanduser()
    if root.is_file():
        return [str(root)]
    if not root.is_dir():
        raise InputError("no such file or folder", root)
    found = []
    for path in files_matching(root, names):
        ending = Path(path).suffix.lower()
        taken = ending in ENDINGS or (not ending and is_dicom(path))
        if taken and not os.path.isdir(path) and not os.path.exists(path + PROVENANCE):
            found.append(path)
    found = distinct(found)
    if not found:
        raise InputError("no PNG, JPEG, TIFF or DICOM file in it", root)
    return found
