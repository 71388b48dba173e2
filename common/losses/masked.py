# SPDX-License-Identifier: Apache-2.0
"""L1 loss that gives a lesion as much say as all the rest of the image."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["MaskedL1Loss"]


class MaskedL1Loss(nn.Module):
    """``w`` times the mean error in the tumour plus ``1 - w`` times that outside (Baltruschat et al. 2024, eq. 2 to 4).

    "Outside" is all of the image that is not tumour, background included, as the paper has it. An image without tumour
    has the second term only. Both are means over their own region, taken for each image by itself.

    ``needs_masks`` tells ``common.losses.WeightedLoss`` to hand over the target with its mask.

    Args:
        weight: w, between 0 and 1.

    Raises:
        ValueError: w outside [0, 1].

    Example:
        >>> truth, tumour = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
        >>> tumour[..., 3, 3] = 1
        >>> image = torch.where(tumour > 0, 0.6, 0.2)
        >>> round(MaskedL1Loss(weight=0.5)(image, torch.cat([truth, tumour], dim=1)).item(), 3)
        0.4
    """

    needs_masks = True

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], got {weight}")
        self.weight = float(weight)

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of 0 or more, the mean over the batch.

        Args:
            image: ``(B, 1, H, W[, D])``.
            target: ``(B, 2 or more, H, W[, D])``: the truth, then the tumour as 0 and 1; further channels are ignored.

        Raises:
            ValueError: a target without mask.
        """
        if image.shape[1] != 1 or target.shape[1] < 2:
            raise ValueError(f"need one channel and a target with its mask, got {image.shape[1]} and {target.shape[1]}")
        error, tumour = (image - target[:, :1]).abs().flatten(1), (target[:, 1:2] > 0.5).to(image.dtype).flatten(1)
        inside, outside = ((error * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1.0) for mask in (tumour, 1 - tumour))
        return (self.weight * inside + (1 - self.weight) * outside).mean()
