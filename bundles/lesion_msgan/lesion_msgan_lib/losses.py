# SPDX-License-Identifier: Apache-2.0
"""Losses on one of a generator's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn

from common.engine.steps import last_output
from common.errors import InputError
from common.losses.perceptual import PerceptualLoss

from .slices import downsample

__all__ = ["OutputLoss", "VGGLoss"]

VGG_LAYERS = {"conv2_2": (7, 128, 2), "conv5_4": (34, 512, 16)}  # torchvision's number, filters, grid step


class OutputLoss(nn.Module):
    """Mean squared error between one of the generator's outputs and the target on that output's grid (eq. 4 and 6).

    Args:
        output: which of a list of outputs; a generator with a single output has -1 only.

    Raises:
        ValueError: another output than the last is asked of a generator with a single one.
    """

    def __init__(self, output: int = -1) -> None:
        super().__init__()
        self.output = output

    def forward(self, made: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """The loss for a target ``(B, 1, H, W)`` on the finest grid."""
        if isinstance(made, torch.Tensor) and self.output != -1:
            raise ValueError("this generator has no x2 output; give it an x2 head or set x2_weight to 0")
        image = made if isinstance(made, torch.Tensor) else made[self.output]
        factor = target.shape[-1] // image.shape[-1]
        return F.mse_loss(image, target if factor == 1 else downsample(target, factor))


class VGGLoss(nn.Module):
    """Mean squared difference of VGG-19 features (eq. 5) of the finest output; without weights ``off``, says the log.

    Each pair is scaled by its target's least and greatest value to [0, 1], the range that the weights were trained on.

    Its weight in eq. 7 is SRGAN's 0.006, which is 1 / 12.75 squared: SRGAN divides features by 12.75 so that their
    squared differences come close to the images' own. Features of torchvision's weights are not divided here as well.

    Departs from the paper: it does not name the layer; "VGG54" of SRGAN is the default, taken before its ReLU.

    Args:
        weights: local file with torchvision's state dict of VGG-19, or None.
        layer: ``conv5_4`` or ``conv2_2``.
        patch_size: edge of the images, at least 16.

    Raises:
        InputError: another layer, or a file that does not fit.
    """

    def __init__(self, weights: str | None = None, layer: str = "conv5_4", patch_size: int = 96) -> None:
        super().__init__()
        if layer not in VGG_LAYERS:
            raise InputError(f"vgg_layer must be one of {', '.join(VGG_LAYERS)}, got {layer!r}")
        number, filters, step = VGG_LAYERS[layer]
        elements = filters * (patch_size // step) ** 2
        self.features = PerceptualLoss(weights, "vgg19", [number], [elements**-0.5])  # the sum becomes the mean

    @property
    def off(self) -> bool:
        """Whether there are no weights."""
        return self.features.off

    def forward(self, made: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Loss of 0 or more for images ``(B, 1, patch_size, patch_size)`` in any units, of a list the last."""
        image = last_output(made)
        low, high = (f(target.flatten(1), dim=1).view(-1, 1, 1, 1) for f in (torch.amin, torch.amax))
        span = (high - low).clamp_min(1e-6)
        return self.features((image - low) / span, (target - low) / span)
