# SPDX-License-Identifier: Apache-2.0
"""Lesion masks: read, and brought onto the voxels of the image that they belong to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from monai.data.utils import to_affine_nd

from common.errors import InputError, one_line
from common.io.inputs import root_cause
from common.io.readers import LoadScan
from common.transforms.geometry import grid_affine

from .slices import is_picture

__all__ = ["load_mask", "mask_paths", "place_of"]

TOLERANCE = 0.25  # of a voxel, at every corner of the grid: headers round, half a voxel is another place


def mask_paths(data: Mapping[Hashable, Any], key: str = "guide") -> list[str]:
    """The files of a scan's masks: its entry's list, or its "label", as MONAI Label calls a lesion's segmentation."""
    return list(data.get(key) or ([data["label"]] if isinstance(data.get("label"), str) else []))


def place_of(image: Any) -> Any:
    """The affine of an image; None for a picture, which has no place in space."""
    return None if is_picture(str(image.meta.get("filename_or_obj", ""))) else image.affine


def load_mask(path: str, shape: Sequence[int], affine: Any = None, axis: int = -1, factor: int = 1) -> torch.Tensor:
    """A lesion mask as a boolean tensor on its image's voxels: what is above 0.

    A mask whose axes are stored in another order or direction is turned. Pictures are matched by their size alone.

    Args:
        path: image file.
        shape: of the image it belongs to, two or three axes.
        affine: of that image; None for a picture.
        axis: across the slices of a volume, one of the image's own axes.
        factor: with 4, the mask may also lie on a grid four times as fine in the slices' plane; a coarse pixel then
            counts when one of its fine ones does.

    Raises:
        InputError: it cannot be read, has several channels, or lies on another grid.
    """
    mask, own = _read(path)
    size = (*shape, 1)[:3]
    nearest = None
    for times in dict.fromkeys((1, factor)):
        steps = [1 if i == axis % 3 else times for i in range(3)]
        wanted = tuple(n * step for n, step in zip(size, steps, strict=True))
        if own is None or affine is None:
            turned, away, error = mask, 0.0, 0.0 if tuple(mask.shape) == wanted else None
        else:
            finer = grid_affine(to_affine_nd(3, np.asarray(affine, dtype=np.float64)), [1 / step for step in steps])
            turned, away, error = _turned(mask, own, wanted, finer)
        if error is None:
            continue
        if error < TOLERANCE:
            for i, step in enumerate(steps):
                turned = turned.unflatten(i, (-1, step)).any(dim=i + 1)
            return turned.reshape(*shape)
        nearest = away if nearest is None else min(nearest, away)
    if nearest is None:
        found = list(mask.shape)[: 2 if mask.shape[2] == 1 and len(shape) == 2 else 3]
        sizes = [" x ".join(map(str, n)) for n in (found, shape)]
        raise InputError(f"the mask has {sizes[0]} voxels, its image {sizes[1]}", path)
    reason = f"the mask lies on another grid than its image, at a corner {nearest:.3g} mm away; resample it"
    raise InputError(reason, path)


def _read(path: str) -> tuple[torch.Tensor, np.ndarray | None]:
    """A mask with three axes, and its affine."""
    try:
        image = LoadScan(kept=False)(path)
    except Exception as error:
        raise InputError(f"the mask cannot be read ({one_line(root_cause(error))})", path) from error
    if image.shape[0] != 1:
        raise InputError(f"the mask has {image.shape[0]} channels; one is meant", path)
    if image.ndim not in (3, 4):
        raise InputError(f"the mask has {image.ndim - 1} axes; two or three are meant", path)
    mask = torch.nan_to_num(image.as_tensor())[0] > 0
    own = place_of(image)
    return (
        mask if mask.ndim == 3 else mask[..., None],
        None if own is None else to_affine_nd(3, np.asarray(own, dtype=np.float64)),
    )


def _turned(
    mask: torch.Tensor, own: np.ndarray, shape: Sequence[int], affine: np.ndarray
) -> tuple[torch.Tensor, float, float | None]:
    """The mask with its axes in the order and direction that bring it nearest to a grid.

    Returns:
        The mask, how far its corners lie from the grid's in mm, and in the grid's voxels; the latter is None where it
        has other numbers of voxels in every order.
    """
    best: tuple[torch.Tensor, float, float | None] = (mask, np.inf, None)
    corners = np.array(list(product(*[(0, n - 1) for n in shape])))
    goal = corners @ affine[:3, :3].T + affine[:3, 3]
    into_voxels = np.linalg.pinv(affine[:3, :3])  # an only slice may have no thickness
    for order in permutations(range(3)):
        if tuple(mask.shape[i] for i in order) != tuple(shape):
            continue
        for flips in product((False, True), repeat=3):
            voxels = np.empty(corners.shape)
            voxels[:, order] = np.where(flips, np.array(shape) - 1 - corners, corners)
            apart = np.nan_to_num(voxels @ own[:3, :3].T + own[:3, 3] - goal, nan=np.inf)
            with np.errstate(invalid="ignore"):  # infinity times 0
                error = float(np.nan_to_num(np.abs(apart @ into_voxels.T), nan=np.inf).max())
            if best[2] is None or error < best[2]:
                turned = mask.permute(*order).flip([i for i in range(3) if flips[i]])
                best = (turned, float(np.linalg.norm(apart, axis=1).max()), error)
    return best
