# SPDX-License-Identifier: Apache-2.0
"""Grids: their spacing, other spacings of the same field of view, and other images brought onto them."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample

from common.errors import InputError, one_line
from common.io.inputs import root_cause
from common.io.readers import LoadScan
from common.transforms.intensity import ScaleIntensityRobustd
from common.utils.images import as_tensor, like_image

__all__ = ["AddGuidesd", "better_shift", "coverage", "extent_of", "grid_affine", "middle_window", "spacing_of"]

logger = logging.getLogger(__name__)

LEAST_COVERAGE = 0.5  # share of the target's field of view that a guide must show


def spacing_of(affine: Any) -> np.ndarray:
    """Voxel edge lengths in mm of an affine.

    Example:
        >>> spacing_of(np.diag([0.5, 0.5, 3, 1]))
        array([0.5, 0.5, 3. ])
    """
    return np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)


def grid_affine(affine: Any, steps: Sequence[float]) -> np.ndarray:
    """Affine of a grid with another spacing whose field of view starts at the same outer corner.

    Args:
        affine: 4x4, voxel indices to mm.
        steps: new spacing in present voxels, per axis.

    Example:
        >>> grid_affine(np.eye(4), [1, 1, 2])[2]  # the first of the thicker slices lies half a voxel further in
        array([0. , 0. , 2. , 0.5])
    """
    scale = np.diag([*steps, 1.0])
    scale[:3, 3] = [(step - 1) / 2 for step in steps]
    return np.asarray(affine, dtype=np.float64) @ scale


def coverage(affine: Any, shape: Sequence[int], target_affine: Any, target_shape: Sequence[int]) -> float:
    """Share of a target grid's field of view that lies inside another grid's, on a coarse lattice of points.

    Example:
        >>> coverage(np.eye(4), (20, 20, 10), np.eye(4), (20, 20, 20))
        0.5
    """
    ticks = np.meshgrid(*[np.linspace(0, n - 1, 12) for n in target_shape], indexing="ij")
    lattice = np.stack(ticks, -1).reshape(-1, 3)
    world = lattice @ np.asarray(target_affine)[:3, :3].T + np.asarray(target_affine)[:3, 3]
    inverse = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    voxels = world @ inverse[:3, :3].T + inverse[:3, 3]
    return float(np.all((voxels > -1) & (voxels < np.asarray(shape)), axis=1).mean())


def middle_window(mask: torch.Tensor, crop: Sequence[float] | None) -> list[slice]:
    """The middle part of a mask's bounding box.

    Args:
        mask: ``(H, W, D)``, not empty.
        crop: edge lengths in voxels, cut to the volume's; None for the whole volume.

    Example:
        >>> mask = torch.zeros(8, 8, 8)
        >>> mask[2:6, 2:6, 2:6] = 1
        >>> [(side.start, side.stop) for side in middle_window(mask, [2, 4, 100])]
        [(3, 5), (2, 6), (0, 8)]
    """
    if crop is None:
        return [slice(0, n) for n in mask.shape]
    inside = torch.nonzero(mask)
    middle = (inside.amin(dim=0) + inside.amax(dim=0) + 1) // 2
    window = []
    for centre, edge, length in zip(middle.tolist(), crop, mask.shape, strict=True):
        size = min(int(edge), length)
        start = min(max(centre - size // 2, 0), length - size)
        window.append(slice(start, start + size))
    return window


def extent_of(crop: Sequence[float] | None, unit: str = "") -> dict[str, str]:
    """What tells that scores are of a part: ``{"extent": "middle 64x64x32"}`` for an item, nothing of a whole one.

    Args:
        crop: edge lengths, as for ``middle_window``.
        unit: what is counted, where it is neither voxels nor pixels.
    """
    text = "x".join(f"{edge:g}" for edge in crop or ())
    return {"extent": f"middle {text} {unit}".rstrip()} if crop else {}


def better_shift(
    image: np.ndarray, guide: np.ndarray, spacing: Sequence[float], reach: float = 4.0
) -> tuple[float, ...] | None:
    """A small shift along one axis after which a guide tells more of an image; None where they lie well as they are.

    Measured is the mutual information of both on a grid of about 2 mm, 32 grey levels each, inside the image's
    foreground. Two sequences of one registered session have its maximum at no shift.

    Args:
        image: ``(H, W, D)``, background 0.
        guide: on the same grid, background 0.
        spacing: of the grid in mm.
        reach: length of the shifts in mm.

    Returns:
        The shift of the guide per axis in mm, where it raises the mutual information by more than a tenth.

    Example:
        >>> brain = np.pad(np.random.default_rng(0).random((8, 8, 8)).repeat(3, 0).repeat(3, 1).repeat(3, 2) + 1, 6)
        >>> better_shift(brain, 4 - brain * (brain > 0), (2, 2, 2)) is None
        True
        >>> better_shift(brain, np.roll(brain, 2, axis=1), (2, 2, 2))
        (0.0, -4.0, 0.0)
    """
    strides = tuple(slice(None, None, max(1, round(2 / edge))) for edge in spacing)
    image, guide = image[strides], guide[strides]
    steps = [max(1, round(reach / (edge * part.step))) for edge, part in zip(spacing, strides, strict=True)]
    foreground = image > 0
    levels = (
        np.digitize(image, np.quantile(image[foreground], np.linspace(0, 1, 33)[1:-1])) if foreground.any() else image
    )
    if min(image.shape) < 8 or np.ptp(levels) == 0 or np.ptp(guide) == 0:
        return None
    other = np.digitize(guide, np.quantile(guide, np.linspace(0, 1, 33)[1:-1]))
    inner = tuple(slice(step, -step) for step in steps)  # what every shift leaves on the grid

    def information(moved: np.ndarray) -> float:
        counts = np.histogram2d(levels[inner][foreground[inner]], moved[inner][foreground[inner]], bins=32)[0]
        joint = counts / max(counts.sum(), 1)
        product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        return float((joint[joint > 0] * np.log(joint[joint > 0] / product[joint > 0])).sum())

    as_given = information(other)
    shifts = [(axis, sign * steps[axis]) for axis in range(3) for sign in (-1, 1)]
    told = [information(np.roll(other, step, axis)) for axis, step in shifts]
    if max(told) <= 1.1 * as_given + 1e-3:
        return None
    axis, step = shifts[int(np.argmax(told))]
    found = [0.0, 0.0, 0.0]
    found[axis] = float(step * spacing[axis] * strides[axis].step)
    return tuple(found)


class AddGuidesd(MapTransform):
    """Appends guide sequences as channels, brought onto the image's grid through the affines (linear).

    Guides come from the files that the entry lists under ``guide_key``; each is scaled to background 0 and the
    foreground's 99.9 percentile 1. An entry without guides passes, unless some are expected.

    Args:
        keys: images ``(1, H, W, D)`` with affine.
        guides: number of guides the network takes.
        guide_key: key of the list of files.

    Raises:
        InputError: another number of guides, or a guide that shows less than half of the image's field of view.

    Example:
        >>> image = MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.eye(4))
        >>> AddGuidesd("image", guides=0)({"image": image})["image"].shape  # an entry without guides passes
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, keys: KeysCollection, guides: int = 0, guide_key: str = "guide") -> None:
        super().__init__(keys)
        self.guides = guides
        self.guide_key = guide_key
        self.load = LoadScan()
        self.resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float64)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The entry with its images as ``(1 + guides, H, W, D)``."""
        out = dict(data)
        paths = out.get(self.guide_key) or []
        for key in self.key_iterator(out):
            image = out[key]
            if len(paths) != self.guides:
                name = image.meta.get("filename_or_obj", key)
                raise InputError(f"the network takes {self.guides} guide sequence(s), given are {len(paths)}", name)
            channels = [self._guide(path, image) for path in paths]
            if channels:
                stacked = torch.cat([as_tensor(image), *channels])
                out[key] = like_image(stacked, image)
        return out

    def _guide(self, path: str, image: MetaTensor) -> torch.Tensor:
        try:
            guide = self.load(path)
        except Exception as error:
            raise InputError(f"the guide cannot be read ({one_line(root_cause(error))})", path) from error
        if guide.ndim != 4 or guide.shape[0] != 1:
            raise InputError(f"a guide must be one 3D volume, this is {tuple(guide.shape)}", path)
        if not torch.isfinite(as_tensor(guide)).all():
            raise InputError("the guide has NaN or infinite voxels", path)
        try:
            share = coverage(guide.affine, guide.shape[1:], image.affine, image.shape[1:])
        except np.linalg.LinAlgError as error:
            raise InputError("the guide's affine cannot be inverted", path) from error
        if share < LEAST_COVERAGE:
            source = image.meta.get("filename_or_obj", "the image")
            raise InputError(
                f"shows {share:.0%} of the field of view of {source}: cannot be brought onto its grid", path
            )
        guide = ScaleIntensityRobustd("guide")({"guide": guide})["guide"]
        moved = as_tensor(self.resample(guide, dst_affine=image.affine, spatial_size=image.shape[1:]))
        fixed = as_tensor(image)[0].cpu().numpy()
        shift = better_shift(fixed, moved[0].cpu().numpy(), spacing_of(image.affine).tolist())
        if shift is not None:
            logger.warning(
                "%s: fits %s better when shifted by %s mm; register the two first, as docs/registration.md shows",
                path, image.meta.get("filename_or_obj", "the image"), " x ".join(f"{mm:.1f}" for mm in shift),
            )  # fmt: skip
        return moved.to(image.device, torch.float32)
