# SPDX-License-Identifier: Apache-2.0
"""OBNLM: the blockwise Bayesian non-local means filter for speckle.

Coupe, Hellier, Kervrann, Barillot, "Nonlocal means-based speckle filtering for ultrasound images", IEEE Transactions on
Image Processing 18(10), 2009. Written from the paper. Its authors hold a patent on the method (WO/2009/133307).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["obnlm", "pearson_distance"]

FLAT = 1e-6  # variance by mean, below which there is no speckle
LEVELS, OFFSET = 255.0, 100.0  # grey levels of the paper's pictures, lifted away from 0 where the distance divides


def pearson_distance(u: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson distance of two pixels, ``(u - v)^2 / v^(2 gamma)`` with the paper's gamma of 0.5: noise grows with v.

    Args:
        u: grey levels above 0.
        other: v, grey levels above 0 of the same shape, from which the noise is taken.
    """
    return (u - other) ** 2 / other


def obnlm(
    image: np.ndarray, search: int = 7, radius: int = 3, h: float = 0.7, step: int = 2, similar: float = 0.9
) -> np.ndarray:
    """Each block becomes a mean of the blocks around it, weighted by ``exp(-distance / h^2)``; overlaps are averaged.

    The distance is the mean of ``pearson_distance`` over the block. Blocks whose mean levels differ by more than the
    selection allows are left out.

    Departs from the paper, which tunes h by hand for each device: distances are counted in that which two blocks of the
    same tissue have, twice the speckle's variance by mean (the median over the picture's blocks, black margins aside).

    Args:
        image: ``(H, W)`` grey levels in [0, 1].
        search: half the edge of the search window in pixels.
        radius: of a block, which has ``2 radius + 1`` pixels on an edge.
        h: degree of smoothing.
        step: pixels between the centres of blocks, at most ``2 radius + 1``.
        similar: least ratio of two blocks' means.

    Raises:
        ValueError: blocks that leave gaps.
    """
    if step > 2 * radius + 1:
        raise ValueError(f"blocks of {2 * radius + 1} pixels leave gaps at a step of {step}")
    edge, reach = 2 * radius + 1, search + radius
    u = np.pad(np.asarray(image, np.float64) * LEVELS + OFFSET, reach, mode="symmetric")
    rows, columns = np.asarray(image).shape
    means = ndimage.uniform_filter(u, edge)
    speckle = np.maximum(ndimage.uniform_filter(u * u, edge) - means**2, 0) / means
    own = 2 * float(np.median(speckle[speckle > FLAT])) if (speckle > FLAT).any() else 1.0
    # blocks are centred on a lattice that covers the picture; elsewhere there is none
    centre = np.zeros(u.shape, bool)
    centre[reach : reach + rows : step, reach : reach + columns : step] = True
    centre[reach + rows - 1, reach : reach + columns : step] = True
    centre[reach : reach + rows : step, reach + columns - 1] = True
    centre[reach + rows - 1, reach + columns - 1] = True
    weights, total = {}, np.zeros(int(centre.sum()))  # of the blocks alone: they are a fraction of the pixels
    for i in range(-search, search + 1):
        for j in range(-search, search + 1):
            other = np.roll(u, (-i, -j), (0, 1))  # what wraps around lies outside all blocks' reach
            ratio = np.roll(means, (-i, -j), (0, 1)) / means
            near = centre & (ratio > similar) & (ratio < 1 / similar)
            distance = ndimage.uniform_filter(pearson_distance(u, other), edge)
            weights[i, j] = np.where(near, np.exp(-distance / (own * h**2)), 0)[centre].astype(np.float32)
            total += weights[i, j]
    blocks, share, result = _spread(centre.astype(np.float64), edge), np.zeros_like(u), np.zeros_like(u)
    for (i, j), weight in weights.items():
        share[centre] = weight / total  # a block is like itself, so the total is at least 1
        result += _spread(share, edge) * np.roll(u, (-i, -j), (0, 1))
    inside = (slice(reach, reach + rows), slice(reach, reach + columns))
    return (result[inside] / blocks[inside] - OFFSET) / LEVELS


def _spread(values: np.ndarray, edge: int) -> np.ndarray:
    """Sum of the values of all blocks that hold a pixel."""
    return ndimage.uniform_filter(values, edge, mode="constant") * edge**2
