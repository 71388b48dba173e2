# SPDX-License-Identifier: Apache-2.0
"""A scan on its way to the network and back: mask as a channel, slices, standardisation, region, finer grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.engine.domain import Measures, measure
from common.io.inputs import CheckVoxelsd
from common.transforms.geometry import grid_affine
from common.utils.images import like_image

from .masks import load_mask, mask_paths, place_of
from .regions import cut
from .slices import is_picture, slice_axis, statistics

__all__ = [
    "AddMaskd",
    "CheckScand",
    "PlainPictured",
    "RestoreRegiond",
    "RestoreSlicesd",
    "StandardiseSlicesd",
    "in_own_order",
    "measure_slices",
    "picture_pixels",
]

FACTOR = 4
# keys in an image's meta data
AXIS, MEAN, SPREAD, REGION, SCORED = "slice_axis", "slice_mean", "slice_std", "region", "scored_region"


def in_own_order(values: Sequence[Any], axis: int) -> list[Any]:
    """One value per axis with the slices' last, in the order of the scan's own axes.

    Args:
        values: three, or two for a picture.
        axis: across the slices in the scan; -1 for a picture.
    """
    return list(values) if axis < 0 else [*values[:axis], values[2], *values[axis:2]]


class CheckScand(MapTransform):
    """``common.io.inputs.CheckVoxelsd`` for pictures ``(1, H, W)`` and volumes ``(1, H, W, D)``.

    Args:
        keys: images.
        axis: across the slices of a volume, see ``slice_axis``; kept in the meta data for what follows.
    """

    def __init__(self, keys: KeysCollection, axis: Any = "axial") -> None:
        super().__init__(keys)
        self.axis = axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry as it is, if its images can be used."""
        for key in self.key_iterator(data):
            image = data[key]
            CheckVoxelsd(key, spatial_dims=2 if image.ndim == 3 else 3)(data)
            image.meta[AXIS] = _axis_of(image, self.axis)
        return dict(data)


def _axis_of(image: MetaTensor, axis: Any = None) -> int:
    """The array's axis across the slices of ``(1, H, W[, D])``, as given or found before; -1 of a picture."""
    if image.ndim == 3:
        return -1
    return slice_axis(image.affine, image.meta.get(AXIS, "axial") if axis is None else axis, image.shape[1:])


def measure_slices(image: MetaTensor, axis: Any = None) -> Measures:
    """Spacing and noise in the plane of the slices, and the contrast; of a picture ``(1, H, W)`` the contrast alone.

    Args:
        image: ``(1, H, W[, D])`` with its affine.
        axis: across the slices, see ``slice_axis``; None for the one that ``CheckScand`` kept.
    """
    if image.ndim == 3:
        return {"contrast": measure(like_image(image.as_tensor()[..., None], image))["contrast"]}
    across = _axis_of(image, axis)
    return measure(image, axes=[one for one in range(3) if one != across])


class AddMaskd(MapTransform):
    """Appends the lesion mask of a scan ``(1, H, W, D)`` as a second channel of 0 and 1, slices along the last axis.

    Args:
        keys: scans.
        axis: across the slices, see ``slice_axis``.
        guide_key: key of the entry's list with the mask's file, see ``mask_paths``; without one the channel is 0.
    """

    def __init__(self, keys: KeysCollection, axis: Any = "axial", guide_key: str = "guide") -> None:
        super().__init__(keys)
        self.axis = axis
        self.guide_key = guide_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with images of two channels, scan and mask."""
        out = dict(data)
        paths = mask_paths(out, self.guide_key)
        for key in self.key_iterator(out):
            image = out[key]
            shape = tuple(image.shape[1:])
            mask = load_mask(paths[0], shape, place_of(image)) if paths else torch.zeros(shape)
            both = torch.cat([image.as_tensor().float(), mask[None].to(image.device, torch.float32)])
            axis = slice_axis(image.affine, self.axis, shape) + 1
            out[key] = MetaTensor(both.movedim(axis, -1).contiguous(), meta=dict(image.meta))
        return out


class StandardiseSlicesd(MapTransform):
    """Zero mean and unit variance over the foreground of each slice (sec. 2.3); moves the slices to the last axis.

    Axis, means and deviations are stored in the meta data, where ``RestoreSlicesd`` finds them. Images are
    ``(1, H, W)`` or ``(1, H, W, D)`` in any intensity units.

    Args:
        keys: images.
        axis: across the slices of a volume, see ``slice_axis``; None for the one that ``CheckScand`` kept.
    """

    def __init__(self, keys: KeysCollection, axis: Any = None) -> None:
        super().__init__(keys)
        self.axis = axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with standardised images, slices last."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            flat = image.ndim == 3
            axis = _axis_of(image, self.axis)
            values = image.as_tensor().float()
            slices = values if flat else values.movedim(axis + 1, -1)[0].movedim(-1, 0)  # (D, H, W)
            levels = torch.tensor([statistics(one) for one in slices])
            mean, spread = levels.T.to(slices)
            slices = (slices - mean[:, None, None]) / spread[:, None, None]
            moved = like_image((slices if flat else slices.movedim(0, -1)[None]).contiguous(), image)
            moved.meta.update({AXIS: axis, MEAN: mean.cpu(), SPREAD: spread.cpu()})
            out[key] = moved
        return out


class RestoreSlicesd(MapTransform):
    """Brings predictions back to the scan's units and axes, with the affine of the finer grid in the plane.

    Adds ``<key>_region``, the super-resolved region alone, with the affine of its own first voxel.

    Args:
        keys: predictions ``(1, fH, fW[, D])``, slices last, in the units of the standardised ``ref_key``.
        ref_key: the standardised scan with its region.
        region: add the region.
        factor: f, of the finer grid.
        spread: key of the predictions' standard deviation, which is brought back likewise, if it is there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        ref_key: str = "image",
        region: bool = True,
        factor: int = FACTOR,
        spread: str = "std",
    ) -> None:
        super().__init__(keys)
        self.ref_key = ref_key
        self.region = region
        self.factor, self.spread = factor, spread

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its predictions in the scan's units and axes, and their regions."""
        out = dict(data)
        image = out[self.ref_key]
        mean, spread = (torch.as_tensor(image.meta[name]).flatten() for name in (MEAN, SPREAD))
        axis = int(np.asarray(image.meta[AXIS]))
        region = torch.as_tensor(image.meta[REGION]).tolist()
        for key in (*self.key_iterator(out), *([self.spread] if self.spread in out else [])):
            values = torch.as_tensor(out[key]).as_subclass(torch.Tensor).float()
            values = values * spread.to(values)  # along the last axis, or one number for a picture
            if key != self.spread:
                values = values + mean.to(values)
            parts = {key: (values, [0, 0, 0])}
            if self.region:
                part = values.movedim(-1, 1) if axis >= 0 else values
                part = cut(part, region[:2], self.factor)
                if axis >= 0:
                    part = part[:, region[2][0] : region[2][1]].movedim(1, -1)
                corner = [self.factor * region[0][0], self.factor * region[1][0], region[2][0] if axis >= 0 else 0]
                parts[f"{key}_region"] = (part, corner)
            for name, (part, corner) in parts.items():
                steps = [1 / self.factor, 1 / self.factor, 1.0]
                if axis >= 0:
                    part = part.movedim(-1, axis + 1)
                    corner, steps = (in_own_order(x, axis) for x in (corner, steps))
                affine = grid_affine(image.affine, steps)
                affine[:3, 3] += affine[:3, :3] @ corner
                out[name] = like_image(part.contiguous(), image, torch.as_tensor(affine))
        return out


class RestoreRegiond(MapTransform):
    """Cuts a picture to the region that is scored, and brings it back to the units of its scan.

    Args:
        keys: predictions ``(1, 4h, 4w)`` in the units of the standardised ``ref_key``.
        ref_key: the standardised picture ``(1, h, w)`` with that region in its meta data.
    """

    def __init__(self, keys: KeysCollection, ref_key: str = "image") -> None:
        super().__init__(keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with the scored regions ``(1, 4h, 4w)`` of its predictions in the scan's units."""
        out = dict(data)
        mean, spread = (float(torch.as_tensor(out[self.ref_key].meta[name])) for name in (MEAN, SPREAD))
        for key in self.key_iterator(out):
            region = torch.as_tensor(out[self.ref_key].meta[SCORED]).tolist()
            out[key] = cut(torch.as_tensor(out[key]).as_subclass(torch.Tensor), region, FACTOR) * spread + mean
        return out


class PlainPictured(MapTransform):
    """A picture ``(1, W, H)`` as integers ``(W, H)``, as MONAI Label's writer of PNG wants it; stands behind the saver.

    Volumes stay. "result_extension", MONAI Label's key for the result's kind, becomes that of a picture.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its pictures as integers."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            if not is_picture(str(image.meta["filename_or_obj"])):
                continue
            out[key] = picture_pixels(image.as_tensor()[0].cpu().numpy(), image.meta.get("mode", "L"))
            out["result_extension"] = ".png"
        return out


def picture_pixels(values: np.ndarray, mode: str) -> np.ndarray:
    """Values rounded to a PNG's integers of 8 bits, or of 16 where the input's Pillow mode had more."""
    kind = np.uint16 if mode.startswith("I") else np.uint8
    return np.rint(values.clip(0, np.iinfo(kind).max)).astype(kind)
