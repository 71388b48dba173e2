# SPDX-License-Identifier: Apache-2.0
"""Tensors with the affine and meta data of an image."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

__all__ = ["like_image"]


def like_image(values: torch.Tensor, image: MetaTensor, affine: torch.Tensor | None = None) -> MetaTensor:
    """Values as an image with another's meta data, and its affine unless one is given.

    Args:
        values: ``(C, H, W[, D])``.
        image: where the meta data comes from.
        affine: 4x4, where the grid is another one.
    """
    values = values.as_tensor() if isinstance(values, MetaTensor) else values
    meta = {key: item for key, item in image.meta.items() if key != "affine"}
    return MetaTensor(values, affine=image.affine if affine is None else affine, meta=meta)
