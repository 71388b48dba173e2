# SPDX-License-Identifier: Apache-2.0
"""Acquisition at lower resolution as one small matrix per axis: slice profile, sampling, spline interpolation.

All three steps are linear and separable, so a volume costs a few matrix products on any device. Positions are physical:
the field of view starts at the same outer corner on both grids, hence a low-resolution voxel ``i`` of an axis with
``factor`` is centred at ``(i + 0.5) * factor - 0.5`` in high-resolution voxels, and a point source stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import map_coordinates

__all__ = [
    "FWHM",
    "apply_per_axis",
    "degrade",
    "low_resolution_size",
    "profile_matrices",
    "profile_matrix",
    "profile_sigma",
    "round_trip_matrix",
    "spline_matrix",
]

FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian in units of its sigma, 2.3548


def low_resolution_size(size: int, factor: float) -> int:
    """Number of voxels of an axis of ``size`` voxels after sampling at ``factor`` times the spacing.

    A thousandth of a voxel counts as none: headers store spacings with few digits.

    Example:
        >>> low_resolution_size(155, 2), low_resolution_size(10, 2.5)
        (78, 4)
    """
    return max(1, math.ceil(size / factor - 1e-3))


@lru_cache(maxsize=1024)
def profile_matrix(size: int, factor: float, sigma: float) -> np.ndarray:
    """Slice profile and sampling of one axis.

    Pham et al. 2019, eq. 1 (``D B``) and sec. 7: Gaussian with the full width at half maximum of the slice thickness.
    An axis may be sampled finer than the truth (sec. 7: 0.4464 mm in plane, truth 0.5 mm): cubic splines without a
    profile, since the truth holds nothing finer that could be blurred.

    Args:
        size: number of high-resolution voxels n.
        factor: low-resolution spacing in high-resolution voxels, any positive number.
        sigma: standard deviation of the profile in high-resolution voxels.

    Returns:
        ``(ceil(n / factor), n)`` float64; row i is the normalised Gaussian at low-resolution centre i. A factor
        of 1 gives the identity: an axis that is sampled as it is has no further profile.

    Raises:
        ValueError: factor or sigma negative, or no factor.

    Example:
        >>> profile_matrix(4, factor=2, sigma=0)
        array([[0.5, 0.5, 0. , 0. ],
               [0. , 0. , 0.5, 0.5]])
    """
    if factor <= 0 or sigma < 0:
        raise ValueError(f"factor must be above 0 and sigma not negative, got {factor} and {sigma}")
    if factor <= 1:
        return spline_matrix(size, low_resolution_size(size, factor), factor)
    centres = (np.arange(low_resolution_size(size, factor)) + 0.5) * factor - 0.5
    if sigma < 1e-3:  # no blur: the value at the centre, linear between two voxels
        weights = np.maximum(0, 1 - np.abs(np.arange(size) - np.clip(centres, 0, size - 1)[:, None]))
    else:
        exponent = -0.5 * ((np.arange(size) - centres[:, None]) / sigma) ** 2
        weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@lru_cache(maxsize=1024)
def spline_matrix(size: int, new_size: int, step: float) -> np.ndarray:
    """Cubic spline interpolation of one axis to another spacing.

    Args:
        size: number of voxels of the given axis.
        new_size: number of voxels of the new axis, which starts at the same outer corner.
        step: new spacing in given voxels.

    Returns:
        ``(new_size, size)`` float64, rows summing to 1: ``scipy.ndimage.map_coordinates`` (order 3, ``nearest``)
        applied to the unit vectors.

    Example:
        >>> (spline_matrix(4, 8, 0.5) @ np.full(4, 7.0)).round(6)  # a constant axis stays constant
        array([7., 7., 7., 7., 7., 7., 7., 7.])
    """
    if step == 1 and size == new_size:
        return np.eye(size)
    positions = ((np.arange(new_size) + 0.5) * step - 0.5)[None]
    columns = [map_coordinates(unit, positions, order=3, mode="nearest") for unit in np.eye(size)]
    matrix = np.stack(columns, axis=1)
    return matrix / matrix.sum(axis=1, keepdims=True)


@lru_cache(maxsize=1024)
def round_trip_matrix(size: int, factor: float, sigma: float) -> np.ndarray:
    """Slice profile, sampling and spline interpolation back to the high-resolution axis, ``(n, n)`` float64."""
    low = profile_matrix(size, factor, sigma)
    return spline_matrix(low.shape[0], size, 1 / factor) @ low


def apply_per_axis(image: torch.Tensor, matrices: Sequence[np.ndarray | torch.Tensor | None]) -> torch.Tensor:
    """Multiplies each of the last axes of an image by a matrix.

    Args:
        image: ``(..., H, W, D)``, as many trailing spatial axes as matrices; whole numbers become float32.
        matrices: per axis ``(new, old)``, or None to leave the axis as it is.

    Returns:
        Tensor with the new sizes, in the image's floating type and device.

    Example:
        >>> mean_of_rows = np.full((1, 2), 0.5)
        >>> apply_per_axis(torch.arange(6.0).reshape(2, 3), [mean_of_rows, None])
        tensor([[1.5000, 2.5000, 3.5000]])
    """
    image = image if image.is_floating_point() else image.float()
    dims = len(matrices)
    for i, matrix in enumerate(matrices):
        if matrix is None:
            continue
        weights = torch.as_tensor(matrix).to(device=image.device, dtype=image.dtype)
        if i == dims - 1:
            image = image @ weights.T
        else:  # the axes behind are one long row: no transposed copies
            axis = image.ndim - dims + i
            shape = (*image.shape[:axis], weights.shape[0], *image.shape[axis + 1 :])
            image = (weights @ image.flatten(axis + 1)).reshape(shape)
    return image


def profile_sigma(factor: float, sigma: float | None = None, thickness: float = 1.0) -> float:
    """Standard deviation of the slice profile in high-resolution voxels.

    Args:
        factor: low-resolution spacing in high-resolution voxels.
        sigma: taken as it is where given; the authors' released code used 1 for every factor.
        thickness: slice thickness as a share of the low-resolution spacing, below 1 for gaps between slices.

    Example:
        >>> round(profile_sigma(2), 4), round(profile_sigma(2, thickness=0.5), 4), profile_sigma(2, sigma=1)
        (0.8493, 0.4247, 1)
    """
    return factor * thickness / FWHM if sigma is None else sigma


def profile_matrices(
    sizes: Sequence[int], factors: Sequence[float], sigma: float | None = None, thickness: float = 1.0
) -> list[np.ndarray | None]:
    """Slice profile and sampling of every axis, for ``apply_per_axis``; None for an axis that is sampled as it is.

    Args:
        sizes: high-resolution voxels per axis.
        factors: low-resolution spacing in high-resolution voxels, per axis.
        sigma: of the slice profile, see ``profile_sigma``.
        thickness: of the slices, see ``profile_sigma``.
    """
    return [
        None if factor == 1 else profile_matrix(size, factor, profile_sigma(factor, sigma, thickness))
        for size, factor in zip(sizes, factors, strict=True)
    ]


def degrade(
    image: torch.Tensor, factors: Sequence[float], sigma: float | None = None, thickness: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Simulated low-resolution acquisition of a volume, and its spline interpolation to the volume's own grid.

    Args:
        image: ``(..., H, W, D)`` on the high-resolution grid.
        factors: low-resolution spacing in high-resolution voxels, per axis, positive; see ``profile_matrix`` below 1.
        sigma: of the slice profile, see ``profile_sigma``.
        thickness: of the slices, see ``profile_sigma``.

    Returns:
        low-resolution image ``(..., h, w, d)`` with ``h = ceil(H / factor)``, and the interpolated image
        ``(..., H, W, D)``.

    Example:
        >>> low, interpolated = degrade(torch.rand(1, 24, 20, 22), factors=[1, 1, 3])
        >>> low.shape, interpolated.shape
        (torch.Size([1, 24, 20, 8]), torch.Size([1, 24, 20, 22]))
    """
    sizes = image.shape[-len(factors) :]
    down = profile_matrices(sizes, factors, sigma, thickness)
    up = [
        None if low is None else spline_matrix(low.shape[0], size, 1 / factor)
        for low, size, factor in zip(down, sizes, factors, strict=True)
    ]
    low_resolution = apply_per_axis(image, down)
    return low_resolution, apply_per_axis(low_resolution, up)
