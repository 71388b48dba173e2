# SPDX-License-Identifier: Apache-2.0
"""Whole frames through the network, exactly, in bands where memory is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from monai.inferers import Inferer
from torch import nn

from common.io.weights import bare, in_format
from common.utils.images import as_tensor

from .networks import DRNN, folded

__all__ = ["FrameInferer"]


class FrameInferer(Inferer):
    """Applies the generator to the box that holds something in each frame; elsewhere the input stays.

    Batch normalisation is folded into the convolutions, in channels-last order. A frame that does not fit in memory is
    computed in bands of rows, each read with the receptive radius around it, so the result is that of one pass.

    Args:
        memory_gb: memory for feature maps, in GiB.
    """

    def __init__(self, memory_gb: float = 4.0) -> None:
        super().__init__()
        self.memory_gb = float(memory_gb)

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Result ``(B, N, H, W)`` of ``inputs`` ``(B, N, H, W)`` in [0, 1]; the N channels are frames of a loop."""
        image = as_tensor(inputs)
        result = image.clone()
        quick = in_format(folded(cast(DRNN, bare(cast(nn.Module, network)))), torch.channels_last)
        with torch.no_grad():
            for case, out in zip(image, result, strict=True):
                _, rows, columns = self.box(case[None])
                for frame, target in zip(case, out, strict=True):
                    if rows.stop > rows.start:
                        target[rows, columns] = self._frame(frame[rows, columns], quick)
        return result

    def box(self, image: torch.Tensor) -> list[slice]:
        """Frames, rows and columns that hold something other than 0 in ``(B, N, H, W)``."""
        mask = (image != 0).flatten(0, 1).any(dim=0)
        sides = [slice(0, image.shape[1])]
        for hits in (torch.nonzero(mask.any(dim=1)).flatten(), torch.nonzero(mask.any(dim=0)).flatten()):
            sides.append(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0))
        return sides

    def _frame(self, frame: torch.Tensor, network: DRNN) -> torch.Tensor:
        """One frame ``(H, W)``."""
        height, width = frame.shape
        radius, channels = network.radius, network.tail.in_channels
        row = 4 * channels * width * frame.element_size() / 2**30  # two maps, a copy and the shortcut's
        most = max(1, int(self.memory_gb / row))
        if height <= most:
            return network(frame[None, None])[0, 0]
        band = max(1, most - 2 * radius)
        parts = []
        for start in range(0, height, band):
            stop = min(height, start + band)
            first, last = max(0, start - radius), min(height, stop + radius)
            # rows that padding at a cut has touched lie within the radius and are dropped
            part = network(frame[None, None, first:last])[0, 0]
            parts.append(part[start - first : stop - first])
        return torch.cat(parts)
