# SPDX-License-Identifier: Apache-2.0
"""Data consistency: a super-resolved volume that, acquired again, gives the scan it was made from."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.engine.domain import estimate_level
from common.transforms.degradation import apply_per_axis, profile_matrix, profile_sigma
from common.transforms.geometry import spacing_of
from common.utils.images import as_tensor, like_image

from .transforms import slice_shares

__all__ = ["DataConsistencyd", "acquisition", "make_consistent"]

WHOLE = 0.99  # share of a slice profile inside the grid from which its voxel counts
TEXTURE = 1.5  # estimated noise level in percent that scans without noise have at most
ERROR = 4.0  # of the network in percent, where the scan's noise is set against it


def acquisition(
    size: int, rows: int, factor: float, centre: float, sigma: float
) -> tuple[np.ndarray | None, slice | np.ndarray]:
    """Slice profile and sampling of one axis, for a grid that may be a part of the one that was acquired.

    Args:
        size: voxels of the grid.
        rows: voxels of the acquisition.
        factor: its spacing in voxels of the grid.
        centre: of its first voxel, in voxels of the grid.
        sigma: of the profile, see ``common.transforms.degradation.profile_sigma``.

    Returns:
        ``(kept, size)``, or None for an axis that was sampled as it is; and which voxels of the acquisition are kept,
        those whose profile lies inside the grid.
    """
    start = round((factor - 1) / 2 - centre)  # voxels of the whole grid before this one
    if abs(factor - 1) < 1e-3:
        return None, slice(start, start + size)
    end = start + size
    whole = end if end > (rows - 1) * factor else math.ceil(rows * factor - 1e-3)
    matrix = profile_matrix(whole, factor, sigma)[:rows, start:end]
    inside = matrix.sum(axis=1, keepdims=True)
    kept = np.flatnonzero(inside > WHOLE)
    return matrix[kept] / inside[kept], kept


def make_consistent(
    image: torch.Tensor, acquired: torch.Tensor, matrices: Sequence[np.ndarray | None], weight: float
) -> torch.Tensor:
    """The volume nearest to an image that explains an acquisition, in closed form.

    With ``D`` the acquisition (Pham et al. 2019, eq. 1) it minimises ``|D x - acquired|^2 + weight |x - image|^2``: the
    most probable volume where the acquisition's noise has ``weight`` times the variance of the image's errors, both
    Gaussian. ``D`` is separable, so the eigenvectors of each axis's ``D D^T`` diagonalise the whole problem.

    Departs from the paper, which uses the acquisition in training alone. As a layer between networks the step is known
    from Schlemper et al., "A deep cascade of convolutional neural networks for dynamic MR image reconstruction", IEEE
    Transactions on Medical Imaging 37(2), 2018.

    Args:
        image: ``(..., H, W, D)``.
        acquired: ``(..., h, w, d)``.
        matrices: ``D`` per axis, ``(h, H)`` and so on; None for an axis that was sampled as it is.
        weight: above 0.

    Returns:
        ``(..., H, W, D)``.

    Example:
        >>> halves = np.array([[0.5, 0.5]])
        >>> make_consistent(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0]]), [None, halves], weight=1e-6)
        tensor([[1.5000, 2.5000]])
    """
    residual = acquired - apply_per_axis(image, matrices)
    values = torch.ones((), dtype=image.dtype, device=image.device)
    vectors: list[torch.Tensor | None] = []
    for matrix in matrices:
        values = values[..., None]
        if matrix is None:
            vectors.append(None)
            continue
        eigenvalues, eigenvectors = torch.linalg.eigh(torch.as_tensor(matrix @ matrix.T))
        vectors.append(eigenvectors)
        values = values * eigenvalues.clamp_min(0).to(values)
    turned = apply_per_axis(residual, [None if one is None else one.T for one in vectors]) / (values + weight)
    back = [None if matrix is None else matrix.T for matrix in matrices]
    return image + apply_per_axis(apply_per_axis(turned, vectors), back)


class DataConsistencyd(MapTransform):
    """Corrects results so that they explain the scan they were made from, see ``make_consistent``.

    A noisy scan is followed less: what its estimated noise exceeds ``TEXTURE``, relative to ``ERROR`` and squared, adds
    to the weight. These two and the default of 0.03 were chosen on three scans, with noise of 0, 1 and 3 % and slices
    0.5 to 1.3 times as thick as assumed.

    Args:
        keys: results ``(C, H, W, D)`` on the grid of ``ref_key``, background 0 and foreground to 1.
        weight: how much noisier a clean scan is than the result, as variances; None leaves results as they are.
        ref_key: image ``(C, H, W, D)`` with the grid's affine.
        acquired_key: the scan ``(1, h, w, d)`` before it was interpolated, with its affine.
        sigma, thickness: the slice profile, see ``common.transforms.degradation.profile_sigma``.
        slice_thickness: in mm, instead of ``thickness``; see ``ToTargetGridd``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        weight: float | None,
        ref_key: str = "image",
        acquired_key: str = "acquired",
        sigma: float | None = None,
        thickness: float = 1.0,
        slice_thickness: Any = None,
    ) -> None:
        super().__init__(keys)
        self.weight, self.ref_key, self.acquired_key = weight, ref_key, acquired_key
        self.sigma, self.thickness, self.slice_thickness = sigma, thickness, slice_thickness

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with consistent results."""
        out = dict(data)
        if self.weight is None:
            return out
        acquired: MetaTensor = out[self.acquired_key]
        noise = max(0.0, estimate_level(acquired) - TEXTURE) / ERROR
        for key in self.key_iterator(out):
            result = as_tensor(out[key])
            matrices, low = self._acquisition(acquired, out[self.ref_key].affine, result.shape[-3:])
            values = make_consistent(result, low.to(result), matrices, self.weight + noise**2)
            values.clamp_(min=min(0.0, float(acquired.min())))  # edges undershoot, which a magnitude cannot
            out[key] = like_image(values, out[key]) if isinstance(out[key], MetaTensor) else values
        return out

    def _acquisition(
        self, acquired: MetaTensor, affine: torch.Tensor, shape: Sequence[int]
    ) -> tuple[list[np.ndarray | None], torch.Tensor]:
        to_grid = np.linalg.inv(affine.cpu().numpy()) @ acquired.affine.cpu().numpy()
        shares = slice_shares(self.slice_thickness, spacing_of(acquired.affine))
        low, matrices = acquired.as_tensor(), []
        for axis, size in enumerate(shape):
            factor, centre = float(to_grid[axis, axis]), float(to_grid[axis, 3])
            thickness = self.thickness if shares is None else float(shares[axis])
            sigma = profile_sigma(factor, self.sigma, thickness)
            matrix, kept = acquisition(size, low.shape[axis + 1], factor, centre, sigma)
            matrices.append(matrix)
            low = low[(slice(None),) * (axis + 1) + (kept,)]
        return matrices, low
