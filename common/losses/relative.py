# SPDX-License-Identifier: Apache-2.0
"""Error of a restored image relative to that of the degraded one."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["RelativeError"]


class RelativeError(nn.Module):
    """Mean over the samples of ``log((MSE + eps) / (MSE of the input + eps))``: the gain in dB, up to a factor.

    Mild degradations count as much as strong ones, which a plain mean squared error lets rule the training. -0.23 is a
    gain of 1 dB. Where the degraded image equals the truth there is nothing to gain, and ``eps`` keeps the term finite.

    The target carries the degraded image as its last channels, see ``common.samplers.RandomPatches``.

    Departs from the papers: they use the mean squared or absolute error; an addition of this collection.

    Args:
        eps: mean squared error below which a gain does not count, in squared intensities.

    Raises:
        ValueError: the target does not have twice the prediction's channels.

    Example:
        >>> truth, degraded = torch.zeros(1, 1, 4, 4, 4), torch.full((1, 1, 4, 4, 4), 0.1)
        >>> round(float(RelativeError()(0.5 * degraded, torch.cat([truth, degraded], dim=1))), 3)  # 6 dB
        -1.386
    """

    needs_masks = True  # for ``WeightedLoss``: give it all channels of the target

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of a prediction ``(B, C, H, W[, D])`` with a target ``(B, 2 C, H, W[, D])``, truth before input."""
        channels = prediction.shape[1]
        if target.shape[1] != 2 * channels:
            raise ValueError(f"expected {2 * channels} channels of truth and input, got {target.shape[1]}")
        truth, degraded = target[:, :channels].float(), target[:, channels:].float()
        error = (prediction.float() - truth).square().flatten(1).mean(1)
        before = (degraded - truth).square().flatten(1).mean(1)
        return ((error + self.eps) / (before + self.eps)).log().mean()
