# SPDX-License-Identifier: Apache-2.0
"""Regions of interest in which speckle is measured: from a mask, from boxes, or found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from common.errors import InputError
from common.utils.values import value

from .frames import read_frames
from .region import box_mask, parse_box

__all__ = ["CONTRAST", "boxes_of", "find_rois", "given_rois"]

CONTRAST = -1  # label of the region that tissue is contrasted with; regions of tissue are 1, 2, ...
COUNT = 3  # patches of tissue that are looked for


def given_rois(shape: tuple[int, int], roi: Any, contrast: Any, mask: Any, path: str) -> np.ndarray | None:
    """Label map ``(H, W)`` of the regions that the user names; None where none is named.

    Args:
        shape: of the picture.
        roi: a box ``[left, top, right, bottom]`` or a list of boxes.
        contrast: a box of what tissue is contrasted with, such as a vessel.
        mask: a picture of the same size, or a folder with one of the same stem: 1 tissue, 255 or 2 contrast; any other
            value above 0 is tissue too.
        path: the picture, for messages.

    Raises:
        InputError: a region outside the picture, or a mask of another size.
    """
    roi, contrast, mask = value(roi), value(contrast), value(mask)
    if roi is None and contrast is None and mask is None:
        return None
    labels = np.zeros(shape, np.int16)
    if mask is not None:
        labels = _from_mask(Path(str(mask)).expanduser(), shape, path)
    boxes = roi if isinstance(roi, list | tuple) and roi and isinstance(roi[0], list | tuple) else [roi]
    named = [*((number, "roi", box) for number, box in enumerate(boxes, start=1)), (CONTRAST, "contrast_roi", contrast)]
    for number, name, box in named:
        corners = parse_box(box, name)
        if corners is not None:
            labels[box_mask(corners, shape, name, path)] = number
    return labels


def _from_mask(source: Path, shape: tuple[int, int], path: str) -> np.ndarray:
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.stem == Path(path).stem)
        if not found:
            return np.zeros(shape, np.int16)
        source = found[0]
    frames = read_frames(source)
    levels = np.rint(frames.grey()[0] * frames.top).astype(int)
    if levels.shape != shape:
        size, wanted = (" x ".join(map(str, s[::-1])) for s in (levels.shape, shape))
        raise InputError(f"the mask has {size} pixels, {Path(path).name} {wanted}", source)
    return np.where(np.isin(levels, (2, frames.top)), CONTRAST, (levels > 0).astype(np.int16)).astype(np.int16)


def find_rois(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Label map with the most homogeneous patches of tissue, and the darkest patch as contrast.

    Tissue lies between half and one and a half times the region's median level and varies; homogeneous is where a
    smoothed image varies least, since speckle itself varies everywhere.

    Args:
        image: ``(H, W)`` in [0, 1].
        region: boolean ``(H, W)``; patches lie inside.

    Returns:
        int16 ``(H, W)``: 1, 2, 3 tissue, ``CONTRAST``, else 0; without what does not fit in.
    """
    labels = np.zeros(image.shape, np.int16)
    edge = int(np.clip(min(image.shape) // 8, 12, 64))
    if not region.any() or min(image.shape) < edge:
        return labels
    image = image.astype(np.float64)
    median = float(np.median(image[region]))
    smooth = ndimage.gaussian_filter(image, edge / 8)
    mean, varies = _patches(image, edge), np.maximum(_patches(smooth**2, edge) - _patches(smooth, edge) ** 2, 0)
    whole = _patches(region.astype(float), edge) > 1 - 1e-6
    flat = np.abs(np.diff(image, axis=1, prepend=image[:, :1])) < 1e-6
    speckled = _patches(flat.astype(float), edge) < 0.75  # a drawn or saturated area of one grey level has no speckle
    allowed = whole & speckled & (mean > 0.5 * median) & (mean < 1.5 * median)
    for number in range(1, COUNT + 1):
        if not allowed.any():
            break
        corner = _lowest(np.where(allowed, varies, np.inf))
        labels[_window(corner, edge)] = number
        allowed[tuple(slice(max(0, c - edge), c + edge + 1) for c in corner)] = False
    small = edge // 2
    free = _patches((region & (labels == 0)).astype(float), small) > 1 - 1e-6
    if free.any():
        labels[_window(_lowest(np.where(free, _patches(image, small), np.inf)), small)] = CONTRAST
    return labels


def boxes_of(labels: np.ndarray, corner: tuple[int, int] = (0, 0)) -> dict[int, list[int]]:
    """Boxes ``[left, top, right, bottom]`` of a label map's regions, by their numbers.

    Args:
        labels: int ``(H, W)``, see ``find_rois``.
        corner: row and column of the picture where the map begins.
    """
    boxes = {}
    for number in np.unique(labels[labels != 0]):
        rows, columns = (np.flatnonzero((labels == number).any(axis=1 - axis)) + corner[axis] for axis in (0, 1))
        boxes[int(number)] = [int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    return boxes


def _patches(image: np.ndarray, edge: int) -> np.ndarray:
    """Mean of every ``edge x edge`` patch, at the place of its first pixel."""
    total = np.pad(image.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[edge:, edge:] - total[:-edge, edge:] - total[edge:, :-edge] + total[:-edge, :-edge]
    return sums / edge**2


def _lowest(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(values.argmin(), values.shape))


def _window(corner: tuple[int, ...], edge: int) -> tuple[slice, ...]:
    return tuple(slice(c, c + edge) for c in corner)
