# SPDX-License-Identifier: Apache-2.0
"""A loss that holds the brightness of patches."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["BrightnessLoss"]


class BrightnessLoss(nn.Module):
    """Mean absolute difference of the patches' mean grey levels, so that a result is as bright as its input.

    An addition to the paper, whose losses hardly hold a small shift of brightness: MS-SSIM's luminance term is flat
    near its optimum, and L1 is one of three voices.
    """

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar for results and inputs ``(B, 1, H, W)`` in [0, 1]."""
        return (image.mean(dim=(1, 2, 3)) - target.mean(dim=(1, 2, 3))).abs().mean()
