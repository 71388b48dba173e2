# SPDX-License-Identifier: Apache-2.0
"""Losses that MONAI does not have, and weighted sums of named ones."""

from .adversarial import CriterionGAN, WassersteinGAN, gradient_penalty, last_logits
from .perceptual import PerceptualLoss
from .structural import MultiScaleSSIMLoss, ScaleSpaceSSIMLoss
from .weighted import WeightedLoss

__all__ = [
    "CriterionGAN",
    "MultiScaleSSIMLoss",
    "PerceptualLoss",
    "ScaleSpaceSSIMLoss",
    "WassersteinGAN",
    "WeightedLoss",
    "gradient_penalty",
    "last_logits",
]
