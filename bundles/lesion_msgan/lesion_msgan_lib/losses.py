# SPDX-License-Identifier: Apache-2.0
"""Losses on one of a generator's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .slices import downsample

__all__ = ["OutputLoss"]


class OutputLoss(nn.Module):
    """A loss between one of the generator's outputs and the target, down-sampled to that output's grid (eq. 6).

    Args:
        loss: of two images ``(B, 1, H, W)``.
        output: which of a list of outputs; a generator with a single output has that only.
    """

    def __init__(self, loss: nn.Module, output: int = -1) -> None:
        super().__init__()
        self.loss = loss
        self.output = output

    def forward(self, made: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """The loss for a target ``(B, 1, H, W)`` on the finest grid."""
        image = made if isinstance(made, torch.Tensor) else made[self.output]
        factor = target.shape[-1] // image.shape[-1]
        return self.loss(image, target if factor == 1 else downsample(target, factor))
