# SPDX-License-Identifier: Apache-2.0
"""Smooth random fields on voxel grids: the raw material of synthetic anatomy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def smooth_field(rng: np.random.Generator, shape: Sequence[int], spacing: float) -> np.ndarray:
    """Draw a smooth Gaussian field: white noise on a coarse lattice under cubic B-splines.

    Sums of four terms per axis in a fixed order, not a matrix product: the result does not depend on threads.

    Args:
        rng: source of randomness.
        shape: size of the field in voxels, any number of axes.
        spacing: lattice distance in voxels, at least 1; structures are about twice as wide.

    Returns:
        float32 array of ``shape`` with mean about 0 and standard deviation about 1.
    """
    knots = [int(np.ceil(n / spacing)) + 4 for n in shape]
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, n in enumerate(shape):
        position = np.arange(n, dtype=np.float64) / spacing
        first = position.astype(np.int64)
        t = position - first
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        # Between knots a spline averages more values than on them: without this the lattice would show.
        weights /= np.sqrt((weights**2).sum(axis=0))
        column = [-1 if a == axis else 1 for a in range(len(knots))]
        field = sum(np.take(field, first + k, axis) * weights[k].astype(np.float32).reshape(column) for k in range(4))
    return field


def level_distance(field: np.ndarray) -> np.ndarray:
    """Approximate distance in voxels to the surface where ``field`` is 0: ``|f| / |grad f|`` (any size, 3D)."""
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(field)))
    # Flat places far from the surface must not divide by almost nothing.
    return np.abs(field) / np.maximum(slope, 0.3 * slope.mean() + 1e-6)


def step(x: np.ndarray, width: float) -> np.ndarray:
    """Soft step from 0 (``x`` well below 0) to 1 (well above) over about four times ``width``."""
    return 0.5 * (1.0 + np.tanh(x / (2.0 * width)))
