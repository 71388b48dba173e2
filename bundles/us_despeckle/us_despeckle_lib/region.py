# SPDX-License-Identifier: Apache-2.0
"""The part of a scanner's picture that is ultrasound: without text, scales, logos and margins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

from common.errors import InputError
from common.utils.values import value

from .frames import Frames

__all__ = ["box_mask", "detect_region", "parse_box", "ultrasound_region"]

logger = logging.getLogger(__name__)

PLATEAU = 0.02  # share of the picture that a constant level covers at least to be a margin
BLACK = 8 / 255  # below it a constant level may be tissue without echoes
BORDER = 0.12  # share of the picture's border that a black margin covers at least
LOSSY = 3 / 255  # grey margins of pictures that JPEG has been at vary by that
RINGING = 12 / 255  # and near edges by that
CONSTANT = 20 / 255  # between the 5th and 95th percentile of a line that shows no tissue
SQUARE = 0.95  # share of its box that a rectangle covers
JUTTING = 0.015  # share of it that may jut out; more belongs to a slanted or curved side
LEAST = 0.02  # share of the picture that a region covers at least
FILLED = 0.55  # share of a neighbourhood
SMALL = 0.1  # parts below this share of the largest are text
DOPPLER = 0.005  # share of coloured pixels in a region from which colour Doppler is likely


def parse_box(given: Any, name: str = "region") -> tuple[int, int, int, int] | None:
    """A box ``[left, top, right, bottom]`` in pixels, right and bottom excluded, from a list or its text.

    Raises:
        InputError: not four whole numbers that span a box.
    """
    plain = value(given)
    if plain is None:
        return None
    whole = isinstance(plain, list | tuple) and len(plain) == 4 and all(type(n) is int for n in plain)
    if not whole or min(plain) < 0 or plain[0] >= plain[2] or plain[1] >= plain[3]:
        raise InputError(f"{name} must be [left, top, right, bottom] in pixels, got {given!r}")
    return tuple(plain)


def box_mask(box: Sequence[int], shape: Sequence[int], name: str = "region", path: str | None = None) -> np.ndarray:
    """Boolean ``(H, W)`` of a box.

    Raises:
        InputError: the box reaches beyond the picture.
    """
    left, top, right, bottom = box
    if right > shape[1] or bottom > shape[0]:
        raise InputError(f"{name} {list(box)} lies outside the picture of {shape[1]} x {shape[0]} pixels", path)
    mask = np.zeros(tuple(shape), bool)
    mask[top:bottom, left:right] = True
    return mask


def ultrasound_region(frames: Frames, box: Sequence[int] | None = None, path: str | None = None) -> np.ndarray:
    """Boolean ``(H, W)``: the ultrasound of all frames, without coloured pixels.

    The first that is known of: the box given, the regions that DICOM names (in which the fan is looked for), the fan or
    rectangle found in the picture.

    Raises:
        InputError: the box lies outside the picture.
    """
    grey = frames.grey().max(axis=0)
    coloured = np.asarray(frames.coloured().any(axis=0))
    if box is not None:
        region = box_mask(box, grey.shape, path=path)
    elif frames.boxes:
        region = np.zeros(grey.shape, bool)
        for left, top, right, bottom in frames.boxes:
            part = (slice(top, bottom + 1), slice(left, right + 1))
            region[part] = detect_region(grey[part], coloured[part])
    else:
        region = detect_region(grey, coloured)
    inside = coloured & region
    if inside.sum() > DOPPLER * region.sum():
        share = inside.sum() / region.sum()
        logger.warning(
            "%s: %.1f %% of the ultrasound is coloured (colour Doppler?); coloured pixels are left as they are",
            *(path, 100 * share),
        )
    if inside.any():  # with the seam around marks, where colour fades
        region = region & ~ndimage.binary_dilation(inside, iterations=2)
    return region


def detect_region(grey: np.ndarray, coloured: np.ndarray | None = None) -> np.ndarray:
    """The fan or rectangle of the ultrasound: the convex hull of what is large and no margin, without what is above it.

    Margins are constant: grey levels that cover whole areas, and black where it makes up much of the picture's border.
    Text, ticks and grey bars are thinner than a few per cent of the picture and go first.

    Args:
        grey: ``(H, W)`` in [0, 1]; of a cine loop the maximum over its frames.
        coloured: ``(H, W)``, pixels that are no ultrasound.

    Returns:
        Boolean ``(H, W)``; all of the picture where no such part is found.
    """
    whole = np.ones(grey.shape, bool)
    margin = _margins(grey)
    if not margin.any():  # tissue up to the picture's border: nothing to crop
        return whole
    shown = ~margin
    if coloured is not None:
        shown &= ~ndimage.binary_dilation(coloured, iterations=2)
    unit = min(grey.shape)
    close, thin = max(1, round(0.006 * unit)), max(2, round(0.02 * unit))
    # text fills less than half of its place, so it stays apart from ultrasound that begins right below it
    solid = _opened(ndimage.uniform_filter(shown.astype(np.float32), 2 * close + 1, mode="nearest") > FILLED, thin)
    labels, count = ndimage.label(solid)
    if not count:
        return whole
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.isin(labels, 1 + np.flatnonzero(sizes >= SMALL * sizes.max()))
    kept = _squared(kept)
    hull = _hull(kept) & (np.cumsum(shown & _grown(kept, close), axis=0) > 0)
    hull = _trimmed(hull, grey, 2 * close)  # a curved probe's surface is concave
    return hull if hull.sum() >= LEAST * hull.size else whole


def _squared(mask: np.ndarray) -> np.ndarray:
    """A mask that is nearly a rectangle without what juts out, such as text that touches it."""
    sides = []
    for lines in (mask, mask.T):
        first = lines.argmax(axis=1)
        spans = np.where(lines.any(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1) - first, 0)
        wide = np.flatnonzero(spans >= spans.max() / 2)
        sides.append(slice(wide[0], wide[-1] + 1))
    box = np.zeros(mask.shape, bool)
    box[tuple(sides)] = True
    alike = _hull(mask & box).sum() >= SQUARE * box.sum() and (mask & ~box).sum() <= JUTTING * mask.sum()
    return mask & box if alike else mask


def _trimmed(mask: np.ndarray, grey: np.ndarray, most: int) -> np.ndarray:
    """A mask without the outermost rows and columns that are constant, such as rulers and what JPEG leaves of an edge.

    Args:
        mask: boolean ``(H, W)``.
        grey: ``(H, W)`` in [0, 1].
        most: rows or columns at most from each side.
    """
    mask = mask.copy()
    for lines, levels in ((mask, grey), (mask.T, grey.T)):
        for places in (np.flatnonzero(lines.any(axis=1))[:most], np.flatnonzero(lines.any(axis=1))[::-1][:most]):
            for place in places:
                low, middle, high = np.percentile(levels[place][lines[place]], (5, 50, 95))
                if middle < BLACK or high - low > CONSTANT:
                    break
                lines[place] = False
    return mask


def _margins(grey: np.ndarray) -> np.ndarray:
    """Boolean ``(H, W)``: what has one of the levels of the picture's constant areas."""
    levels = np.rint(grey * 255).astype(np.int16)
    flat = ndimage.maximum_filter(levels, 3) == ndimage.minimum_filter(levels, 3)
    smooth = ndimage.uniform_filter(levels.astype(np.float32), 5)
    calm = ndimage.maximum_filter(levels, 5) - ndimage.minimum_filter(levels, 5) <= 2 * RINGING * 255
    counts = np.bincount(levels[flat], minlength=256)
    border = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    mask = np.zeros(grey.shape, bool)
    reach = max(2, round(0.012 * min(grey.shape)))
    for level in np.flatnonzero(counts >= PLATEAU * grey.size):
        black = level < BLACK * 255
        if not black:  # tissue of that level is there in crumbs
            distance = np.abs(levels - level)
            near = (distance <= LOSSY * 255) | (calm & (np.abs(smooth - level) <= LOSSY * 255))
            labels, _ = ndimage.label(_opened(near, 2))
            large = np.bincount(labels.ravel()) >= PLATEAU / 10 * grey.size
            large[0] = False
            mask |= (distance <= RINGING * 255) & _grown(large[labels], reach)
        elif (border == level).mean() >= BORDER:
            mask |= levels == level
    return mask


def _hull(mask: np.ndarray) -> np.ndarray:
    """Convex hull of a mask's pixels."""
    canvas = Image.new("1", mask.shape[::-1])
    rows = np.flatnonzero(mask.any(axis=1))
    ends = (mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1))
    points = np.concatenate([np.stack([end, rows], axis=1) for end in ends])
    corners = points[ConvexHull(points).vertices]
    ImageDraw.Draw(canvas).polygon([tuple(map(int, corner)) for corner in corners], fill=1, outline=1)
    return np.asarray(canvas)


def _opened(mask: np.ndarray, radius: int) -> np.ndarray:
    """What squares of ``2 radius + 1`` pixels that fit into a mask cover; filters of separable squares are fast."""
    edge = 2 * radius + 1
    return ndimage.maximum_filter(ndimage.minimum_filter(mask.view(np.uint8), edge, mode="nearest"), edge) > 0


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    return ndimage.maximum_filter(mask.view(np.uint8), 2 * radius + 1) > 0
