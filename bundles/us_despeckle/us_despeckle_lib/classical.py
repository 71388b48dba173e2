# SPDX-License-Identifier: Apache-2.0
"""Classical despeckling filters to compare with, from scipy, scikit-image and SimpleITK, and SRAD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from monai.utils import optional_import
from scipy import ndimage

__all__ = ["FILTERS", "lee", "srad"]

restoration, _ = optional_import("skimage.restoration")
sitk, _ = optional_import("SimpleITK")


def lee(image: np.ndarray, edge: int = 7) -> np.ndarray:
    """Lee's filter (1981): local mean plus a share of the rest that grows with the local variance.

    The noise variance is the median of the local variances: speckle after log compression is nearly additive.

    Args:
        image: ``(H, W)``.
        edge: of the window in pixels.
    """
    mean = ndimage.uniform_filter(image, edge)
    variance = np.maximum(ndimage.uniform_filter(image * image, edge) - mean**2, 0)
    noise = np.median(variance)
    return mean + np.maximum(variance - noise, 0) / np.maximum(variance, 1e-12) * (image - mean)


def srad(image: np.ndarray, iterations: int = 60, step: float = 0.15, decay: float = 1 / 6) -> np.ndarray:
    """Speckle reducing anisotropic diffusion (Yu and Acton 2002), with their constants.

    Works on intensities: grey levels of a log-compressed picture are taken as their exponential over 60 dB and brought
    back. The speckle scale starts from the most homogeneous ninth of the picture's 32-pixel patches.

    Args:
        image: ``(H, W)`` in [0, 1].
        iterations: of explicit diffusion.
        step: of time.
        decay: of the speckle scale over time.
    """
    scale = np.log(1000.0)  # 60 dB
    u = np.exp(scale * image.astype(np.float64))
    patch = min(32, *u.shape)
    mean, square = ndimage.uniform_filter(u, patch), ndimage.uniform_filter(u * u, patch)
    scales = np.sqrt(np.maximum(square - mean**2, 0)) / mean
    start = float(np.quantile(scales, 1 / 9))
    for i in range(iterations):
        q0 = max((start * np.exp(-decay * i * step)) ** 2, 1e-12)  # a constant picture has no speckle
        padded = np.pad(u, 1, mode="edge")
        north, south, west, east = (
            padded[:-2, 1:-1] - u,
            padded[2:, 1:-1] - u,
            padded[1:-1, :-2] - u,
            padded[1:-1, 2:] - u,
        )
        gradient = (north**2 + south**2 + west**2 + east**2) / u**2
        laplacian = (north + south + west + east) / u
        q = (0.5 * gradient - laplacian**2 / 16) / (1 + 0.25 * laplacian) ** 2
        c = np.clip(1 / (1 + (q - q0) / (q0 * (1 + q0))), 0, 1)
        below = np.pad(c, ((0, 1), (0, 0)), mode="edge")[1:]
        right = np.pad(c, ((0, 0), (0, 1)), mode="edge")[:, 1:]
        u = u + step / 4 * (below * south + c * north + right * east + c * west)
    return np.log(u) / scale


def _sitk(job: Callable) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: sitk.GetArrayFromImage(job(sitk.GetImageFromArray(image.astype(np.float32))))


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "median 5x5 (scipy)": lambda image: ndimage.median_filter(image, 5),
    "Lee 7x7": lee,
    "non-local means (scikit-image)": lambda image: restoration.denoise_nl_means(
        image, patch_size=5, patch_distance=7, h=0.12, fast_mode=True
    ),
    "total variation (scikit-image)": lambda image: restoration.denoise_tv_chambolle(image, weight=0.15),
    "bilateral (SimpleITK)": _sitk(lambda image: sitk.Bilateral(image, domainSigma=3.0, rangeSigma=0.15)),
    "curvature diffusion (SimpleITK)": _sitk(
        lambda image: sitk.CurvatureAnisotropicDiffusion(
            image, timeStep=0.0625, conductanceParameter=2.0, numberOfIterations=15
        )
    ),
    "SRAD": srad,
}
