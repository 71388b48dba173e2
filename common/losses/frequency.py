# SPDX-License-Identifier: Apache-2.0
"""Consistency of spectra: coarse and fine content each with a say of its own."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["FrequencyLoss"]

NORMS = ("backward", "ortho", "forward")


class FrequencyLoss(nn.Module):
    """L1 distance of Fourier magnitudes below and above a radius (Baltruschat et al. 2024, eq. 8; their fRegGAN, 2023).

    Departs from the paper: equation 8 divides both sums by all entries, which would give the low frequencies (2 % of a
    256 x 256 spectrum) next to no weight; here each is the mean over its own entries and they weigh ``low`` and
    ``high``, with the transform not normalised, as in the authors' code of fRegGAN (``my_model_utils.fft2d_loss``).
    That code multiplies the sum by a lambda of 0.1 (``freq_lamda`` of its paper's runs), here ``factor``, so that this
    loss stands in the paper's sums of losses with the weight 1 that they give it; without it, its gradient is about ten
    times that of the other terms together. Their images lie in [-1, 1]: for images in [0, 1] a ``factor`` of 0.2 gives
    the same loss. Phases are not compared, so the loss is meant beside others.

    Args:
        radius: of the low frequencies, in entries of the centred spectrum.
        low, high: weights of the two parts.
        factor: of the whole, the authors' lambda.
        norm: of ``torch.fft.fft2``: ``backward`` (none), ``ortho`` or ``forward``.

    Raises:
        ValueError: a radius that is not positive, or another norm.

    Example:
        >>> fine = torch.cos(torch.pi * torch.arange(64)).expand(1, 1, 64, 64)  # stripes of one pixel
        >>> low, high = (FrequencyLoss(low=w, high=1 - w)(fine, torch.zeros_like(fine)) for w in (1, 0))
        >>> bool(low < 1e-4), bool(high > 0.1)
        (True, True)
    """

    def __init__(
        self, radius: float = 21, low: float = 0.5, high: float = 0.5, norm: str = "backward", factor: float = 0.1
    ) -> None:
        super().__init__()
        if radius <= 0 or norm not in NORMS:
            raise ValueError(f"need a radius above 0 and a norm of {NORMS}, got {radius} and {norm!r}")
        self.radius, self.low, self.high, self.norm = float(radius), float(low), float(high), norm
        self.factor = float(factor)

    def forward(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Loss of 0 or more of ``(B, C, H, W)`` and a truth of the same shape; float32 whatever autocast is on.

        Gradients are finite everywhere: torch takes the slope of a magnitude as 0 where it vanishes.

        Raises:
            ValueError: shapes differ, or are not those of images.
        """
        if image.shape != truth.shape or image.ndim != 4:
            raise ValueError(f"need two (B, C, H, W) of one shape, got {tuple(image.shape)} and {tuple(truth.shape)}")
        with torch.autocast(image.device.type, enabled=False):
            first, second = (torch.fft.fft2(x.float(), norm=self.norm).abs() for x in (image, truth))
        difference = (first - second).abs()
        rows, columns = (torch.fft.fftfreq(n, 1 / n, device=image.device) for n in image.shape[2:])
        inside = rows[:, None] ** 2 + columns**2 <= self.radius**2
        loss = self.low * difference[..., inside].mean()
        if not inside.all():
            loss = loss + self.high * difference[..., ~inside].mean()
        return self.factor * loss
