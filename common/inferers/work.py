# SPDX-License-Identifier: Apache-2.0
"""What an image costs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from common.io.weights import bare
from common.utils.console import multiplications

__all__ = ["multiplications_of"]


def multiplications_of(inferer: Any, image: torch.Tensor, network: nn.Module) -> int:
    """Multiplications of a network for an image ``(B, C, H, W[, D])``.

    Args:
        inferer: has ``work(image, network)``, or ``box(image)``, the slices that the network computes; else all is.
        image: the image.
        network: see ``common.utils.console.multiplications``.
    """
    if hasattr(inferer, "work"):
        return inferer.work(image, bare(network))
    sides = [s.stop - s.start for s in inferer.box(image)] if hasattr(inferer, "box") else image.shape[2:]
    return math.prod(sides) * multiplications(bare(network))
