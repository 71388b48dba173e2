# SPDX-License-Identifier: Apache-2.0
"""Pictures through Pillow: what a result could not keep is refused rather than lost."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from common.errors import InputError

__all__ = ["MOST_PIXELS", "ORIENTATION", "SUFFIXES", "check_page", "open_picture", "orientation", "turned"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
MOST_PIXELS = 2**25  # of a frame: 33.5 million, as 5792 x 5792
ORIENTATION = 0x0112  # EXIF: how a viewer turns the picture
MODES = ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L")
BITS_PER_SAMPLE = 258  # TIFF
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's kinds of colour
BLOCK = 1 << 20


def open_picture(
    path: str | os.PathLike,
    kinds: Sequence[str] = ("PNG", "JPEG", "BMP"),
    most: int = MOST_PIXELS,
    kept: bool = True,
) -> Image.Image:
    """Opens a picture of 8 or 16 bit grey, or 8 bit RGB, either with alpha; its pixels are not decoded yet.

    Args:
        path: a file.
        kinds: Pillow's names of the formats meant.
        most: pixels of a page at most.
        kept: refuse pixels that a result would not keep; False for masks, of which no result is made.

    Raises:
        InputError: no picture, one of another format, or one whose pixels a result would not keep: more than 8 bits per
            colour, fewer than 8, a palette, a transparent colour, animation, or too many pixels.
    """
    path = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
    except UnidentifiedImageError as error:
        raise InputError(f"not a picture; {', '.join(kinds)} can be read", path) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"more than {most / 1e6:.1f} million pixels; cut it into parts", path) from error
    try:
        if picture.format not in kinds:
            raise InputError(f"{picture.format} is not read; convert it to {kinds[0]}", path)
        if picture.format != "TIFF" and (count := getattr(picture, "n_frames", 1)) > 1:
            raise InputError(
                f"animated, with {count} pictures of which one would come back; save them one by one", path
            )
        _check_size(picture, path, most)
        if kept:
            _check_depth(picture, path)
            check_page(picture, path, most)
    except BaseException:
        picture.close()
        raise
    return picture


def check_page(page: Image.Image, path: str, most: int = MOST_PIXELS) -> None:
    """Checks a page of a picture, see ``open_picture``.

    Raises:
        InputError: pixels that a result would not keep, or too many of them.
    """
    _check_size(page, path, most)
    if page.mode in ("P", "PA"):
        raise InputError("a palette's colours, which a result could not keep; save it as grey or RGB first", path)
    if page.mode not in MODES:
        raise InputError(f"pixels of kind {page.mode}; 8 or 16 bit grey or 8 bit RGB is needed", path)
    if isinstance(page, TiffImageFile):
        bits = {int(n) for n in page.tag_v2.get(BITS_PER_SAMPLE, (1,))}
        _check_bits(bits, page.mode, path)
    if "transparency" in page.info:
        raise InputError("one colour stands for transparency; save it with an alpha channel, or without either", path)


def _check_rows(picture: Image.Image, path: str) -> None:
    """Counts a PNG's bytes of pixels, since Pillow leaves rows that are not there black without a word."""
    decoder, count = zlib.decompressobj(), 0
    width, height = picture.size
    with open(path, "rb") as stream:
        start = stream.read(33)
        bits, kind, interlaced = start[24], start[25], start[28] == 1
        row = 1 + -(-width * bits * CHANNELS.get(kind, 1) // 8)
        while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
            body = stream.read(int.from_bytes(head[:4], "big"))
            stream.read(4)
            if head[4:] == b"IDAT":
                rest = body
                while rest and not decoder.eof and count < row * height:
                    count += len(decoder.decompress(rest, BLOCK))
                    rest = decoder.unconsumed_tail
    if not interlaced and count < row * height:
        raise InputError(f"truncated: {count // row} of {height} rows are there", path)


def _check_size(page: Image.Image, path: str, most: int) -> None:
    width, height = page.size
    if width * height > most:
        size = f"{width} x {height} pixels"
        raise InputError(f"{size} are more than the {most / 1e6:.1f} million that are taken; cut it into parts", path)


def _check_depth(picture: Image.Image, path: str) -> None:
    """Reads a PNG's depth from its header, since Pillow makes 8 bits of what it has no mode for."""
    if picture.format == "PNG":
        with open(path, "rb") as stream:
            header = stream.read(26)
        _check_bits({header[24]}, "P" if header[25] == 3 else picture.mode, path)
        _check_rows(picture, path)
    elif picture.mode == "1":
        _check_bits({1}, "1", path)


def _check_bits(bits: set[int], mode: str, path: str) -> None:
    grey = mode in ("L", "1") or mode.startswith("I")
    if mode != "P" and bits != {8} and not (grey and bits == {16}):
        kind = "grey" if grey else "colour or alpha"
        raise InputError(f"{kind} with {max(bits)} bits; 8 or 16 bit grey or 8 bit RGB is needed", path)


def orientation(picture: Image.Image) -> int:
    """How a viewer turns a picture, EXIF's number from 1 to 8; 1 where nothing or nonsense is said."""
    try:
        found = int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF
        return 1
    return found if 1 <= found <= 8 else 1


def turned(number: int) -> dict[str, Any]:
    """Options for Pillow's ``save`` that keep an orientation, and nothing else of EXIF: it may tell of people."""
    if number == 1:
        return {}
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return {"exif": exif}
