# SPDX-License-Identifier: Apache-2.0
"""Ways in which the low resolution of a slice may have come about, chosen by name or at random."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.transforms import RandomizableTransform

from common.errors import InputError
from common.utils.values import names

from .slices import downsample

__all__ = ["WAYS", "RandDownsample", "average_blocks", "crop_kspace", "ways_of"]

FACTOR = 4


def average_blocks(image: torch.Tensor, factor: int = FACTOR) -> torch.Tensor:
    """Means over blocks of ``factor`` by ``factor`` pixels of ``(..., H, W)``, both multiples of the factor."""
    return F.avg_pool2d(image.reshape(-1, 1, *image.shape[-2:]).float(), factor).reshape(
        *image.shape[:-2], *(n // factor for n in image.shape[-2:])
    )


def crop_kspace(image: torch.Tensor, factor: int = FACTOR) -> torch.Tensor:
    """The middle of k-space alone, as a scanner that takes fewer lines in both directions measures it.

    Linear, with the ringing at sharp edges that this brings; a scanner's magnitude image differs from it only where
    ringing falls below zero. Low-resolution pixel i is centred at ``(i + 0.5) factor - 0.5``, as in ``downsample``.

    Args:
        image: ``(..., H, W)``, both multiples of the factor; any real intensities.
        factor: high-resolution pixels per low-resolution pixel and axis.
    """
    spectrum = torch.fft.fft2(image.float())
    for axis in (-2, -1):
        length = image.shape[axis]
        count = length // factor
        lines = torch.fft.fftfreq(count, 1 / count, device=image.device)  # 0, 1, ... and the negative ones
        kept = spectrum.index_select(axis, (lines.long() % length))
        # the first low-resolution pixel's centre lies (factor - 1) / 2 pixels inside
        turn = torch.exp(1j * torch.pi * lines * (factor - 1) / length)
        spectrum = kept * (turn[:, None] if axis == -2 else turn)
    return torch.fft.ifft2(spectrum).real / factor**2


WAYS = {"bicubic": downsample, "block": average_blocks, "kspace": crop_kspace}


def ways_of(given: Any) -> list[str]:
    """The key ``degradation``: one way's name, or a list of them; null for all.

    Raises:
        InputError: an unknown way.
    """
    chosen = names(given) or list(WAYS)
    for name in chosen:
        if name not in WAYS:
            raise InputError(f"degradation must be one or several of {', '.join(WAYS)}, got {name!r}")
    return chosen


class RandDownsample(RandomizableTransform):
    """Simulated low resolution of a slice in one of several ways, drawn at random.

    ``bicubic``: anti-aliased, see ``slices.downsample``; ``block``: means over blocks (``average_blocks``); ``kspace``:
    the middle of k-space (``crop_kspace``). All three keep the field of view and the mean. A network that has seen one
    of them alone sharpens the results of the others wrongly.

    Departs from the paper, which "simulated by downsampling" and does not say how.

    Args:
        ways: see ``ways_of``.
    """

    def __init__(self, ways: Any = None) -> None:
        super().__init__(prob=1.0)
        self.ways = ways_of(ways)

    def randomize(self, data: Any = None) -> None:
        """Draws the way of the next slice."""
        super().randomize(data)
        self._way = self.ways[self.R.randint(len(self.ways))]

    def __call__(self, image: torch.Tensor, way: str | None = None) -> torch.Tensor:
        """Slice ``(..., h, w)`` of a slice ``(..., H, W)`` four times as fine; the way drawn, unless one is named."""
        if way is None:
            self.randomize()
        return WAYS[way or self._way](image)
