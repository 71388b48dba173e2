# SPDX-License-Identifier: Apache-2.0
"""The methods that the network is compared with: Gaussian smoothing, non-local means and block matching."""

from __future__ import annotations

import torch
from monai.utils import optional_import
from scipy.ndimage import gaussian_filter

from common.errors import InputError

__all__ = ["best_gaussian", "block_matching", "non_local_means"]

restoration, has_skimage = optional_import("skimage.restoration")
bm4d, has_bm4d = optional_import("bm4d")

SIGMAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)  # voxels


def best_gaussian(noisy: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Gaussian smoothing with the sigma that comes nearest to the truth in the mask: more than a user could reach.

    Args:
        noisy: ``(1, H, W, D)``.
        truth: the same shape.
        mask: the same shape, above 0 where it counts.
    """
    inside = mask > 0
    results = [torch.from_numpy(gaussian_filter(noisy[0].cpu().numpy(), sigma))[None] for sigma in SIGMAS]
    errors = [float(((result.to(truth) - truth)[inside] ** 2).mean()) for result in results]
    return results[errors.index(min(errors))].to(noisy)


def non_local_means(noisy: torch.Tensor, level: float, channels: int = 1) -> torch.Tensor:
    """3D non-local means of scikit-image, told the true noise level; the bias of the noise is removed.

    The mean of a magnitude with signal A lies near ``sqrt(A^2 + (2 L - 1) sigma^2)`` where A exceeds the noise.

    Args:
        noisy: ``(1, H, W, D)``.
        level: noise level in percent, see ``rslm_denoise_lib.noise.Noise``.
        channels: L, whose noise adds up in the image.

    Raises:
        InputError: scikit-image is not installed.
    """
    if not has_skimage:
        raise InputError("non-local means needs scikit-image (pip install scikit-image), or no nlm in --compared")
    sigma = level / 100
    smooth = restoration.denoise_nl_means(
        noisy[0].double().cpu().numpy(), patch_size=5, patch_distance=4, h=0.6 * sigma, sigma=sigma, fast_mode=True
    )
    return torch.from_numpy((smooth**2 - (2 * channels - 1) * sigma**2).clip(0) ** 0.5)[None].to(noisy)


def block_matching(noisy: torch.Tensor, level: float) -> torch.Tensor:
    """BM4D (Maggioni et al. 2013), told the true noise level; it takes the noise for Gaussian.

    The package's licence is for non-commercial use.

    Args:
        noisy: ``(1, H, W, D)``.
        level: noise level in percent, see ``rslm_denoise_lib.noise.Noise``.

    Raises:
        InputError: the package bm4d is not installed.
    """
    if not has_bm4d:
        raise InputError("BM4D needs the package bm4d (pip install bm4d), or no bm4d in --compared")
    return torch.as_tensor(bm4d.bm4d(noisy[0].cpu().numpy(), level / 100))[None].to(noisy)
