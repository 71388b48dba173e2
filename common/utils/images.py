# SPDX-License-Identifier: Apache-2.0
"""Images as MONAI's tensors with affine and meta data, and as plain ones."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

__all__ = ["as_tensor", "like_image"]


def as_tensor(image: torch.Tensor) -> torch.Tensor:
    """An image's values as a plain tensor that shares their memory."""
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def like_image(values: torch.Tensor, image: MetaTensor, affine: torch.Tensor | None = None) -> MetaTensor:
    """Values as an image with another's meta data, and its affine unless one is given.

    Args:
        values: ``(C, H, W[, D])``.
        image: where the meta data comes from.
        affine: 4x4, where the grid is another one.
    """
    meta = {key: item for key, item in image.meta.items() if key != "affine"}
    return MetaTensor(as_tensor(values), affine=image.affine if affine is None else affine, meta=meta)
