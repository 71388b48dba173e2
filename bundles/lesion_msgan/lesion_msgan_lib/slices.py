# SPDX-License-Identifier: Apache-2.0
"""What is done to a slice: simulated low resolution, and standardisation that can be undone."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.transforms.utils_pytorch_numpy_unification import percentile

from common.errors import InputError
from common.utils.values import value

__all__ = ["downsample", "foreground", "is_picture", "slice_axis", "statistics", "whole_pixels"]

FACTOR = 4
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
PLANES = {"sagittal": "LR", "coronal": "PA", "axial": "IS"}  # the plane, and the letters of the axis across it


def is_picture(path: str) -> bool:
    """Whether a file is a PNG, JPEG or BMP picture, by its name."""
    return path.lower().endswith(PICTURES)


def whole_pixels(image: torch.Tensor, factor: int = FACTOR) -> torch.Tensor:
    """``(..., H, W)`` without the last rows and columns that make no whole low-resolution pixel."""
    height, width = (n - n % factor for n in image.shape[-2:])
    return image[..., :height, :width]


def downsample(image: torch.Tensor, factor: int = FACTOR) -> torch.Tensor:
    """Simulated low resolution: bicubic with anti-aliasing (the kernel is stretched by the factor).

    The paper does not say how it down-samples; plain sampling of a bicubic interpolation, as in the authors' later
    code, would alias. The field of view stays: low-resolution pixel i is centred at ``(i + 0.5) factor - 0.5``.

    Args:
        image: ``(..., H, W)``, both multiples of the factor.
        factor: high-resolution pixels per low-resolution pixel and axis.
    """
    flat = image.reshape(-1, 1, *image.shape[-2:]).float()
    size = [n // factor for n in image.shape[-2:]]
    low = F.interpolate(flat, size=size, mode="bicubic", antialias=True, align_corners=False)
    return low.reshape(*image.shape[:-2], *size)


def foreground(low: torch.Tensor, share: float = 0.15) -> torch.Tensor:
    """Pixels brighter than ``share`` of the way from the 0.1 to the 99.9 percentile; all of a constant image.

    Unlike ``common.transforms.intensity.foreground_mask`` this does not ask for a background of exactly one value: the
    rim that anti-aliasing leaves around a masked brain, up to a tenth of the brain's values, is no foreground.

    Args:
        low: any shape, any intensities.
        share: between the two percentiles.
    """
    least, most = (float(percentile(low, q)) for q in (0.1, 99.9))
    mask = low > least + share * (most - least)
    return mask if mask.any() else torch.ones_like(mask)


def statistics(low: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a slice's foreground; (its value, 1) where the slice is constant."""
    inside = low[foreground(low)]
    spread = float(inside.std()) if inside.numel() > 1 else 0.0
    return float(inside.mean()), spread if spread > 1e-6 * max(1.0, float(inside.abs().max())) else 1.0


def slice_axis(affine: Any, axis: Any, shape: Any = ()) -> int:
    """Index of the array's axis across the slices.

    Args:
        affine: 4x4, voxels to mm (RAS).
        axis: ``axial``, ``coronal`` or ``sagittal``, or 0, 1 or 2 for the array's own axes.
        shape: of the volume; an only axis of length 1 is the one across the slices, whatever ``axis`` says.

    Raises:
        InputError: anything else.
    """
    plain = value(axis)
    if list(shape).count(1) == 1:
        return list(shape).index(1)
    if plain in (0, 1, 2) and not isinstance(plain, bool):
        return int(plain)
    if plain not in PLANES:
        raise InputError(f"axis must be one of {', '.join(PLANES)}, or 0, 1 or 2, got {axis!r}")
    codes = nib.aff2axcodes(np.asarray(affine, dtype=np.float64))
    return next(i for i, code in enumerate(codes) if code in PLANES[plain])
