# SPDX-License-Identifier: Apache-2.0
"""Structural similarity over scales as a differentiable loss, for images and volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn

__all__ = ["MultiScaleSSIMLoss", "ScaleSpaceSSIMLoss", "gaussian_window", "similarity_terms"]

LEAST = 1e-6  # factors below are taken as this: a negative one would turn the product's sign, or its power into NaN


def gaussian_window(length: int, window: int, sigma: float, same: bool = False) -> torch.Tensor:
    """Gaussian smoothing of one axis as a matrix, so that a volume costs three matrix products on any device.

    Args:
        length: voxels of the axis; a window longer than the axis is shrunk to the largest odd size that fits.
        window: odd number of voxels of the window.
        sigma: standard deviation in voxels.
        same: keep the length, weights renormalised at the borders; otherwise only positions with the whole window.

    Returns:
        ``(length - window + 1, length)``, or ``(length, length)``; rows sum to 1, float64.
    """
    window = min(window, length if length % 2 else length - 1) or 1
    positions = torch.arange(length, dtype=torch.float64)
    radius = window // 2
    centres = positions if same else positions[radius : length - radius]
    distance = positions - centres[:, None]
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= radius)
    return weights / weights.sum(dim=1, keepdim=True)


def _smooth(image: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Applies one matrix per trailing spatial axis of ``(B, C, H, W[, D])``."""
    for axis, matrix in enumerate(matrices, start=2):
        image = torch.tensordot(image, matrix.to(image), dims=([axis], [1])).movedim(-1, axis)
    return image


def similarity_terms(
    image: torch.Tensor, truth: torch.Tensor, matrices: Sequence[torch.Tensor], c1: float, c2: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Luminance and contrast-structure maps of SSIM (Nazleem and Sujatha, eq. 4; Wang et al. 2004).

    Args:
        image: ``(B, C, H, W[, D])``.
        truth: the same shape.
        matrices: windows, see ``gaussian_window``.
        c1: constant that stabilises the luminance.
        c2: constant that stabilises the contrast.

    Returns:
        ``l`` and ``cs`` of the smoothed size.
    """
    maps = torch.cat([image, truth, image * image, truth * truth, image * truth], dim=1)
    mean_x, mean_y, square_x, square_y, product = _smooth(maps, matrices).chunk(5, dim=1)
    var_x, var_y = square_x - mean_x**2, square_y - mean_y**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * (product - mean_x * mean_y) + c2) / (var_x + var_y + c2)
    return luminance, contrast


def _check(image: torch.Tensor, truth: torch.Tensor) -> None:
    if image.shape != truth.shape:
        raise ValueError(f"image and truth differ in shape: {tuple(image.shape)} and {tuple(truth.shape)}")
    if image.ndim not in (4, 5):
        raise ValueError(f"expected (B, C, H, W[, D]), got {tuple(image.shape)}")


class MultiScaleSSIMLoss(nn.Module):
    """``1 - MS-SSIM`` over an image pyramid, each scale half as fine as the one before.

    Without ``weights`` the plain product of SSIM over ``scales`` (Nazleem and Sujatha, sec. 3d). With ``weights`` the
    form of Wang et al. 2003: contrast-structure to the power of its weight at all scales but the coarsest, SSIM there.

    Departs from the paper: each factor is the mean over the image and at least 1e-6, so that the product neither
    changes its sign nor becomes NaN; the paper says nothing on negative ones. The window is the usual Gaussian of 11
    voxels and sigma 1.5, shrunk per axis where a scale is smaller than it.

    Args:
        scales: number M of scales; ignored where ``weights`` are given.
        weights: exponents, one per scale, finest first, or None.
        window, sigma: the Gaussian window in voxels.
        data_range: range of the intensities.
        k1, k2: the constants are ``(k1 * data_range)^2`` and ``(k2 * data_range)^2``.

    Raises:
        ValueError: no scale, an even window, or a ``data_range`` that is not positive.

    Example:
        >>> image = torch.linspace(0, 1, 48).expand(1, 1, 48, 48)
        >>> loss = MultiScaleSSIMLoss(scales=3)
        >>> round(loss(image, image).item(), 3), round(loss(image, 1 - image).item(), 3)
        (0.0, 1.0)
    """

    def __init__(
        self,
        scales: int = 3,
        weights: Sequence[float] | None = None,
        window: int = 11,
        sigma: float = 1.5,
        data_range: float = 1.0,
        k1: float = 0.01,
        k2: float = 0.03,
    ) -> None:
        super().__init__()
        self.weights = None if weights is None else tuple(weights)
        self.scales = scales if weights is None else len(weights)
        if self.scales < 1 or window % 2 == 0 or data_range <= 0:
            raise ValueError(f"need scales >= 1, an odd window, data_range > 0; got {scales}, {window}, {data_range}")
        self.window, self.sigma = window, sigma
        self.c1, self.c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2

    def forward(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Loss in [0, 1], the mean over the batch, of ``(B, C, H, W[, D])`` and a truth of the same shape.

        Raises:
            ValueError: shapes differ, or are not those of images or volumes.
        """
        _check(image, truth)
        image, truth = image.float(), truth.float()
        product = image.new_ones(len(image))
        for scale in range(self.scales):
            if scale:
                halves = [2 if n > 1 else 1 for n in image.shape[2:]]
                pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
                image, truth = pool(image, halves), pool(truth, halves)
            matrices = [gaussian_window(n, self.window, self.sigma) for n in image.shape[2:]]
            luminance, contrast = similarity_terms(image, truth, matrices, self.c1, self.c2)
            last = scale == self.scales - 1
            factor = contrast if self.weights is not None and not last else luminance * contrast
            factor = factor.flatten(1).mean(dim=1).clamp_min(LEAST)
            product = product * (factor if self.weights is None else factor ** self.weights[scale])
        return (1 - product).mean()


class ScaleSpaceSSIMLoss(nn.Module):
    """``1 - l_M * prod_j cs_j`` with one window per scale on the full grid, nothing down-sampled.

    Zhao et al. 2017 as Mishra et al. 2018 use it (eq. 4 to 9): contrast terms of every window, luminance of the widest,
    multiplied voxel by voxel, then averaged.

    Departs from the paper: each factor is at least 1e-6; equations 8 and 9 leave out the scale of the mean, here it is
    the scale of the variance, which could be negative otherwise; windows end at three sigma and are renormalised at
    the borders.

    Args:
        sigmas: standard deviations of the windows in voxels, finest first.
        c1, c2: the constants themselves (the paper gives 0.01 for both).

    Raises:
        ValueError: no window, or one that is not positive.

    Example:
        >>> volume = torch.linspace(0, 1, 16).expand(1, 1, 16, 16, 16)
        >>> loss = ScaleSpaceSSIMLoss(sigmas=(0.5, 1, 2))
        >>> round(loss(volume, volume).item(), 3), bool(loss(0.9 * volume, volume) < loss(0.5 * volume, volume))
        (0.0, True)
    """

    def __init__(self, sigmas: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0), c1: float = 0.01, c2: float = 0.01) -> None:
        super().__init__()
        self.sigmas = tuple(float(sigma) for sigma in sigmas)
        if not self.sigmas or min(self.sigmas) <= 0:
            raise ValueError(f"sigmas must be positive numbers, got {sigmas}")
        self.c1, self.c2 = c1, c2

    def forward(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Loss in [0, 1], the mean over voxels and batch, of ``(B, C, H, W[, D])`` and a truth of the same shape.

        Raises:
            ValueError: shapes differ, or are not those of images or volumes.
        """
        _check(image, truth)
        image, truth = image.float(), truth.float()
        product = torch.ones_like(image)
        for sigma in self.sigmas:
            window = 2 * max(1, round(3 * sigma)) + 1
            matrices = [gaussian_window(n, window, sigma, same=True) for n in image.shape[2:]]
            luminance, contrast = similarity_terms(image, truth, matrices, self.c1, self.c2)
            product = product * contrast.clamp_min(LEAST)
        return 1 - (product * luminance.clamp_min(LEAST)).mean()
