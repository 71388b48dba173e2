# SPDX-License-Identifier: Apache-2.0
"""Screens laid out as five scanners lay theirs out, with made speckle: where the scan is, and what is written."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

__all__ = ["SCREENS", "Screen", "make_screen"]


@dataclass(frozen=True)
class Screen:
    """A scanner's screen.

    Args:
        size: width and height in pixels.
        scan: corners of the scan, clockwise from the upper left, ``(x, y)``, the last pixels included.
        areas: constant rectangles ``(left, top, right, bottom, grey level)``, painted in order.
        tissue: mean grey level of the upper and of the lower half.
        texts: ``(x, y, text)``.
        bar: a bar of all grey levels ``(left, top, right, bottom)``.
        ruler: a line ``(left, top, right, bottom)``.
        quality: of JPEG compression; None for none.
    """

    size: tuple[int, int]
    scan: tuple[tuple[int, int], ...]
    areas: tuple[tuple[int, int, int, int, int], ...] = ()
    tissue: tuple[int, int] = (60, 60)
    texts: tuple[tuple[int, int, str], ...] = ()
    bar: tuple[int, int, int, int] | None = None
    ruler: tuple[int, int, int, int] | None = None
    quality: int | None = None


def _box(left: int, top: int, right: int, bottom: int) -> tuple[tuple[int, int], ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


SCREENS = {
    "white page, grey frame, JPEG": Screen(
        (832, 460),
        _box(189, 47, 643, 408),
        ((0, 0, 832, 460, 255), (57, 20, 774, 410, 54), (57, 20, 774, 47, 64)),
        (45, 3),
        ((330, 22, "LV8-5L60N-2"), (330, 32, "General  SMC  3.6.1"), (70, 60, "FPS 21"), (70, 72, "De 50 mm")),
        (753, 66, 768, 146),
        (57, 409, 774, 410),
        90,
    ),
    "grey frame": Screen(
        (617, 344),
        _box(118, 22, 497, 342),
        ((0, 0, 617, 344, 56), (0, 0, 617, 22, 66)),
        (70, 56),
        ((200, 8, "General   HL9.0/60/128-2"), (560, 40, "FPS 16"), (560, 52, "Gn 82 %")),
        (4, 40, 16, 100),
        (36, 343, 617, 344),
    ),
    "slanted, grey header": Screen(
        (400, 300),
        ((84, 35), (370, 35), (340, 253), (60, 253)),
        ((0, 0, 400, 28, 36),),
        (40, 25),
        ((2, 33, "FASC1"), (2, 45, "L12-5"), (2, 57, "Gn 27"), (65, 256, "5.0 12.0")),
        (388, 45, 393, 85),
    ),
    "black, text around": Screen(
        (400, 300),
        _box(53, 29, 346, 261),
        (),
        (80, 60),
        ((5, 3, "03/15/21 06:32 PM  ADM    ML6-15  MI 0.14"), (28, 32, "E9"), (388, 90, "1"), (388, 150, "2")),
        (4, 110, 12, 190),
    ),
    "black above and below": Screen((340, 340), _box(0, 45, 339, 267), (), (50, 8)),
    "black beside, logo": Screen((340, 300), _box(30, 0, 309, 279), (), (60, 4), ((2, 2, "m"),)),
    "no margins": Screen((340, 300), _box(0, 0, 339, 299), (), (100, 60)),
}


def make_screen(screen: Screen, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels uint8 ``(H, W)``, and the mask of the scan."""
    width, height = screen.size
    rng = np.random.default_rng(seed)
    canvas = Image.new("L", screen.size)
    draw = ImageDraw.Draw(canvas)
    for left, top, right, bottom, level in screen.areas:
        draw.rectangle((left, top, right - 1, bottom - 1), fill=level)
    place = Image.new("1", screen.size)
    ImageDraw.Draw(place).polygon(screen.scan, fill=1, outline=1)
    mask = np.asarray(place)
    for x, y, text in screen.texts:
        draw.text((x, y), text, fill=190)
    pixels = np.array(canvas)
    if screen.bar:
        left, top, right, bottom = screen.bar
        pixels[top:bottom, left:right] = np.linspace(255, 0, bottom - top).astype(np.uint8)[:, None]
    if screen.ruler:
        left, top, right, bottom = screen.ruler
        pixels[top:bottom, left:right] = 170
    field = ndimage.gaussian_filter(rng.standard_normal((2, height, width)), (0, 1.0, 2.0))
    speckle = np.hypot(*field) / np.hypot(*field).mean()
    above, below = screen.tissue
    level = np.where(np.arange(height)[:, None] < height // 2, above, below)
    # scanners take a little black from tissue without echoes, so that it is not the margin's
    pixels[mask] = np.clip(level * speckle + rng.uniform(1, 3, (height, width)), 0, 255)[mask].astype(np.uint8)
    if screen.quality:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=screen.quality)
        pixels = np.asarray(Image.open(stream))
    return pixels, mask
