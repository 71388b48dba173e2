# SPDX-License-Identifier: Apache-2.0
"""Pictures and ultrasound files of every kind."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, PngImagePlugin
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage, generate_uid

from .kinds import DICOM, PICTURES, kind

SHAPE = (40, 48)
US = ("us_despeckle",)
LESION = ("lesion_msgan",)


def levels(shape=SHAPE, top=255) -> np.ndarray:
    """Random grey levels."""
    return np.random.default_rng(0).integers(20, top, shape).astype(np.uint8 if top == 255 else np.uint16)


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    """The bytes of a picture's file."""
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def picture_kind(name: str, content, says: str | None = None, ending=".png", bundles=PICTURES, **more) -> None:
    """Registers a file of given bytes, or of what a function makes."""

    def make(folder, stem):
        path = folder / f"{stem}{ending}"
        path.write_bytes(content() if callable(content) else content)
        return path

    kind(name, says, bundles, affine=False, **more)(make)


GREY = Image.fromarray(levels())
COLOUR = Image.fromarray(levels((*SHAPE, 3)))
DEEP = Image.fromarray(levels(top=65000))
ALPHA = Image.fromarray(np.full(SHAPE, 99, np.uint8))
OPAQUE = Image.fromarray(np.full(SHAPE, 255, np.uint8))


def _with(picture, alpha):
    picture = picture.copy()
    picture.putalpha(alpha)
    return picture


def _flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def png(kind_of: int, depth: int, rows: bytes, size=SHAPE, extra: bytes = b"") -> bytes:
    """A PNG file made by hand, for what Pillow does not write."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", size[1], size[0], depth, kind_of, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _rows(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in values)


def _png16(channels):
    return _rows(np.random.default_rng(0).integers(0, 65535, (SHAPE[0], SHAPE[1] * channels)).astype(">u2"))


# PNG

picture_kind("PNG, 8-bit grey", encoded(GREY))
picture_kind("PNG, 16-bit grey", encoded(DEEP))
picture_kind("PNG, RGB", encoded(COLOUR))
picture_kind("PNG, interlaced", encoded(GREY))
picture_kind("PNG, RGB with alpha", encoded(_with(COLOUR, ALPHA)), bundles=US)
picture_kind("PNG, grey with alpha", encoded(_with(GREY, ALPHA)), bundles=US)
picture_kind("PNG, RGB with alpha, transparent", encoded(_with(COLOUR, ALPHA)), "transparent", bundles=LESION)
picture_kind("PNG, grey with alpha, transparent", encoded(_with(GREY, ALPHA)), "transparent", bundles=LESION)
picture_kind("PNG, RGB with alpha, opaque", encoded(_with(COLOUR, OPAQUE)))
picture_kind("PNG, grey with alpha, opaque", encoded(_with(GREY, OPAQUE)))
picture_kind("PNG, 16-bit RGB", png(2, 16, _png16(3)), "16 bits")
picture_kind("PNG, 16-bit grey with alpha", png(4, 16, _png16(2)), "16 bits")
picture_kind("PNG, 16-bit RGB with alpha", png(6, 16, _png16(4)), "16 bits")
picture_kind("PNG, 1-bit grey", encoded(GREY.convert("1")), "1 bit")
picture_kind("PNG, 2-bit grey", png(0, 2, _rows(levels((40, 12)))), "2 bits")
picture_kind("PNG, 4-bit grey", png(0, 4, _rows(levels((40, 24)))), "4 bits")
picture_kind("PNG, palette", encoded(COLOUR.quantize(64)), "palette")
picture_kind("PNG, palette of greys", encoded(GREY.quantize(64)), "palette")
picture_kind("PNG, palette with a transparent colour", encoded(COLOUR.quantize(64), transparency=3), "palette")
picture_kind("PNG, a transparent grey", encoded(GREY, transparency=30), "transparen")
picture_kind("PNG, a transparent RGB colour", encoded(COLOUR, transparency=(1, 2, 3)), "transparen")
picture_kind(
    "PNG, animated", lambda: encoded(GREY, save_all=True, append_images=[Image.fromarray(255 - levels())]), "animated"
)
picture_kind("PNG, truncated in its pixels", encoded(GREY)[:900], "cannot be read|truncated")
picture_kind("PNG, truncated in its header", encoded(GREY)[:20], "cannot be read|not a picture")
picture_kind("PNG, wrong checksum of the pixels", _flip(encoded(GREY), 700), "cannot be read")
picture_kind("PNG, wrong checksum of the header", _flip(encoded(GREY), 30), "cannot be read|not a picture")
picture_kind("PNG, text behind it", encoded(GREY) + b"behind")
picture_kind("PNG, empty file", b"", "empty")
picture_kind("PNG, text", b"no picture" * 50, "not a picture")
picture_kind("PNG, random bytes", np.random.default_rng(1).bytes(4000), "not a picture")
picture_kind("PNG, black", encoded(Image.new("L", (48, 40))), "constant")
picture_kind("PNG, white", encoded(Image.new("L", (48, 40), 255)), "constant")
picture_kind("PNG, one pixel", encoded(Image.new("L", (1, 1), 3)), "constant|small|pixel")
picture_kind("PNG, one row", encoded(Image.fromarray(levels((1, 48)))), "")
picture_kind("PNG, one column", encoded(Image.fromarray(levels((40, 1)))), "")
picture_kind("PNG, 2 x 2 pixels", encoded(Image.fromarray(levels((2, 2)))), "")
picture_kind("PNG, 3 x 3 pixels", encoded(Image.fromarray(levels((3, 3)))), "")
picture_kind("PNG, odd numbers of pixels", encoded(Image.fromarray(levels((37, 53)))))
picture_kind("PNG, a thousand times as wide as high", encoded(Image.fromarray(levels((4, 4000)))), "")
picture_kind("PNG, 12000 x 12000 pixels", lambda: png(0, 8, bytes(12001 * 12000), (12000, 12000)), "million")
picture_kind("PNG, 60000 x 60000 pixels that are not there", png(0, 8, b"", (60000, 60000)), "million")
picture_kind("PNG, no pixels' data", png(0, 8, b""), "cannot be read|truncated")
picture_kind("PNG, fewer rows than its header says", png(0, 8, _rows(levels((20, 48)))), "rows|truncated")
picture_kind("PNG, width 0", png(0, 8, b"", (40, 0)), "cannot be read|not a picture|pixels")
picture_kind("PNG, unknown depth", png(0, 7, _rows(levels())), "not a picture|cannot be read|bits")
picture_kind("PNG, large text chunk", lambda: encoded(GREY, pnginfo=_text("x" * 500_000)))
picture_kind("PNG, compressed bomb of text", lambda: encoded(GREY, pnginfo=_text("x" * 60_000_000, True)), "")
picture_kind("PNG, colour profile", encoded(GREY, icc_profile=b"no profile"), "")
picture_kind("PNG, resolution", encoded(GREY, dpi=(300, 300)))
picture_kind("PNG named .jpg", encoded(GREY), ending=".jpg", bundles=US)
picture_kind("PNG named .PNG", encoded(GREY), ending=".PNG")


def _text(text: str, packed: bool = False):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", text, zip=packed)
    return info


# JPEG


def _oriented(number):
    exif = Image.Exif()
    exif[0x0112] = number
    exif[0x010E] = "Jane Doe"
    return exif


picture_kind("JPEG, grey", encoded(GREY, "JPEG"), ending=".jpg")
picture_kind("JPEG, colour", encoded(COLOUR, "JPEG"), ending=".jpg")
picture_kind("JPEG, progressive", encoded(COLOUR, "JPEG", progressive=True), ending=".jpeg")
picture_kind("JPEG, CMYK", encoded(COLOUR.convert("CMYK"), "JPEG"), "CMYK", ending=".jpg")
picture_kind("JPEG, truncated", encoded(COLOUR, "JPEG")[:1000], "cannot be read|truncated", ending=".jpg")
picture_kind("JPEG, header alone", encoded(COLOUR, "JPEG")[:30], "cannot be read|not a picture|", ending=".jpg")
picture_kind("JPEG, damaged byte", _flip(encoded(COLOUR, "JPEG"), 1100), "", ending=".jpg")
picture_kind("JPEG, empty", b"", "empty", ending=".jpg")
for _number in (3, 6, 8):
    picture_kind(f"JPEG, EXIF orientation {_number}", encoded(GREY, "JPEG", exif=_oriented(_number)), ending=".jpg")
picture_kind("PNG, EXIF orientation 6", encoded(GREY, exif=_oriented(6)))
picture_kind("JPEG, damaged EXIF", encoded(GREY, "JPEG", exif=b"Exif\0\0no exif at all"), ending=".jpg")
picture_kind("JPEG, EXIF orientation 99", encoded(GREY, "JPEG", exif=_oriented(99)), ending=".jpg")
picture_kind("JPEG named .png", encoded(GREY, "JPEG"), ending=".png", bundles=US)

# TIFF


def tiff_kind(name, content, says=None, **more):
    picture_kind(name, content, says, ".tif", US, **more)


tiff_kind("TIFF, grey", encoded(GREY, "TIFF"))
tiff_kind("TIFF, 16-bit grey", encoded(DEEP, "TIFF"))
tiff_kind("TIFF, RGB", encoded(COLOUR, "TIFF"))
tiff_kind("TIFF, RGB with alpha", encoded(_with(COLOUR, ALPHA), "TIFF"))
tiff_kind("TIFF, LZW", encoded(GREY, "TIFF", compression="tiff_lzw"))
tiff_kind("TIFF, JPEG inside", encoded(COLOUR, "TIFF", compression="jpeg"), "")
tiff_kind("TIFF, three pages", lambda: encoded(GREY, "TIFF", save_all=True, append_images=[GREY, GREY]))
tiff_kind(
    "TIFF, pages of two sizes",
    lambda: encoded(GREY, "TIFF", save_all=True, append_images=[GREY.resize((9, 9))]),
    "differ",
)
tiff_kind("TIFF, pages of two kinds", lambda: encoded(GREY, "TIFF", save_all=True, append_images=[COLOUR]), "differ")
tiff_kind("TIFF, float", encoded(Image.fromarray(levels().astype(np.float32)), "TIFF"), "kind F|bits")
tiff_kind("TIFF, 32-bit integers", encoded(Image.fromarray(levels().astype(np.int32)), "TIFF"), "32 bits|kind I")
tiff_kind("TIFF, 1 bit", encoded(GREY.convert("1"), "TIFF"), "1 bit|kind 1")
tiff_kind("TIFF, palette", encoded(COLOUR.quantize(16), "TIFF"), "palette")
tiff_kind("TIFF, CMYK", encoded(COLOUR.convert("CMYK"), "TIFF"), "CMYK")
tiff_kind("TIFF, Lab", encoded(Image.new("LAB", (48, 40), (9, 8, 7)), "TIFF"), "LAB")
tiff_kind("TIFF, truncated", encoded(GREY, "TIFF")[:700], "cannot be read|truncated|not a picture")
tiff_kind("TIFF, orientation 6", encoded(GREY, "TIFF", tiffinfo={0x0112: 6}))
tiff_kind("TIFF, a page that points to itself", lambda: _looped(encoded(GREY, "TIFF")), "")


def _looped(content: bytes) -> bytes:
    """A TIFF whose first directory is also its next one."""
    start = struct.unpack("<I", content[4:8])[0]
    count = struct.unpack("<H", content[start : start + 2])[0]
    place = start + 2 + 12 * count
    return content[:place] + struct.pack("<I", start) + content[place + 4 :]


# other formats

picture_kind("BMP", encoded(GREY, "BMP"), ending=".bmp", bundles=LESION)
picture_kind("BMP, RGB", encoded(COLOUR, "BMP"), ending=".bmp", bundles=LESION)
picture_kind("BMP, 1 bit", encoded(GREY.convert("1"), "BMP"), "1 bit", ending=".bmp", bundles=LESION)
picture_kind("GIF named .png", encoded(GREY, "GIF"), "GIF is not read")
picture_kind("WebP named .png", encoded(COLOUR, "WEBP"), "WEBP is not read")
picture_kind("BMP named .png", encoded(GREY, "BMP"), "BMP is not read", bundles=US)
picture_kind(
    "EPS named .png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not a picture|EPS|cannot"
)


@kind("a picture behind a link to nowhere", "link", PICTURES)
def _(folder, stem):
    path = folder / f"{stem}.png"
    path.symlink_to(folder / "gone.png")
    return path


@kind("pictures in a folder of links to itself", None, PICTURES)
def _(folder, stem):
    (folder / f"{stem}.png").write_bytes(encoded(GREY))
    for name in ("here", "again"):
        (folder / name).symlink_to(folder)
    return folder / f"{stem}.png"


@kind("a named pipe called .png", "regular file", PICTURES)
def _(folder, stem):
    os.mkfifo(folder / f"{stem}.png")
    return folder / f"{stem}.png"


# ultrasound in DICOM


def ultrasound(path: Path, pixels: np.ndarray, photometric="MONOCHROME2", bits=8, change=None) -> Path:
    """An ultrasound file of ``(N, H, W[, 3])``."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UltrasoundMultiFrameImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    made.SeriesInstanceUID = generate_uid(entropy_srcs=["series", path.name])
    made.PatientName, made.Modality, made.ImageType = "X^Y", "US", ["ORIGINAL", "PRIMARY"]
    made.set_pixel_data(pixels, photometric, bits)
    if change:
        change(made)
    made.save_as(path, enforce_file_format=True)
    return path


def ultrasound_kind(name, says=None, pixels=None, photometric="MONOCHROME2", bits=8, change=None, after=None):
    """Registers an ultrasound file."""

    @kind(f"ultrasound, {name}", says, DICOM, affine=False)
    def _(folder, stem):
        path = ultrasound(
            folder / f"{stem}.dcm", levels((2, *SHAPE)) if pixels is None else pixels, photometric, bits, change
        )
        if after:
            path.write_bytes(after(path.read_bytes()))
        return path


def _drop(*names):
    return lambda made: [delattr(made, name) for name in names]


def _give(**values):
    return lambda made: [setattr(made, name, value) for name, value in values.items()]


def _garbage(made):
    made.PixelData = pydicom.encaps.encapsulate([b"no JPEG at all", b"neither"])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


def _region(*numbers):
    def change(made):
        region = pydicom.Dataset()
        region.RegionSpatialFormat, region.RegionDataType = 1, 1
        for name, value in zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), numbers, strict=False):
            setattr(region, f"RegionLocation{name}", value)
        made.SequenceOfUltrasoundRegions = [region]

    return change


ultrasound_kind("two frames")
ultrasound_kind("one frame", pixels=levels((1, *SHAPE)))
ultrasound_kind("12 bits", pixels=levels((2, *SHAPE), 4095), bits=12)
ultrasound_kind("colour", pixels=levels((2, *SHAPE, 3)), photometric="RGB")
ultrasound_kind("MONOCHROME1", photometric="MONOCHROME1")
ultrasound_kind("signed pixels", "without sign", pixels=levels((2, *SHAPE)).astype(np.int16) - 90, bits=16)
ultrasound_kind("black", "constant", pixels=np.zeros((2, *SHAPE), np.uint8))
ultrasound_kind("no pixels", "without a picture", change=_drop("PixelData"))
for _element in ("Rows", "Columns", "BitsStored", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation"):
    ultrasound_kind(f"without {_element}", _element, change=_drop(_element))
ultrasound_kind("without PixelRepresentation", "", change=_drop("PixelRepresentation"))
ultrasound_kind("NumberOfFrames wrong", "", change=_give(NumberOfFrames=5))
ultrasound_kind("NumberOfFrames 0", "", change=_give(NumberOfFrames=0))
ultrasound_kind("60000 x 60000 pixels that are not there", "million", change=_give(Rows=60000, Columns=60000))
ultrasound_kind("a million frames that are not there", "million", change=_give(NumberOfFrames=1_000_000))
ultrasound_kind("Rows 0", "", change=_give(Rows=0))
ultrasound_kind("BitsStored 3", "", change=_give(BitsStored=3, HighBit=2))
ultrasound_kind("unknown photometric interpretation", "", change=_give(PhotometricInterpretation="HUE"))
ultrasound_kind("palette without its tables", "", change=_give(PhotometricInterpretation="PALETTE COLOR"))
ultrasound_kind("pixels cut", "cannot be read|", after=lambda content: content[:-900])
ultrasound_kind("header cut", "", after=lambda content: content[:300])
ultrasound_kind("preamble alone", "cannot be read|without", after=lambda content: content[:132])
ultrasound_kind("garbage for JPEG", "cannot be read", change=_garbage)
ultrasound_kind("a region inside", change=_region(5, 5, 40, 30))
ultrasound_kind("a region beyond the picture", "", change=_region(5, 5, 400, 300))
ultrasound_kind("a region the wrong way round", "", change=_region(40, 30, 5, 5))
ultrasound_kind("a region of negative numbers", "", change=_region(0, 0, 2**32 - 5, 2**32 - 9))
ultrasound_kind("a region without numbers", "", change=_region())
