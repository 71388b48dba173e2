# SPDX-License-Identifier: Apache-2.0
"""Losses that MONAI does not have, and weighted sums of named ones."""

from .adversarial import CriterionGAN, WassersteinGAN, gradient_penalty, last_logits
from .frequency import FrequencyLoss
from .masked import MaskedL1Loss
from .perceptual import PerceptualLoss
from .relative import RelativeError
from .structural import MultiScaleSSIMLoss, ScaleSpaceSSIMLoss
from .weighted import WeightedLoss

__all__ = [
    "CriterionGAN",
    "FrequencyLoss",
    "MaskedL1Loss",
    "MultiScaleSSIMLoss",
    "PerceptualLoss",
    "RelativeError",
    "ScaleSpaceSSIMLoss",
    "WassersteinGAN",
    "WeightedLoss",
    "gradient_penalty",
    "last_logits",
]
