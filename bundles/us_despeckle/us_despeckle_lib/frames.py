# SPDX-License-Identifier: Apache-2.0
"""Pictures of scanners as grey levels: PNG, JPEG, TIFF and DICOM, grey or RGB, one frame or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from common.headers import one_line
from common.inputs import InputError

__all__ = ["Frames", "find_frames", "is_dicom", "read_frames"]

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
KINDS = ("PNG", "JPEG", "TIFF")
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

    def coloured(self) -> np.ndarray:
        """Boolean ``(N, H, W)``: pixels with a hue of their own, such as colour Doppler, marks and logos."""
        if self.pixels.ndim == 3:
            return np.zeros(self.pixels.shape, bool)
        return np.ptp(self.pixels, axis=-1) > COLOURED * self.top / 255


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file starts as DICOM files do."""
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_frames(path: str | os.PathLike) -> Frames:
    """All frames of a file.

    Raises:
        InputError: no such file, no picture, damaged, or pixels other than 8 or 16 bit grey or RGB.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError("no such file", path)
    try:
        return _read_dicom(path) if is_dicom(path) else _read_picture(path)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError("not a picture; PNG, JPEG, TIFF and DICOM can be read", path) from error
    except Exception as error:  # whatever a damaged file makes a reader raise
        raise InputError(f"cannot be read ({one_line(error)})", path) from error


def _read_picture(path: str) -> Frames:
    with Image.open(path) as picture:
        if picture.format not in KINDS:
            raise InputError(f"{picture.format} is not read; convert it to PNG, JPEG, TIFF or DICOM", path)
        pages = [np.asarray(_plain(page, path)) for page in ImageSequence.Iterator(picture)]
    if len({page.shape for page in pages}) > 1:
        raise InputError("its pages differ in size", path)
    pixels = np.stack(pages)
    return Frames(
        pixels.astype(np.uint16) if pixels.dtype != np.uint8 else pixels, 255 if pixels.dtype == np.uint8 else 65535
    )


def _plain(page: Image.Image, path: str) -> Image.Image:
    """Grey or RGB; transparency is left out."""
    if page.mode in ("L", "RGB") or page.mode.startswith("I;16"):
        return page
    if page.mode == "I":  # how older Pillow opens 16-bit PNG
        return page.convert("I;16")
    if page.mode in ("LA", "1"):
        return page.convert("L")
    if page.mode in ("P", "RGBA", "PA"):
        return page.convert("RGB")
    raise InputError(f"pixels of kind {page.mode}; 8 or 16 bit grey or RGB is needed", path)


def _read_dicom(path: str) -> Frames:
    import pydicom  # takes a while to import, and only DICOM needs it

    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise InputError("a DICOM file without a picture", path)
    pixels = pydicom.pixels.pixel_array(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, dataset)
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{pixels.dtype} pixels; 8 or 16 bit without sign are needed", path)
    top = 2 ** int(dataset.BitsStored) - 1 if pixels.dtype == np.uint16 else 255
    if dataset.PhotometricInterpretation == "MONOCHROME1":
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


def find_frames(folder: str | os.PathLike, names: Sequence[str] = ("**/*",)) -> list[str]:
    """Paths of the pictures in a folder and below, sorted; results of this collection are left out.

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
    for path in sorted({path for name in names for path in root.glob(name)}):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or not path.is_file() or Path(f"{path}.provenance.json").exists():
            continue
        if path.suffix.lower() in ENDINGS or (not path.suffix and is_dicom(path)):
            found.append(str(path))
    if not found:
        raise InputError("no PNG, JPEG, TIFF or DICOM file in it", root)
    return found
