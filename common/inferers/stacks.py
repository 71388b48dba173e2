# SPDX-License-Identifier: Apache-2.0
"""A 2D network that is given stacks of neighbouring slices, applied to a whole volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.inferers import Inferer

from common.samplers.slices import slice_stacks
from common.utils.images import as_tensor

__all__ = ["SliceStackInferer"]


class SliceStackInferer(Inferer):
    """Predicts each slice from itself and its neighbours (Baltruschat et al. 2024, sec. 2.4), in batches.

    Slices where every input is 0 are not computed: they are 0. The slices' box around what is not 0 is read, padded by
    zeros to a multiple of ``multiple`` where the slice itself ends before.

    Args:
        axis: spatial axis that the slices lie across; 0, 1 or 2.
        neighbours: k, odd: slices per input channel.
        batch_size: slices computed together.
        multiple: edge lengths given to the network are multiples of this.
    """

    def __init__(self, axis: int = 2, neighbours: int = 3, batch_size: int = 16, multiple: int = 32) -> None:
        super().__init__()
        if axis not in (0, 1, 2) or neighbours % 2 == 0 or min(neighbours, batch_size, multiple) < 1:
            raise ValueError(f"need an axis of 0 to 2 and odd neighbours, got {axis} and {neighbours}")
        self.axis, self.neighbours, self.batch_size, self.multiple = axis, neighbours, batch_size, multiple

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Prediction ``(1, 1, H, W, D)`` of ``(1, C, H, W, D)``, zero where nothing was computed."""
        if inputs.ndim != 5 or len(inputs) != 1:
            raise ValueError(f"expected one volume (1, C, H, W, D), got {tuple(inputs.shape)}")
        volume = as_tensor(inputs[0])
        result = volume.new_zeros(1, *volume.shape[1:])
        slices = result.movedim(self.axis + 1, 0)  # (N, 1, h, w), a view
        filled = (volume != 0).any(dim=0).movedim(self.axis, 0)
        wanted = torch.nonzero(filled.flatten(1).any(dim=1)).flatten().tolist()
        if not wanted:
            return result[None]
        plane = filled.any(dim=0)
        window = [self._side(torch.nonzero(plane.any(dim=1 - a)).flatten(), plane.shape[a]) for a in (0, 1)]
        inside = [slice(None)] * 4
        others = [a for a in range(3) if a != self.axis]
        for a, side in zip(others, window, strict=True):
            inside[a + 1] = side
        part = volume[tuple(inside)]
        sizes = [side.stop - side.start for side in window]
        more = [-n % self.multiple for n in sizes]
        for first in range(0, len(wanted), self.batch_size):
            indices = wanted[first : first + self.batch_size]
            stack = slice_stacks(part, self.axis, indices, self.neighbours)
            if any(more):
                stack = F.pad(stack, (more[1] // 2, more[1] - more[1] // 2, more[0] // 2, more[0] - more[0] // 2))
            made = network(stack, *args, **kwargs)
            made = made[:, :1, more[0] // 2 :, more[1] // 2 :][..., : sizes[0], : sizes[1]]
            slices[indices, :, window[0], window[1]] = made.to(slices.dtype)
        return result[None]

    def _side(self, used: torch.Tensor, length: int) -> slice:
        """What is read of an in-plane axis: the used positions, grown to a multiple as far as the slice goes."""
        first, last = int(used[0]), int(used[-1]) + 1
        size = min(-(-(last - first) // self.multiple) * self.multiple, length)
        start = min(max((first + last - size) // 2, 0), length - size)
        return slice(start, start + size)
