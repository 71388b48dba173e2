# SPDX-License-Identifier: Apache-2.0
"""From a scan's own grid to the grid that is wanted."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.images import like_image
from common.inputs import InputError
from common.settings import triple
from common.transforms.degradation import (
    FWHM,
    apply_per_axis,
    low_resolution_size,
    profile_matrix,
    profile_sigma,
    spline_matrix,
)
from common.transforms.geometry import grid_affine, spacing_of

__all__ = ["ToTargetGridd"]

logger = logging.getLogger(__name__)

SAME = 1e-3  # spacings that differ by less are one
ISOTROPIC = 0.02  # largest relative difference of the spacings of an isotropic scan
TRAINED = {"one": 6.0, "several": 3.0}  # factors the shipped weights have seen, on one axis and on several at once
MOST_VOXELS = 2**30


class ToTargetGridd(MapTransform):
    """Interpolates a scan to the high-resolution grid that the network works on.

    An axis that gets finer is interpolated by cubic splines; one that gets coarser is resampled with the slice profile
    of the target spacing (Pham et al. 2019, sec. 7: 0.4464 x 0.4464 x 3 mm to 0.5 mm). The field of view starts at the
    same outer corner, and the affine follows.

    Args:
        keys: scans ``(1, H, W, D)`` with affine.
        spacing: target spacing in mm, one number or three, or None.
        scale: factors per axis by which the scan gets finer, one number or three, or None. Without both the target is
            isotropic at the finest spacing of the scan.
        slice_thickness: thickness in mm, one number for the coarsest axis or three; None for the spacing. Slices
            thinner than their spacing (gaps) are blurred to the profile that the weights know, after interpolation.

    Raises:
        InputError: both given; neither given for an isotropic scan; nothing gets finer; a target beyond 2^30 voxels.
    """

    def __init__(
        self, keys: KeysCollection, spacing: Any = None, scale: Any = None, slice_thickness: Any = None
    ) -> None:
        super().__init__(keys)
        self.spacing = triple(spacing, "spacing")
        self.scale = triple(scale, "scale")
        self.thickness = triple(slice_thickness, "slice_thickness")
        if self.spacing and self.scale:
            raise InputError("give either spacing or scale, not both")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self._move(out[key])
        return out

    def target_spacing(self, spacing: np.ndarray, source: str) -> np.ndarray:
        """Target spacing in mm of a scan with the given spacing."""
        if self.spacing:
            return np.asarray(self.spacing)
        if self.scale:
            return spacing / np.asarray(self.scale)
        if spacing.max() <= spacing.min() * (1 + ISOTROPIC):
            raise InputError(
                f"isotropic already ({spacing.min():.3g} mm): say how fine it shall become, "
                f'such as --scale "[2,2,2]" or --spacing {spacing.min() / 2:.3g}',
                source,
            )
        return np.full(3, spacing.min())

    def _move(self, image: MetaTensor) -> MetaTensor:
        source = str(image.meta.get("filename_or_obj", "image"))
        spacing = spacing_of(image.affine)
        steps = self.target_spacing(spacing, source) / spacing
        steps[np.abs(steps - 1) < SAME] = 1
        if steps.min() >= 1:
            raise InputError(
                f"no axis gets finer: the scan has {_mm(spacing)}, the target {_mm(spacing * steps)}", source
            )
        sizes = [low_resolution_size(n, step) for n, step in zip(image.shape[1:], steps, strict=True)]
        if math.prod(sizes) > MOST_VOXELS:
            raise InputError(f"the target grid would have {' x '.join(map(str, sizes))} voxels", source)
        self._warn(1 / steps, source)
        matrices: list[np.ndarray | None] = []
        for n, size, step in zip(image.shape[1:], sizes, steps.tolist(), strict=True):
            if step == 1:
                matrices.append(None)
            elif step > 1:
                matrices.append(profile_matrix(n, step, profile_sigma(step)))
            else:
                matrices.append(spline_matrix(n, size, step))
        blurs = self._gap_blurs(spacing, steps, sizes, source)
        moved = apply_per_axis(apply_per_axis(image.as_tensor().float(), matrices), blurs)
        affine = torch.as_tensor(grid_affine(image.affine, steps))
        return like_image(moved, image, affine)

    def _gap_blurs(self, spacing: np.ndarray, steps: np.ndarray, sizes: list[int], source: str) -> list[Any]:
        """Per axis the blur that makes a profile thinner than the spacing as wide as it."""
        if self.thickness is None:
            return [None] * 3
        if len(set(self.thickness)) == 1:  # one number: the slice axis
            thickness = spacing.copy()
            thickness[int(spacing.argmax())] = self.thickness[0]
        else:
            thickness = np.asarray(self.thickness)
        blurs: list[np.ndarray | None] = []
        for size, step, edge, thick in zip(sizes, steps, spacing, thickness, strict=True):
            if thick > edge * (1 + SAME):
                logger.warning(
                    "%s: slices of %.3g mm overlap at %.3g mm spacing; the blur beyond the spacing stays",
                    source, thick, edge,
                )  # fmt: skip
            missing = edge**2 - thick**2
            if step >= 1 or missing <= SAME * edge**2:
                blurs.append(None)
                continue
            sigma = math.sqrt(missing) / FWHM / (edge * step)
            distance = np.arange(size)[:, None] - np.arange(size)
            kernel = np.exp(-0.5 * (distance / sigma) ** 2)
            blurs.append(kernel / kernel.sum(axis=1, keepdims=True))
        return blurs

    @staticmethod
    def _warn(factors: np.ndarray, source: str) -> None:
        finer = np.sort(factors)[::-1]
        if finer[0] > TRAINED["one"] * 1.01 or finer[1] > TRAINED["several"] * 1.01:
            logger.warning(
                "%s: factors %s lie outside what the weights were trained on (up to %g on one axis, %g on several)",
                source, " x ".join(f"{f:.3g}" for f in factors), TRAINED["one"], TRAINED["several"],
            )  # fmt: skip


def _mm(spacing: np.ndarray) -> str:
    return " x ".join(f"{edge:.4g}" for edge in spacing) + " mm"
