# SPDX-License-Identifier: Apache-2.0
"""The square region around a lesion, in whole low-resolution pixels.

Whatever box a mask has, the region starts and ends on low-resolution pixels, so the same region can be cut from the
low- and from the high-resolution image, one exactly ``factor`` times the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .slices import foreground

__all__ = ["MARGIN", "MINIMUM", "bounding_box", "crop_corner_range", "cut", "foreground_region", "square_region"]

FACTOR = 4
MARGIN = 2  # low-resolution pixels around the lesion's box
MINIMUM = 32  # least edge of the region in high-resolution pixels

Sides = tuple[tuple[int, int], ...]


def bounding_box(mask: torch.Tensor) -> Sides | None:
    """First and one past the last index of a mask ``(H, W[, D])`` per axis; None where it is empty."""
    inside = torch.nonzero(torch.as_tensor(mask) > 0)
    if not len(inside):
        return None
    return tuple(zip(inside.amin(dim=0).tolist(), (inside.amax(dim=0) + 1).tolist(), strict=True))


def square_region(
    box: Sequence[Sequence[int]],
    shape: Sequence[int],
    margin: int = MARGIN,
    minimum: int = MINIMUM,
    factor: int = FACTOR,
) -> Sides:
    """The square with a margin around a box, inside the image.

    Args:
        box: start and stop in high-resolution pixels, for two axes.
        shape: the low-resolution image's ``(h, w)``.
        margin: low-resolution pixels added on each side.
        minimum: least edge in high-resolution pixels.
        factor: high-resolution pixels per low-resolution pixel and axis.

    Returns:
        Start and stop in low-resolution pixels, for two axes. It holds the box, has equal edges, and is moved rather
        than cut at the image's border; an axis of the image shorter than the edge is taken whole.
    """
    sides = [(start // factor - margin, -(-stop // factor) + margin) for start, stop in box]
    edge = max(-(-minimum // factor), *(stop - start for start, stop in sides))
    region = []
    for (start, stop), length in zip(sides, shape, strict=True):
        size = min(edge, length)
        first = min(max((start + stop - size) // 2, 0), length - size)
        region.append((first, first + size))
    return tuple(region)


def foreground_region(low: torch.Tensor) -> Sides:
    """The square region of what an image ``(h, w[, d])`` shows; the whole image where it shows nothing.

    Of a volume also start and stop of the slices that show something.
    """
    constant = bool((low == low.flatten()[0]).all())
    box = None if constant else bounding_box(foreground(low))
    if box is None:
        return tuple((0, n) for n in low.shape)
    inner = [(start * FACTOR, stop * FACTOR) for start, stop in box[:2]]
    return (*square_region(inner, low.shape[:2], margin=0), *box[2:])


def crop_corner_range(side: Sequence[int], crop: int, length: int) -> tuple[int, int]:
    """Least and greatest start of a crop inside a region, or around a region that is smaller than the crop.

    Args:
        side: the region's start and stop along an axis.
        crop: edge of the crop.
        length: of the image, at least ``crop``.
    """
    first, last = sorted((side[0], side[1] - crop))
    return min(max(first, 0), length - crop), min(max(last, 0), length - crop)


def cut(image: torch.Tensor, region: Sequence[Sequence[int]], factor: int = 1) -> torch.Tensor:
    """The region of ``(..., H, W)``, given in pixels ``factor`` times as large as the image's."""
    rows, columns = (slice(int(start) * factor, int(stop) * factor) for start, stop in region)
    return image[..., rows, columns]
