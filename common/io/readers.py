# SPDX-License-Identifier: Apache-2.0
"""Images as their headers place them: MONAI's readers without their repairs, errors in place of second guesses."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
import zlib
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import ITKReader, NibabelReader, PILReader
from monai.transforms import LoadImage, MapTransform
from monai.utils import ensure_tuple, optional_import

from common.errors import InputError, one_line, shown
from common.io.headers import UNITS, dicom_series, millimetres, nifti_header
from common.io.pictures import MOST_PIXELS, open_picture, orientation
from common.io.pictures import SUFFIXES as PICTURE_SUFFIXES
from common.io.series import readable_slices, series_affine
from common.utils.values import boolean

__all__ = ["LoadScan", "LoadScand", "NiftiReader", "PictureReader", "SeriesReader", "grid_of"]

PathLike = str | os.PathLike
itk, has_itk = optional_import("itk")
logger = logging.getLogger(__name__)

APART = 0.1  # mm between a corner's places by sform and by qform that are worth a word
BLOCK = 1 << 20
MOST_ENLARGED = 2**23  # pixels of a picture; super-resolution makes sixteen of each
LARGEST = float(np.finfo(np.float32).max)


def grid_of(path: str | os.PathLike) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine in mm of a NIfTI file, from its header alone."""
    header = nifti_header(path)
    return tuple(header.get_data_shape()), millimetres(header) @ header.get_best_affine()


class NiftiReader(NibabelReader):
    """MONAI's reader of NIfTI files with nibabel's own affine, in mm.

    MONAI replaces an affine whose scale differs from ``pixdim`` by one made of ``pixdim``, which moves registered,
    sheared and edited images; here the affine that nibabel reports stands, and one line says where the header's other
    statements disagree. Compressed files are read to their end, where their checksum is; metres and micrometres become
    mm.
    """

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Opens files as ``NibabelReader`` does.

        Raises:
            InputError: a header that cannot work.
        """
        self.filenames = ensure_tuple(data)
        images = [self._open(os.fspath(path)) for path in self.filenames]
        return images if len(images) > 1 else images[0]

    def _open(self, path: str) -> nib.Nifti1Pair:
        header = nifti_header(path)
        image = nib.load(path)
        assert isinstance(image, nib.Nifti1Pair)  # its header was read as one
        if apart := _disagreement(header, image.affine):
            logger.warning("%s: %s; the sform counts", shown(path), apart)
        code = int(header["xyzt_units"]) & 7
        if code not in UNITS:
            logger.warning("%s: %d is no unit of space; its numbers are taken as mm", shown(path), code)
        return image

    def _get_meta_dict(self, img: nib.Nifti1Image) -> dict:
        meta = super()._get_meta_dict(img)
        if int(meta["sform_code"]) > 0 and int(meta["qform_code"]) > 0 and _disagreement(img.header, img.affine):
            meta["qform_code"] = meta["sform_code"]  # a result has one place, which is the sform's
        return meta

    def _get_affine(self, img: nib.Nifti1Image) -> np.ndarray:
        return millimetres(img.header) @ img.affine

    def _get_array_data(self, img: nib.Nifti1Image, filename: str | os.PathLike) -> np.ndarray:
        try:
            voxels = _voxels(os.fspath(filename), type(img))
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"the voxels are truncated or damaged ({one_line(error)})", filename) from error
        if voxels.dtype.kind == "f" and voxels.dtype.itemsize > 4:
            most = float(np.abs(voxels).max(initial=0, where=np.isfinite(voxels)))
            if most > LARGEST:
                raise InputError(f"values up to {most:.3g} lie beyond single precision; rescale them", filename)
        return voxels


def _voxels(path: str, kind: type[nib.Nifti1Image]) -> np.ndarray:
    """Scaled voxels of a file; of a compressed one after a look at the checksum behind its last byte."""
    if not path.lower().endswith(".gz"):
        return np.asanyarray(kind.from_filename(path).dataobj)
    with gzip.open(path) as stream:
        voxels = np.asanyarray(kind.from_stream(stream).dataobj)
        while stream.read(BLOCK):
            pass
    return voxels


def _disagreement(header: nib.Nifti1Header, affine: np.ndarray) -> str:
    """What ``qform`` or ``pixdim`` say other than the sform, which counts; nothing where they agree."""
    if int(header["sform_code"]) <= 0:
        return ""
    shape = [*header.get_data_shape(), 1, 1][:3]
    if int(header["qform_code"]) > 0:
        try:
            apart = header.get_qform() - affine
        except Exception:
            return "the qform is no rotation"
        corners = np.array(list(product(*[(0, n - 1) for n in shape])))
        away = np.linalg.norm(corners @ apart[:3, :3].T + apart[:3, 3], axis=1).max()
        return "" if away <= APART else f"sform and qform disagree by up to {away:.3g} mm"
    lengths, pixdim = np.linalg.norm(affine[:3, :3], axis=0), header["pixdim"][1:4]
    real = np.array(shape) > 1
    if np.allclose(lengths[real], pixdim[real], rtol=0.01):
        return ""
    told = [" x ".join(f"{float(n):.4g}" for n in of) for of in (lengths, pixdim)]
    return f"voxels of {told[0]} by the sform, of {told[1]} by pixdim"


class SeriesReader(ITKReader):
    """MONAI's reader through ITK; DICOM series get their slices' own positions, so a tilted gantry keeps its shear.

    Args:
        allow_missing_slices: leave slices that cannot be read out of a series, with a warning, instead of refusing it.
    """

    def __init__(self, allow_missing_slices: Any = False) -> None:
        super().__init__()
        self.allow_missing_slices = boolean(allow_missing_slices)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Reads one image, or one folder with a DICOM series.

        Raises:
            InputError: no series, several, or one with slices that cannot be read or do not make a volume.
        """
        (path,) = map(os.fspath, ensure_tuple(data))
        if not os.path.isdir(path):
            return super().read(path, **kwargs)
        files = dicom_series(path, self.allow_missing_slices, quiet=True)  # check_headers has told what is odd
        if len(files) == 1:
            return super().read(files[0], **kwargs)
        try:
            image = itk.imread(files, pixel_type=itk.F)  # the first slice's type may be too narrow for the others
        except RuntimeError:
            files = readable_slices(files, path, self.allow_missing_slices)
            image = itk.imread(files, pixel_type=itk.F)
        affine = series_affine(files, path, quiet=True)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / spacing)))
        image.SetOrigin(affine[:3, 3].tolist())
        return image


class PictureReader(PILReader):
    """MONAI's reader of pictures, made grey, 16 bits staying 16; see ``common.io.pictures`` for what is refused.

    The way a viewer turns a picture (EXIF) is told in the meta data as "orientation"; the pixels stay as stored.

    Args:
        kept: refuse pixels that a result would not keep; False for masks, of which no result is made.
    """

    def __init__(self, kept: bool = True) -> None:
        super().__init__()
        self.kept = kept

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Opens one picture.

        Raises:
            InputError: see ``common.io.pictures.open_picture``, or pixels that are not opaque.
        """
        (path,) = map(os.fspath, ensure_tuple(data))
        with open_picture(path, most=MOST_ENLARGED if self.kept else MOST_PIXELS, kept=self.kept) as picture:
            self._orientation = orientation(picture)
            if self.kept and "A" in picture.getbands() and np.asarray(picture.getchannel("A")).min() < 255:
                raise InputError("transparent pixels, which a result could not keep; save it without alpha", path)
            grey = picture if picture.mode == "L" or picture.mode.startswith("I") else picture.convert("L")
            return grey.copy()

    def _get_meta_dict(self, img: Any) -> dict:
        return {**super()._get_meta_dict(img), "orientation": self._orientation}

    def verify_suffix(self, filename: Any) -> bool:
        """Whether the name is that of a picture."""
        return all(os.fspath(name).lower().endswith(PICTURE_SUFFIXES) for name in ensure_tuple(filename))


logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # it warns that it is not installed


class LoadScan(LoadImage):
    """MONAI's ``LoadImage`` with the readers of this module, by the file's name: ``(C, H, W[, D])`` float32.

    Args:
        allow_missing_slices: see ``SeriesReader``.
        kept: see ``PictureReader``.
    """

    def __init__(self, allow_missing_slices: Any = False, kept: bool = True) -> None:
        with warnings.catch_warnings():  # of a decoder for GPUs in one of MONAI's readers, which are all replaced below
            warnings.filterwarnings("ignore", "NvImgCodec")
            super().__init__(image_only=True, ensure_channel_first=True, expanduser=False)
        # the last that knows a name reads it, and its error stands: no other reader is tried
        self.readers = [SeriesReader(allow_missing_slices), PictureReader(kept), NiftiReader()]

    def __call__(self, filename: Any, reader: Any = None) -> Any:
        """Loads an image.

        Raises:
            InputError: what cannot be read, with the reason in one line.
        """
        try:
            return super().__call__(filename, reader)
        except InputError:
            raise
        except Exception as error:  # whatever a damaged file makes a reader raise
            raise InputError(f"cannot be read ({one_line(error)})", filename) from error


class LoadScand(MapTransform):
    """``LoadScan`` for keys that name files, DICOM series or pictures.

    Args:
        keys: paths.
        allow_missing_slices: see ``SeriesReader``.
        allow_missing_keys: as in every ``MapTransform``.
    """

    def __init__(
        self, keys: KeysCollection, allow_missing_slices: Any = False, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadScan(allow_missing_slices)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its images ``(C, H, W[, D])`` in place of their paths."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.load(out[key])
        return out
