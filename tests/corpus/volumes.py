# SPDX-License-Identifier: Apache-2.0
"""NIfTI files of every kind."""

from __future__ import annotations

import bz2
import functools
import gzip
import os
import struct
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .kinds import VOLUMES, kind

SHAPE = (20, 24, 12)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [10, -5, 20], degrees=True).as_matrix()
OBLIQUE[:3, 3] = [-11.45, 7.25, 30.5]
LESION = ("lesion_msgan",)
HEADER = nib.nifti1.header_dtype.newbyteorder("<")


@functools.lru_cache(maxsize=64)
def blob(shape=SHAPE, seed=0) -> np.ndarray:
    """A textured ellipsoid, 0 outside, up to about 1000."""
    random = np.random.default_rng(seed)
    ticks = np.meshgrid(*[np.linspace(-1, 1, n) * (n > 1) * min(1, n / 6) for n in shape], indexing="ij")
    inside = sum(t**2 for t in ticks) < 0.8
    texture = ndimage.gaussian_filter(random.normal(size=shape), [1 if n > 1 else 0 for n in shape])
    return np.where(inside, 400 + 600 * (0.5 + np.clip(texture, -1, 1) / 2), 0).astype(np.float32)


def seed_of(stem: str) -> int:
    """Another image for each sequence of a case."""
    return zlib.crc32(stem.encode()) % 1000


def raw(stem: str = "", data=None, affine=None, kind_of=nib.Nifti1Image, codes=(1, 1), **fields) -> bytes:
    """The bytes of a file, with header fields replaced afterwards."""
    data = blob(seed=seed_of(stem)) if data is None else data
    image = kind_of(data, OBLIQUE if affine is None else affine, dtype=data.dtype)
    image.set_sform(image.affine, codes[0])
    image.set_qform(image.affine, codes[1])
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, HEADER, count=1)[0] if kind_of is nib.Nifti1Image else None
    for name, value in fields.items():
        header[name] = value
    return bytes(content)


def put(folder: Path, stem: str, content: bytes, ending: str = ".nii") -> Path:
    """Writes a file, compressed where its name says so."""
    path = folder / f"{stem}{ending}"
    path.write_bytes(gzip.compress(content, 1) if ending.lower().endswith(".gz") else content)
    return path


def header_kind(name: str, says: str | None = None, data=None, affine=None, codes=(1, 1), more=None, **fields) -> None:
    """Registers a file whose header has some fields changed."""

    def make(folder, stem):
        own = None if data is None else data(blob(seed=seed_of(stem)))
        return put(folder, stem, raw(stem, own, affine, codes=codes, **fields))

    kind(name, says, **(more or {}))(make)


# containers


@kind("empty file", "empty")
def _(folder, stem):
    return put(folder, stem, b"")


@kind("empty file named .gz", "empty")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    path.touch()
    return path


@kind("text named .nii", "not a NIfTI")
def _(folder, stem):
    return put(folder, stem, b"no image\n" * 99)


@kind("text named .nii.gz", "not a gzip")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    path.write_bytes(b"no image\n" * 99)
    return path


@kind("compressed text", "not a NIfTI")
def _(folder, stem):
    return put(folder, stem, b"no image\n" * 99, ".nii.gz")


@kind("random bytes named .nii", "not a NIfTI")
def _(folder, stem):
    return put(folder, stem, np.random.default_rng(0).bytes(5000))


@kind("zeros named .nii", "not a NIfTI")
def _(folder, stem):
    return put(folder, stem, bytes(5000))


def _damaged(name, says, damage):
    @kind(name, says)
    def _(folder, stem):
        path = put(folder, stem, raw(stem), ".nii.gz")
        path.write_bytes(damage(path.read_bytes()))
        return path


def _flip(content, place):
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


_damaged("gzip, wrong CRC", "CRC", lambda b: _flip(b, len(b) - 6))
_damaged("gzip, wrong length", "gzip|truncated|length", lambda b: _flip(b, len(b) - 3))
_damaged("gzip, a damaged byte in the voxels", "damaged", lambda b: _flip(b, len(b) // 2))
_damaged(
    "gzip, ten damaged bytes in the voxels", "damaged", lambda b: b[: len(b) // 2] + bytes(10) + b[len(b) // 2 + 10 :]
)
_damaged("gzip, last byte missing", "gzip|ended", lambda b: b[:-1])
_damaged("gzip, half of it missing", "gzip|ended", lambda b: b[: len(b) // 2])
_damaged("gzip, all but 40 bytes missing", "gzip|ended", lambda b: b[:40])
_damaged("gzip, two bytes", "gzip|ended|cannot", lambda b: b[:2])
_damaged("gzip, text behind it", "gzip", lambda b: b + b"behind")
_damaged("gzip, zeros behind it", None, lambda b: b + bytes(64))
_damaged("gzip, damaged first byte", "not a gzip", lambda b: _flip(b, 0))


@kind("gzip of stored blocks, a voxel changed", "CRC")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    content = gzip.compress(raw(stem), 0)
    path.write_bytes(_flip(content, len(content) // 2))
    return path


@kind("gzip of several members")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    content = raw(stem)
    path.write_bytes(gzip.compress(content[:3000]) + gzip.compress(content[3000:]))
    return path


@kind("gzip in a gzip", "not a NIfTI")
def _(folder, stem):
    return put(folder, stem, gzip.compress(raw(stem)), ".nii.gz")


@kind("bzip2 named .nii.gz", "not a gzip")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    path.write_bytes(bz2.compress(raw(stem)))
    return path


@kind("zip named .nii.gz", "not a gzip")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.nii", raw(stem))
    return path


@kind("gzip named .nii", "not a NIfTI")
def _(folder, stem):
    return put(folder, stem, gzip.compress(raw(stem)))


@kind("name in capitals")
def _(folder, stem):
    return put(folder, stem, raw(stem), ".NII.GZ")


@kind("truncated in the voxels", "truncated: 5000 of")
def _(folder, stem):
    return put(folder, stem, raw(stem)[:5000])


@kind("truncated in the header", "not a NIfTI|truncated|cannot be read")
def _(folder, stem):
    return put(folder, stem, raw(stem)[:200])


@kind("header without voxels", "truncated: 348 of")
def _(folder, stem):
    return put(folder, stem, raw(stem)[:348])


@kind("last voxel missing", "truncated")
def _(folder, stem):
    return put(folder, stem, raw(stem)[:-4])


@kind("truncated, then compressed", "truncated")
def _(folder, stem):
    return put(folder, stem, raw(stem)[:-10], ".nii.gz")


@kind("bytes behind the voxels")
def _(folder, stem):
    return put(folder, stem, raw(stem) + b"more bytes")


@kind("bytes behind the voxels, compressed")
def _(folder, stem):
    return put(folder, stem, raw(stem) + b"more bytes", ".nii.gz")


# kinds of NIfTI


def _swapped(folder, stem, image_class=nib.Nifti1Image):
    image = image_class(blob(seed=seed_of(stem)), OBLIQUE)
    header = image.header.as_byteswapped(">")
    path = folder / f"{stem}.nii"
    nib.save(image_class(image.get_fdata(dtype=np.float32).astype(">f4"), OBLIQUE, header), path)
    return path


kind("big endian")(_swapped)
kind("NIfTI-2, big endian")(lambda folder, stem: _swapped(folder, stem, nib.Nifti2Image))


@kind("NIfTI-2")
def _(folder, stem):
    return put(folder, stem, raw(stem, kind_of=nib.Nifti2Image), ".nii.gz")


@kind("Analyze named .nii", "NIfTI")
def _(folder, stem):
    image = nib.Spm99AnalyzeImage(blob(), OBLIQUE)
    return put(folder, stem, image.header.binaryblock + blob().tobytes(order="F"))


header_kind("magic of a pair", "pair|NIfTI", magic=b"ni1")
header_kind("unknown magic", "NIfTI", magic=b"xyz")
header_kind("sizeof_hdr of 0", "", sizeof_hdr=0)
header_kind("sizeof_hdr of 340", "", sizeof_hdr=340)


def _dims(*lengths):
    return [len(lengths), *lengths, *[1] * (7 - len(lengths))]


header_kind("no axes", "dim|no voxels|shape|axes|cannot be read", dim=[0, *SHAPE, 1, 1, 1, 1])
header_kind("nine axes", "dim|axes|NIfTI|cannot be read", dim=[9, *SHAPE, 1, 1, 1, 1])
header_kind("an axis of length 0", "no voxels", dim=_dims(20, 0, 12))
header_kind("an axis of length -5", "no voxels", dim=_dims(20, -5, 12))
header_kind("longer axes than there are voxels", "truncated", dim=_dims(200, 240, 120))
header_kind("axes of 32767 voxels", "truncated|voxels", dim=_dims(32767, 32767, 32767))
header_kind("shorter axes than there are voxels", dim=_dims(20, 24, 10))
header_kind(
    "two axes", "2D image", dim=_dims(20, 24), more={"bundles": ("mri_sr3d", "rslm_denoise", "brasyn_synthesis")}
)
header_kind("two axes, as a slice", data=lambda x: x[..., 6], more={"bundles": LESION, "affine": False})
header_kind("one axis", "1D image", dim=_dims(480))
header_kind("four volumes", "4D image", data=lambda x: np.stack([x] * 4, -1), more={"bundles": VOLUMES})
header_kind("five axes", "5D image", data=lambda x: x[..., None, None].repeat(3, -1))
header_kind("one volume with four axes", data=lambda x: x[..., None])
header_kind("one volume with five axes", "", data=lambda x: x[..., None, None])
header_kind("an RGB image", "RGB", data=lambda x: np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))
header_kind(
    "an RGBA image", "RGBA", data=lambda x: np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
)
header_kind("complex64 voxels", "complex64", data=lambda x: x.astype(np.complex64))
header_kind("complex128 voxels", "complex128", data=lambda x: x.astype(np.complex128))
header_kind("voxel type 0", "voxel type", datatype=0)
header_kind("unknown voxel type", "voxel type 7 is not", datatype=7)
header_kind("voxels of one bit", "voxel type|voxels", datatype=1)
header_kind("another bitpix than the voxel type's", bitpix=8)
for _name in ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f8"):
    header_kind(
        f"voxels of type {np.dtype(_name).name}",
        data=lambda x, name=_name: (x / 1000 * 120).astype(name) if name[1] == "1" else x.astype(name),
    )
header_kind("voxels of type float128", "float128|voxel type", datatype=1536, bitpix=128)

# where the voxels start

header_kind("vox_offset 0", "vox_offset", vox_offset=0)
header_kind("vox_offset 100", "vox_offset|starts", vox_offset=100)
header_kind("vox_offset 348", "vox_offset|starts", vox_offset=348)
header_kind("vox_offset -352", "vox_offset|starts", vox_offset=-352)
header_kind("vox_offset NaN", "vox_offset|starts", vox_offset=np.nan)
header_kind("vox_offset infinite", "vox_offset|starts", vox_offset=np.inf)
header_kind("vox_offset behind the file", "truncated", vox_offset=1e7)
header_kind("vox_offset 352.7", "", vox_offset=352.7)


@kind("vox_offset 100, NIfTI-2", "vox_offset|starts")
def _(folder, stem):
    content = bytearray(raw(stem, kind_of=nib.Nifti2Image))
    content[168:176] = struct.pack("<q", 100)
    return put(folder, stem, bytes(content))


def _with_extension(size: int, code: int = 6, text: bytes = b"comment "):
    def make(folder, stem):
        content = raw(stem, vox_offset=352 + 32)
        part = struct.pack("<ii", size, code) + text.ljust(24)
        return put(folder, stem, content[:348] + b"\1\0\0\0" + part + content[352:])

    return make


@kind("extension announced, none there")
def _(folder, stem):
    content = raw(stem)
    return put(folder, stem, content[:348] + b"\1\0\0\0" + content[352:])


kind("header extension")(_with_extension(32))
kind("header extension of no size", "")(_with_extension(0))
kind("header extension of negative size", "")(_with_extension(-32))
kind("header extension larger than the file", "")(_with_extension(2**30))
kind("header extension of odd size", "")(_with_extension(27))

# fields that tell nothing about the image

header_kind("toffset and cal_max NaN", toffset=np.nan, cal_max=np.nan, cal_min=np.inf)
header_kind("texts of no alphabet", descrip=b"\xff\xfe\0\x9f" * 10, aux_file=b"\xff" * 24, intent_name=b"\xff" * 16)
header_kind("slice order that cannot be", slice_code=77, slice_start=-3, slice_end=9999, dim_info=255)
header_kind("intent of vectors", intent_code=1007)
header_kind("pixdim NaN behind the third axis", pixdim=[1, 1, 1, 1, *[np.nan] * 4])

# scaling

header_kind("scl_slope 0", scl_slope=0)
header_kind("scl_slope and scl_inter", data=lambda x: x.astype(np.int16), scl_slope=0.5, scl_inter=-100)
header_kind("negative scl_slope", data=lambda x: x.astype(np.int16), scl_slope=-1)
header_kind("scl_slope NaN", "scl_slope|scaling", scl_slope=np.nan)
header_kind("scl_slope infinite", "scl_slope|scaling", scl_slope=np.inf)
header_kind("scl_inter NaN", "scl_inter|scaling", scl_inter=np.nan)
header_kind("scl_inter infinite", "scl_inter|scaling", scl_inter=-np.inf)
header_kind("scl_slope 1e38", "precision|infinite|large", scl_slope=1e38)
header_kind("scl_slope 1e-42", "precision|small|range", data=lambda x: x.astype(np.int16), scl_slope=1e-42)

# intensities

header_kind("all voxels 0", "constant", data=lambda x: 0 * x)
header_kind("all voxels 7", "constant", data=lambda x: 0 * x + 7)


def _spot(value, count=1):
    def change(x):
        x = x.copy()
        x.reshape(-1)[3000 : 3000 + count] = value
        return x

    return change


header_kind("one voxel NaN", "1 voxel is NaN", data=_spot(np.nan))
header_kind("100 voxels NaN", "100 voxels are NaN", data=_spot(np.nan, 100))
header_kind("all voxels NaN", "NaN", data=lambda x: x * np.nan)
header_kind("one voxel infinite", "infinite", data=_spot(np.inf))
header_kind("one voxel minus infinite", "infinite", data=_spot(-np.inf))
header_kind("one voxel 3e38", "precision|large", data=_spot(3e38))
header_kind("voxels from -3e38 to 3e38", "precision|large", data=lambda x: (x / 500 - 1) * np.float32(3e38))
header_kind("voxels up to 1e300 (float64)", "precision|large", data=lambda x: x.astype(np.float64) * 1e297)
header_kind("voxels up to 1e25", "precision|large", data=lambda x: x * np.float32(1e22))
header_kind("voxels up to 1e-40", "precision|small|range", data=lambda x: x * np.float32(1e-43))
header_kind("voxels up to 1e-6", data=lambda x: x * np.float32(1e-9))
header_kind("voxels up to 1e9", data=lambda x: x * np.float32(1e6))
header_kind("voxels below 0", data=lambda x: x - 2000)
header_kind("voxels around -1024, as CT", data=lambda x: (x - 1024).astype(np.int16))
header_kind("voxels at the ends of int16", data=lambda x: ((x / 1000 - 0.5) * 65534).astype(np.int16))
header_kind("one bright voxel", data=_spot(1e5))
header_kind("noise without background", data=lambda x: x + np.random.default_rng(0).normal(size=x.shape).astype("f4"))
header_kind("voxels of int64 up to 1e15", data=lambda x: x.astype(np.int64) * 2**40)
header_kind("voxels from 1e7 on", data=lambda x: x + np.float32(1e7))
header_kind("voxels that single precision makes one", "constant", data=lambda x: 1e9 + x.astype(np.float64) / 1000)
header_kind("two values", "", data=lambda x: np.where(x > 0, x.round() % 2, 0).astype(np.float32))
header_kind("all but one slice 0", "", data=lambda x: x * (np.arange(x.shape[2]) == 6))
header_kind("one voxel differs", "", data=lambda x: _spot(1)(0 * x))
header_kind("a mask of 0 and 1", "", data=lambda x: (x > 0).astype(np.uint8))

# place

header_kind("sform alone", codes=(2, 0))
header_kind("qform alone", codes=(0, 1))
header_kind("neither sform nor qform", codes=(0, 0))
header_kind("sform of a template, qform of the scanner, alike", codes=(4, 1))


def _sform(affine):
    return {f"srow_{axis}": row for axis, row in zip("xyz", np.asarray(affine), strict=False)}


STALE = OBLIQUE @ np.diag([1.06, 1.03, 1, 1])
SHEARED = OBLIQUE @ np.array([[1, 0.2, 0.1, 0], [0, 1, 0.15, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
MOVED = OBLIQUE + np.array([[0, 0, 0, 12.5], [0, 0, 0, -3], [0, 0, 0, 0], [0, 0, 0, 0]])
header_kind("sform of another scale than pixdim", more={"warns": "sform"}, **_sform(STALE))
header_kind("sform of another scale than pixdim, no qform", codes=(1, 0), more={"warns": "pixdim"}, **_sform(STALE))
header_kind("sform and qform in two places", more={"warns": "sform"}, **_sform(MOVED))
header_kind("sheared sform", more={"warns": "sform"}, **_sform(SHEARED))
header_kind("sheared sform, no qform", codes=(1, 0), more={"warns": "pixdim"}, **_sform(SHEARED))
header_kind("pixdim 1e20 beside a good sform", more={"warns": "sform"}, pixdim=[1, 1e20, 1e20, 1e20, 1, 1, 1, 1])
header_kind("left-handed axes", affine=np.diag([-1, 1, 1, 1.0]))
header_kind("axes in another order", affine=np.array([[0, 0, 1, 4], [-1, 0, 0, 5], [0, -1, 0, 6], [0, 0, 0, 1.0]]))
header_kind("uneven spacing", affine=OBLIQUE @ np.diag([0.43, 0.87, 6.5, 1]))
header_kind("10 m from the origin", affine=np.column_stack([OBLIQUE[:, :3], [1e4, -1e4, 1e4, 1]]))
header_kind("spacing 1e-5 mm", "", affine=np.diag([1e-5, 1e-5, 1e-5, 1]))
header_kind("spacing 1e9 mm", "", affine=np.diag([1e9, 1e9, 1e9, 1]))
for _value in (0.0, -1.0, np.nan, np.inf):
    header_kind(f"pixdim {_value:g}", "spacing", pixdim=[1, 1, _value, 1, 1, 1, 1, 1])
header_kind("qfac 0", codes=(0, 1), pixdim=[0, 1, 1, 1, 1, 1, 1, 1])
header_kind("qfac 7", "", codes=(0, 1), pixdim=[7, 1, 1, 1, 1, 1, 1, 1])
header_kind("quaternion too long", "quaternion|affine|cannot be read", codes=(0, 1), quatern_b=2)
header_kind("quaternion NaN", "quaternion|affine|NaN|cannot be read", codes=(0, 1), quatern_c=np.nan)
header_kind("quaternion NaN beside a good sform", "", quatern_c=np.nan)
header_kind("qform code 99", "", codes=(0, 1), qform_code=99)
header_kind("negative sform code", "", sform_code=-1)
header_kind("sform NaN", "NaN", **_sform(OBLIQUE * [1, 1, np.nan, 1]))
header_kind("sform infinite", "infinite", **_sform(OBLIQUE * [1, 1, 1, np.inf]))
header_kind("sform of zeros", "singular", **_sform(0 * OBLIQUE))
header_kind("sform with an axis twice", "singular", **_sform(OBLIQUE[:, [0, 0, 2, 3]]))
header_kind("sform with an axis of length 0", "singular", **_sform(OBLIQUE * [1, 1, 0, 1]))


def _in_mm(factor):
    def place(path):
        return np.diag([factor, factor, factor, 1]) @ nib.load(path).affine

    return place


METRE = np.diag([1e-3, 1e-3, 1e-3, 1]) @ OBLIQUE
MICRON = np.diag([1e3, 1e3, 1e3, 1]) @ OBLIQUE
header_kind("units of metres", affine=METRE, xyzt_units=1, more={"place": _in_mm(1000)})
header_kind("units of micrometres", affine=MICRON, xyzt_units=3, more={"place": _in_mm(0.001)})
header_kind("units of metres, seconds", affine=METRE, xyzt_units=9, more={"place": _in_mm(1000)})
header_kind("units unknown", xyzt_units=0)
header_kind("units of code 5", "", xyzt_units=5)
header_kind("units of code 255", "", xyzt_units=255)

# shapes


def _shaped(name, shape, says="", **more):
    @kind(name, says, **more)
    def _(folder, stem):
        return put(folder, stem, raw(stem, blob(shape, seed_of(stem))))


_shaped("one voxel", (1, 1, 1), "constant|another grid")
for _axis in range(3):
    _slice = tuple(1 if i == _axis else n for i, n in enumerate(SHAPE))
    _shaped(f"one slice along axis {_axis}", _slice, bundles=("mri_sr3d", "brasyn_synthesis", "lesion_msgan"))
    _shaped(f"one slice along axis {_axis}, denoised", _slice, None, bundles=("rslm_denoise",))
_shaped("two slices", (20, 24, 2), None)
_shaped("a line of voxels", (40, 1, 1))
_shaped("3 x 3 x 3 voxels", (3, 3, 3))
_shaped("2 x 2 x 2 voxels", (2, 2, 2))
_shaped("odd numbers of voxels", (21, 17, 13), None)
_shaped("400 slices", (8, 8, 400), "")

# names


def _named(name, text, says=None):
    @kind(name, says, bundles=("mri_sr3d", "rslm_denoise", "lesion_msgan"))
    def _(folder, stem):
        return put(folder, text, raw(stem))


_named("a tab in the name", "a\tb")
_named("a line feed in the name", "a\nb")
_named("spaces in the name", " a  b ")
_named("other alphabets in the name", "муж-女-é")
_named("emoji in the name", "scan🧠")
_named("quotes in the name", "a'b\"c")
_named("brackets in the name", "a[1]{b}(c)")
_named("percent signs in the name", "100%s%d")
_named("a dollar sign in front", "$import os")
_named("an at sign in front", "@weights")
_named("a hyphen in front", "-rf")
_named("a backslash in the name", "a\\b")
_named("dots in the name", "a.b.c")
_named("a name of 240 letters", "a" * 240, "long|name")
_named("a control character in the name", "a\x07b\x1b[31m")


def _twice(name, first, second):
    @kind(name, bundles=("mri_sr3d", "rslm_denoise", "lesion_msgan"))
    def _(folder, stem):
        put(folder, first, raw(first))
        return put(folder, second, raw(second))


_twice("two names that differ in capitals", "scan", "Scan")
_twice("one name in two normal forms of Unicode", "e\u0301", "\u00e9")
_named("a name from right to left", "\u202escan")


@kind("a folder named like a file", bundles=("mri_sr3d", "rslm_denoise", "lesion_msgan"))
def _(folder, stem):
    (folder / f"{stem}.nii.gz").mkdir()
    return put(folder / f"{stem}.nii.gz", stem, raw(stem))


@kind("a sidecar of brackets")
def _(folder, stem):
    (folder / f"{stem}.json").write_text("[" * 99_999, encoding="utf-8")
    return put(folder, stem, raw(stem), ".nii.gz")


@kind("a name that is no Unicode", "", bundles=("mri_sr3d", "rslm_denoise", "lesion_msgan"))
def _(folder, stem):
    path = os.fsencode(folder) + b"/a\xff.nii"
    with open(path, "wb") as stream:
        stream.write(raw(stem))
    return Path(os.fsdecode(path))


# what is no file


@kind("a link to a file")
def _(folder, stem):
    source = put(folder, f".kept-{stem}", raw(stem), ".nii.gz")
    path = folder / f"{stem}.nii.gz"
    path.symlink_to(source)
    return path


@kind("a link to nowhere", "link")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    path.symlink_to(folder / "annex")
    return path


@kind("a link to itself", "link")
def _(folder, stem):
    path = folder / f"{stem}.nii.gz"
    path.symlink_to(path)
    return path


@kind("a link to an endless device", "not a file|regular")
def _(folder, stem):
    path = folder / f"{stem}.nii"
    path.symlink_to("/dev/zero")
    return path


@kind("a named pipe", "not a file|regular")
def _(folder, stem):
    path = folder / f"{stem}.nii"
    os.mkfifo(path)
    return path


@kind("a folder of links to itself")
def _(folder, stem):
    path = put(folder, stem, raw(stem), ".nii.gz")
    for name in (f"here-{stem}", f"again-{stem}"):
        (folder / name).symlink_to(folder)
    return path


@kind("a folder beside its link")
def _(folder, stem):
    (folder / "inner").mkdir(exist_ok=True)
    path = put(folder / "inner", stem, raw(stem), ".nii.gz")
    (folder / f"other-{stem}").symlink_to(folder / "inner")
    return path


@kind("one name with both endings", "overwrite", bundles=("mri_sr3d", "rslm_denoise", "lesion_msgan"), results=2)
def _(folder, stem):
    put(folder, stem, raw(stem), ".nii.gz")
    return put(folder, stem, raw(stem))
