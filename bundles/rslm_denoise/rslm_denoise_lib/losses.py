# SPDX-License-Identifier: Apache-2.0
"""The loss of the cheap training from which the shipped weights were grown."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["PSNRLoss"]


class PSNRLoss(nn.Module):
    """Negative peak signal-to-noise ratio in dB, the mean over the samples of a batch.

    Each sample's error is taken by its logarithm, so weakly and strongly noisy patches count alike. Under L1 or MSE the
    strongly noisy ones outweigh the others, and the network smooths where there is little to remove. Not in the paper.

    Args:
        floor: added to the mean squared error, so that a patch of pure background does not count without bound.

    Raises:
        ValueError: ``floor`` is not positive.
    """

    def __init__(self, floor: float = 1e-5) -> None:
        super().__init__()
        if floor <= 0:
            raise ValueError(f"floor must be positive, got {floor}")
        self.floor = floor

    def forward(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """A scalar, of images ``(B, C, H, W[, D])`` whose range is 1."""
        error = (image - truth).square().flatten(1).mean(dim=1)
        return 10 * torch.log10(error + self.floor).mean()
