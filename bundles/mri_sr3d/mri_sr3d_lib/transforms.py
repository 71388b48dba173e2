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

from common.errors import InputError
from common.transforms.degradation import (
    apply_per_axis,
    low_resolution_size,
    profile_matrix,
    profile_sigma,
    spline_matrix,
)
from common.transforms.geometry import grid_affine, spacing_of
from common.utils.images import like_image
from common.utils.values import triple, value

__all__ = ["ToTargetGridd", "slice_shares"]

logger = logging.getLogger(__name__)

SAME = 1e-3  # spacings that differ by less are one
ISOTROPIC = 0.02  # largest relative difference of the spacings of an isotropic scan
TRAINED = {"one": 6.0, "several": 3.0}  # factors the shipped weights have seen, on one axis and on several at once
MOST_VOXELS = 2**30


def slice_shares(slice_thickness: Any, spacing: np.ndarray) -> np.ndarray | None:
    """Slice thickness per axis in units of the spacing; None where it is not given.

    Args:
        slice_thickness: in mm, one number for the coarsest axis or three, or None.
        spacing: of the scan in mm.
    """
    given = triple(slice_thickness, "slice_thickness")
    if given is None:
        return None
    if isinstance(value(slice_thickness), list | tuple):
        return np.asarray(given) / spacing
    return np.where(np.arange(3) == spacing.argmax(), given, spacing) / spacing


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
        slice_thickness: thickness in mm, one number for the coarsest axis or three; None for the spacing. An axis that
            gets coarser is blurred only by what the target's profile is wider; on one that gets finer, gaps or overlap
            draw a warning, since the weights know slices as thick as their spacing.
        acquired_key: where the scan goes before its axes get finer, see ``DataConsistencyd``; for a single image.

    Raises:
        InputError: both given; neither given for an isotropic scan; nothing gets finer; a target beyond 2^30 voxels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Any = None,
        scale: Any = None,
        slice_thickness: Any = None,
        acquired_key: str = "acquired",
    ) -> None:
        super().__init__(keys)
        self.spacing = triple(spacing, "spacing")
        self.scale = triple(scale, "scale")
        self.slice_thickness = slice_thickness
        triple(slice_thickness, "slice_thickness")  # refused before any scan is read
        self.acquired_key = acquired_key
        if self.spacing and self.scale:
            raise InputError("give either spacing or scale, not both")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its images on the grid asked for."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key], out[self.acquired_key] = self._move(out[key])
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

    def _move(self, image: MetaTensor) -> tuple[MetaTensor, MetaTensor]:
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
        thickness = self._thickness(spacing, steps, source)
        coarser: list[np.ndarray | None] = [None] * 3
        finer: list[np.ndarray | None] = [None] * 3
        for axis, (n, size, step) in enumerate(zip(image.shape[1:], sizes, steps.tolist(), strict=True)):
            if step > 1:
                # the profile that the scan has already, where it is known, counts towards the target's
                missing = math.sqrt(max(0.0, step**2 - float(thickness[axis]) ** 2))
                coarser[axis] = profile_matrix(n, step, profile_sigma(missing))
            elif step < 1:
                finer[axis] = spline_matrix(n, size, step)
        acquired = apply_per_axis(image.as_tensor().float(), coarser)
        lower, higher = (torch.as_tensor(grid_affine(image.affine, s)) for s in (np.maximum(steps, 1), steps))
        return like_image(apply_per_axis(acquired, finer), image, higher), like_image(acquired, image, lower)

    def _thickness(self, spacing: np.ndarray, steps: np.ndarray, source: str) -> np.ndarray:
        """Slice thickness per axis in units of the spacing, 0 where it is not given.

        Warns where an axis that gets finer has gaps or overlap.
        """
        share = slice_shares(self.slice_thickness, spacing)
        if share is None:
            return np.zeros(3)
        for axis in np.flatnonzero((steps < 1) & (np.abs(share - 1) > SAME)):
            logger.warning(
                "%s: slices of %.3g mm at %.3g mm spacing; weights trained with --slice_thickness %.2g fit them",
                source, share[axis] * spacing[axis], spacing[axis], share[axis],
            )  # fmt: skip
        return share

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
