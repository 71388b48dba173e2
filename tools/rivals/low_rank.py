# SPDX-License-Identifier: Apache-2.0
"""Super-resolution of a single volume by total variation, with and without low rank (LRTV).

Shi, Cheng, Wang, Yap, Shen, "LRTV: MR image super-resolution with low-rank and total variation regularizations",
IEEE Transactions on Medical Imaging 34(12), 2015. No maintained Python package has it; this follows the published
formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.transforms.degradation import apply_per_axis, profile_matrices

from .interpolation import enlarge

__all__ = ["lrtv", "shrink_singular_values", "total_variation"]

SMOOTH = 0.01  # of intensities: slopes far below count by their square


def _slopes(image: torch.Tensor) -> list[torch.Tensor]:
    """Forward differences along each axis, 0 at the far border."""
    return [torch.diff(image, dim=axis, append=image.narrow(axis, -1, 1)) for axis in range(image.ndim)]


def total_variation(image: torch.Tensor, smooth: float = SMOOTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Isotropic total variation ``sum sqrt(|slope|^2 + smooth^2)`` and its gradient.

    Args:
        image: ``(H, W, D)``.
        smooth: makes it differentiable where the image is flat.

    Returns:
        A scalar, and ``(H, W, D)``.
    """
    slopes = _slopes(image)
    length = torch.stack(slopes).square().sum(dim=0).add_(smooth**2).sqrt_()
    gradient = torch.zeros_like(image)
    for axis, slope in enumerate(slopes):
        flow = slope / length
        gradient -= flow
        gradient.narrow(axis, 1, image.shape[axis] - 1).add_(flow.narrow(axis, 0, image.shape[axis] - 1))
    return length.sum(), gradient


def shrink_singular_values(image: torch.Tensor, axis: int, threshold: float) -> torch.Tensor:
    """Singular value thresholding of the volume unfolded along an axis: the nuclear norm's proximal step.

    Args:
        image: ``(H, W, D)``.
        axis: whose lines become the matrix's columns.
        threshold: taken off every singular value, at least to 0.
    """
    unfolded = image.movedim(axis, 0).flatten(1)
    # the few rows' Gram matrix has the same left vectors, at a fraction of the cost
    values, vectors = torch.linalg.eigh((unfolded @ unfolded.T).double())
    values = values.clamp_min(0).sqrt()
    share = (values - threshold).clamp_min(0) / values.clamp_min(1e-12)
    small = ((vectors * share) @ vectors.T).to(unfolded.dtype) @ unfolded
    return small.reshape(image.movedim(axis, 0).shape).movedim(0, axis)


def lrtv(
    low: torch.Tensor,
    size: Sequence[int],
    factors: Sequence[float],
    sigma: float | None = None,
    thickness: float = 1.0,
    tv: float = 3e-4,
    rank: float = 1e-3,
    rho: float = 0.1,
    rounds: int = 10,
    steps: int = 10,
) -> torch.Tensor:
    """Volume ``X`` that explains the acquisition ``T`` and is both piecewise smooth and of low rank.

    Minimises ``|DSX - T|^2 + rank * sum_i |X_(i)|_* / 3 + tv * TV(X)`` by alternating directions: ``X`` by gradient
    steps, each unfolding's copy ``M_i`` by singular value thresholding, then the multipliers ``Y_i``. With ``rank=0``
    it is super-resolution by total variation alone.

    Departs from the paper: the blur ``S`` is the acquisition's slice profile, known here, with the down-sampling ``D``
    in physical positions; the gradient steps are Nesterov's, on a total variation smoothed at ``SMOOTH`` of the
    intensities; rounds are counted, where the paper stops at a small change. Its weights of 0.01 belong to intensities
    of another scale; these were chosen on two training scans.

    Args:
        low: ``(h, w, d)``, background 0 and the foreground's 99.9 percentile 1.
        size: voxels of the result.
        factors: low-resolution spacing in high-resolution voxels, per axis.
        sigma: of the slice profile, see ``common.transforms.degradation.profile_sigma``.
        thickness: of the slices, likewise.
        tv: weight of the total variation.
        rank: weight of the nuclear norms.
        rho: weight of the augmented Lagrangian, the paper's 0.1.
        rounds: of the alternation.
        steps: gradient steps in each.

    Returns:
        ``(H, W, D)``.
    """
    down = [None if m is None else torch.as_tensor(m) for m in profile_matrices(size, factors, sigma, thickness)]
    up = [None if matrix is None else matrix.T for matrix in down]
    image = enlarge(low, size, factors, "spline")
    axes = range(image.ndim) if rank > 0 else ()
    copies, multipliers = [image.clone() for _ in axes], [torch.zeros_like(image) for _ in axes]
    norm = 1.0
    for matrix in down:
        norm *= 1.0 if matrix is None else float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    rate = 1 / (2 * norm + rho * len(copies) + 4 * image.ndim * tv / SMOOTH)
    for _ in range(rounds):
        before, momentum = image, 1.0
        ahead = image
        for _ in range(steps):
            slope = 2 * apply_per_axis(apply_per_axis(ahead, down) - low, up) + tv * total_variation(ahead)[1]
            for copy, multiplier in zip(copies, multipliers, strict=True):
                slope += rho * (ahead - copy + multiplier)
            image = ahead - rate * slope
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead, before, momentum = image + (momentum - 1) / faster * (image - before), image, faster
        for axis in axes:
            copies[axis] = shrink_singular_values(image + multipliers[axis], axis, rank / (image.ndim * rho))
            multipliers[axis] += image - copies[axis]
    return image
