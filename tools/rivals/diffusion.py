# SPDX-License-Identifier: Apache-2.0
"""Despeckling by local statistics: the filters of Lee and Frost, and the diffusions SRAD and DPAD that build on such.

All take grey levels ``(H, W)`` in [0, 1] as displayed. Those that were made for intensities (SRAD, DPAD, Frost) work on
the exponential of the grey levels over 60 dB, and the result is brought back.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["dpad", "dpad_coefficient", "frost", "lee", "local_variation", "srad"]

DECIBELS = np.log(1000.0)  # 60 dB of amplitude as a natural logarithm
TINY, FLAT = 1e-12, 1e-7


def lee(image: np.ndarray, edge: int = 7) -> np.ndarray:
    """Lee's filter (1981): local mean plus a share of the rest that grows with the local variance.

    The noise variance is the median of the local variances, black margins aside: speckle after log compression is
    nearly additive.

    Args:
        image: ``(H, W)``.
        edge: of the window in pixels.
    """
    mean = ndimage.uniform_filter(image, edge)
    variance = np.maximum(ndimage.uniform_filter(image * image, edge) - mean**2, 0)
    noise = _typical(variance)
    return mean + np.maximum(variance - noise, 0) / np.maximum(variance, TINY) * (image - mean)


def local_variation(image: np.ndarray, edge: int) -> np.ndarray:
    """Squared coefficient of variation, variance by squared mean, in a window around every pixel.

    The variance is the unbiased one, ``1 / (n - 1)``.
    """
    count = edge**2
    mean = ndimage.uniform_filter(image, edge)
    variance = np.maximum(ndimage.uniform_filter(image * image, edge) - mean**2, 0) * count / (count - 1)
    return variance / np.maximum(mean**2, TINY)


def frost(image: np.ndarray, edge: int = 7, damping: float = 2.0) -> np.ndarray:
    """Frost's filter (1982): a mean weighted by ``exp(-damping * C^2 * distance)``, C the local variation.

    Args:
        image: ``(H, W)`` grey levels.
        edge: of the window in pixels.
        damping: how fast weights fall with the distance in pixels.
    """
    u = np.exp(DECIBELS * image.astype(np.float64))
    variation = local_variation(u, edge)
    radius = edge // 2
    padded = np.pad(u, radius, mode="symmetric")
    total, weights = np.zeros_like(u), np.zeros_like(u)
    for i in range(edge):
        for j in range(edge):
            weight = np.exp(-damping * variation * np.hypot(i - radius, j - radius))
            total += weight * padded[i : i + u.shape[0], j : j + u.shape[1]]
            weights += weight
    return np.log(total / weights) / DECIBELS


def srad(image: np.ndarray, iterations: int = 60, step: float = 0.15, decay: float = 1 / 6) -> np.ndarray:
    """Speckle reducing anisotropic diffusion (Yu and Acton 2002), with their constants.

    The speckle scale starts from the most homogeneous ninth of the picture's 32-pixel patches, black margins aside.

    Args:
        image: ``(H, W)`` grey levels.
        iterations: of explicit diffusion.
        step: of time.
        decay: of the speckle scale over time.
    """
    u = np.exp(DECIBELS * image.astype(np.float64))
    patch = min(32, *u.shape)
    mean, square = ndimage.uniform_filter(u, patch), ndimage.uniform_filter(u * u, patch)
    scales = np.sqrt(np.maximum(square - mean**2, 0)) / mean
    tissue = ndimage.uniform_filter((image > 0).astype(np.float64), patch) > 0.5
    start = float(np.quantile(scales[tissue], 1 / 9)) if tissue.any() else 0.0
    for i in range(iterations):
        q0 = max((start * np.exp(-decay * i * step)) ** 2, TINY)  # a constant picture has no speckle
        slopes = _slopes(u)
        gradient = sum(slope**2 for slope in slopes) / u**2
        laplacian = sum(slopes) / u
        q = (0.5 * gradient - laplacian**2 / 16) / (1 + 0.25 * laplacian) ** 2
        u = _diffused(u, np.clip(1 / (1 + (q - q0) / (q0 * (1 + q0))), 0, 1), step, slopes)
    return np.log(u) / DECIBELS


def dpad_coefficient(variation: np.ndarray, noise: float) -> np.ndarray:
    """Diffusion of DPAD: ``(1 + 1 / C^2) / (1 + 1 / Cu^2)``, one minus the gain of Kuan's filter, in [0, 1].

    It is 1 where the local variation is that of speckle alone or less, and ``1 / (1 + 1 / Cu^2)`` across strong edges.

    Args:
        variation: squared coefficient of variation C^2.
        noise: that of speckle alone, Cu^2.
    """
    return np.clip((1 + 1 / np.maximum(variation, TINY)) / (1 + 1 / max(noise, TINY)), 0, 1)


def dpad(image: np.ndarray, iterations: int = 100, step: float = 0.2, edge: int = 5) -> np.ndarray:
    """Detail preserving anisotropic diffusion.

    Aja-Fernandez, Alberola-Lopez, "On the estimation of the coefficient of variation for anisotropic diffusion speckle
    filtering", IEEE Transactions on Image Processing 15(9), 2006: SRAD's equation with the diffusion that follows from
    Kuan's filter instead of Lee's, the local variation from a window of 5 x 5 pixels instead of four neighbours, and
    the speckle's from the picture itself at every step, as the median of the local ones, black margins aside.

    Args:
        image: ``(H, W)`` grey levels.
        iterations: of explicit diffusion.
        step: of time.
        edge: of the window in pixels.
    """
    u = np.exp(DECIBELS * image.astype(np.float64))
    for _ in range(iterations):
        variation = local_variation(u, edge)
        u = _diffused(u, dpad_coefficient(variation, _typical(variation)), step, _slopes(u))
    return np.log(u) / DECIBELS


def _slopes(u: np.ndarray) -> list[np.ndarray]:
    """Differences to the neighbours above, below, left and right; 0 across the border."""
    padded = np.pad(u, 1, mode="edge")
    return [padded[:-2, 1:-1] - u, padded[2:, 1:-1] - u, padded[1:-1, :-2] - u, padded[1:-1, 2:] - u]


def _diffused(u: np.ndarray, c: np.ndarray, step: float, slopes: list[np.ndarray]) -> np.ndarray:
    """One explicit step of ``du/dt = div(c grad u)`` (Yu and Acton 2002)."""
    above, below, left, right = slopes
    lower = np.pad(c, ((0, 1), (0, 0)), mode="edge")[1:]
    further = np.pad(c, ((0, 0), (0, 1)), mode="edge")[:, 1:]
    return u + step / 4 * (lower * below + c * above + further * right + c * left)


def _typical(values: np.ndarray) -> float:
    """Median of what is not flat; 0 of a flat picture."""
    values = values[values > FLAT]
    return float(np.median(values)) if values.size else 0.0
