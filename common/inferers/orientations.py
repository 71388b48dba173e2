# SPDX-License-Identifier: Apache-2.0
"""Averaging over orientations (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from common.inferers.work import multiplications_of
from common.utils.images import as_tensor

__all__ = ["OrientationInferer"]

CHOICES = (None, "flips", "all")


class OrientationInferer(Inferer):
    """Averages a network's results over orientations of the image, each turned back; their spread tells how sure it is.

    In the mean the errors of single passes cancel in part: better results at a multiple of the cost. The spread is
    the standard deviation over the orientations, in the image's units; it shows where the network depends on how the
    scan lies in its array, and is no bound of the error.

    An addition of this collection to the papers.

    Args:
        inferer: applies the network in each orientation; its results lie on the image's grid.
        orientations: ``flips`` for all of the spatial axes' flips (8 in 3D, 4 in 2D); ``all`` for their permutations,
            too (48 and 8), for networks with isotropic filters; None for the image as it is.
        spread: append the spread to the result, as further channels.

    Raises:
        ValueError: an unknown choice.

    Example:
        >>> from monai.inferers import SimpleInferer
        >>> inferer = OrientationInferer(SimpleInferer(), spread=True)
        >>> inferer(torch.rand(1, 1, 8, 9, 7), nn.Conv3d(1, 1, 3, padding=1)).shape
        torch.Size([1, 2, 8, 9, 7])
    """

    def __init__(self, inferer: Inferer, orientations: str | None = "flips", spread: bool = False) -> None:
        super().__init__()
        if orientations not in CHOICES:
            raise ValueError(f"orientations must be one of {CHOICES}, got {orientations!r}")
        self.inferer = inferer
        self.orientations = orientations
        self.spread = spread

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Mean ``(B, C, H, W[, D])`` over the orientations of ``inputs``; with ``spread`` ``(B, 2 C, H, W[, D])``."""
        image = as_tensor(inputs)
        mean = squares = torch.zeros(())  # running mean and sum of squared differences (Welford 1962)
        for count, (axes, flips) in enumerate(self._turns(image.ndim - 2), start=1):
            turned = image.permute(0, 1, *axes).flip(flips)
            result = self.inferer(turned.contiguous(), network, *args, **kwargs).float()
            result = result.flip(flips).permute(0, 1, *(2 + axes.index(axis) for axis in sorted(axes)))
            if count == 1:
                mean, squares = result.clone(), torch.zeros_like(result)
                continue
            difference = result - mean
            mean += difference / count
            squares += difference * (result - mean)
        return torch.cat([mean, (squares / count).sqrt()], dim=1) if self.spread else mean

    def work(self, image: torch.Tensor, network: nn.Module) -> int:
        """Multiplications for an image."""
        return len(list(self._turns(image.ndim - 2))) * multiplications_of(self.inferer, image, network)

    def _turns(self, dims: int) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Orders of the spatial axes and what is flipped afterwards."""
        axes = tuple(range(2, 2 + dims))
        orders = permutations(axes) if self.orientations == "all" else [axes]
        for order, chosen in product(orders, product((False, True), repeat=dims if self.orientations else 0)):
            yield order, [axis for axis, flipped in zip(axes, chosen, strict=False) if flipped]
