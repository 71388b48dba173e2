# SPDX-License-Identifier: Apache-2.0
"""A weighted sum of named losses, written out in a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

__all__ = ["WeightedLoss"]


class WeightedLoss(nn.Module):
    """Sum of losses, each with its weight and a name under which it is logged.

    In a config::

        {"_target_": "common.losses.WeightedLoss",
         "losses": {"ms_ssim": {"_target_": "common.losses.MultiScaleSSIMLoss"}, "l1": {"_target_": "torch.nn.L1Loss"}},
         "weights": {"ms_ssim": 0.89, "l1": 0.11}}

    Args:
        losses: callables of prediction and target by name; one with weight 0 is not computed, nor one that says with an
            attribute that it is ``off``, such as ``PerceptualLoss`` without a file.
        weights: a number of 0 or more for each of them.

    Raises:
        ValueError: names differ, or a weight is negative.

    Example:
        >>> loss = WeightedLoss({"l1": nn.L1Loss(), "l2": nn.MSELoss()}, {"l1": 1.0, "l2": 10.0})
        >>> image, truth = torch.full((1, 1, 4, 4), 0.1), torch.zeros(1, 1, 4, 4)
        >>> {name: round(term.item(), 3) for name, term in loss.terms(image, truth).items()}
        {'l1': 0.1, 'l2': 0.01}
        >>> round(loss(image, truth).item(), 3)
        0.2
    """

    def __init__(
        self,
        losses: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        if losses.keys() != weights.keys():
            raise ValueError(f"losses {sorted(losses)} and weights {sorted(weights)} differ in their names")
        if min(weights.values(), default=0) < 0:
            raise ValueError(f"weights must not be negative, got {dict(weights)}")
        self.losses = dict(losses)
        self.weights = {name: 0.0 if getattr(losses[name], "off", False) else w for name, w in weights.items()}
        # losses with buffers or networks of their own follow .to(device)
        self.modules_ = nn.ModuleDict({name: loss for name, loss in losses.items() if isinstance(loss, nn.Module)})

    @property
    def needs_masks(self) -> bool:
        """Whether a loss with a weight does."""
        return any(self.weights[name] and getattr(loss, "needs_masks", False) for name, loss in self.losses.items())

    def terms(self, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each loss by name, before its weight.

        Channels of the target beyond the prediction's are masks: only losses that say ``needs_masks`` are shown them.
        """
        last = prediction[-1] if isinstance(prediction, list | tuple) else prediction
        plain = target if target.shape == last.shape else target[:, : last.shape[1]]
        return {
            name: loss(prediction, target if getattr(loss, "needs_masks", False) else plain)
            for name, loss in self.losses.items()
            if self.weights[name]
        }

    def total(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor | float:
        """The weighted sum of ``terms``; 0 where every weight is 0."""
        return sum(self.weights[name] * term for name, term in terms.items())

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The weighted sum for a prediction ``(B, C, H, W[, D])`` and a target of the same shape, or with masks."""
        total = self.total(self.terms(prediction, target))
        return total if isinstance(total, torch.Tensor) else prediction.new_zeros(())
