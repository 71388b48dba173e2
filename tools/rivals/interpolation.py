# SPDX-License-Identifier: Apache-2.0
"""Interpolation by a kernel, as one small matrix per axis; both grids start at the same outer corner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from common.transforms.degradation import apply_per_axis, spline_matrix

__all__ = ["KERNELS", "enlarge", "kernel_matrix"]

Kernel = Callable[[np.ndarray], np.ndarray]


def linear(distance: np.ndarray) -> np.ndarray:
    """Triangle of half-width 1; beyond the outermost centres the nearest voxel alone has a weight."""
    return np.maximum(0, 1 - distance)


def lanczos(distance: np.ndarray) -> np.ndarray:
    """Sinc windowed by a sinc three times as wide (Duchon 1979), half-width 3."""
    return np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0)


KERNELS: dict[str, Kernel] = {"linear": linear, "lanczos": lanczos}


def kernel_matrix(size: int, new_size: int, step: float, kernel: Kernel) -> np.ndarray:
    """Interpolation of one axis to a finer spacing.

    At the borders the kernel is cut and its weights are normalised, as Pillow and OpenCV do.

    Args:
        size: voxels of the given axis.
        new_size: voxels of the new axis.
        step: new spacing in given voxels, at most 1.
        kernel: weight by distance in given voxels.

    Returns:
        ``(new_size, size)`` float64, rows summing to 1.
    """
    positions = np.clip((np.arange(new_size) + 0.5) * step - 0.5, -0.5, size - 0.5)
    weights = kernel(np.abs(np.arange(size) - positions[:, None]))
    return weights / weights.sum(axis=1, keepdims=True)


def enlarge(low: torch.Tensor, size: Sequence[int], factors: Sequence[float], how: str) -> torch.Tensor:
    """A low-resolution image on the high-resolution grid.

    Args:
        low: ``(..., h, w[, d])``.
        size: voxels of the result's axes.
        factors: low-resolution spacing in high-resolution voxels, per axis.
        how: ``linear``, ``lanczos`` or ``spline`` (cubic).
    """
    matrices: list[np.ndarray | None] = []
    for n, new, factor in zip(low.shape[-len(factors) :], size, factors, strict=True):
        if factor == 1:
            matrices.append(None)
        elif how == "spline":
            matrices.append(spline_matrix(n, new, 1 / factor))
        else:
            matrices.append(kernel_matrix(n, new, 1 / factor, KERNELS[how]))
    return apply_per_axis(low, matrices)
