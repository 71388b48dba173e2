# SPDX-License-Identifier: Apache-2.0
"""Super-resolution of a single volume by its self-similarity (NMU).

Manjon, Coupe, Buades, Fonov, Collins, Robles, "Non-local MRI upsampling", Medical Image Analysis 14(6), 2010. No
maintained Python package has it; this follows the published scheme.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.utils import optional_import

from common.transforms.degradation import apply_per_axis, profile_matrices

from .interpolation import enlarge

restoration, has_skimage = optional_import("skimage.restoration")

__all__ = ["has_skimage", "upsample_non_local"]


def upsample_non_local(
    low: torch.Tensor,
    size: Sequence[int],
    factors: Sequence[float],
    sigma: float | None = None,
    thickness: float = 1.0,
    rounds: int = 6,
) -> torch.Tensor:
    """Volume that explains the acquisition, and whose patches are like each other.

    Non-local means and a correction of what the acquired voxels show take turns, from spline interpolation on; the
    strength is half of the foreground's standard deviation at first, and half of the last in each further round.

    Departs from the paper: voxels are corrected by the acquisition's slice profile, known here, and not by the mean of
    a block, and the corrections are interpolated; non-local means are scikit-image's, without the paper's selection of
    patches by mean and variance; rounds are counted, where the paper stops at a small change.

    Args:
        low: ``(h, w, d)``, background 0 and the foreground's 99.9 percentile 1.
        size: voxels of the result.
        factors: low-resolution spacing in high-resolution voxels, per axis.
        sigma: of the slice profile, see ``common.transforms.degradation.profile_sigma``.
        thickness: of the slices, likewise.
        rounds: how many strengths.

    Returns:
        ``(H, W, D)``.
    """
    down = profile_matrices(size, factors, sigma, thickness)
    image = enlarge(low, size, factors, "spline")
    spread = float(low[low > 0].std()) if (low > 0).any() else 1.0
    for turn in range(1, rounds + 1):
        smooth = restoration.denoise_nl_means(
            image.double().cpu().numpy(), patch_size=3, patch_distance=3, h=spread / 2**turn, fast_mode=True
        )
        image = torch.from_numpy(smooth).to(low)
        image = image + enlarge(low - apply_per_axis(image, down), size, factors, "spline")
    return image
