# SPDX-License-Identifier: Apache-2.0
"""Held-out volumes at every scale that is tested."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor

from common.data.datasets import guide_paths, held_out_brain
from common.data.sample_data import sample_brains
from common.engine.domain import Measures, measure, variants
from common.errors import InputError
from common.io.files import replacing
from common.io.find import stem_of
from common.io.readers import LoadScan
from common.samplers import SliceProfile
from common.transforms.degradation import degrade
from common.transforms.geometry import extent_of, grid_affine, middle_window
from common.transforms.intensity import foreground_mask
from common.utils.images import like_image
from common.utils.values import triple, value

__all__ = ["DegradedVolumes", "measured", "parse_scales", "sample_scan", "setting_name"]


def parse_scales(scales: Any) -> list[tuple[float, float, float]]:
    """Scales from a key: a list of triples, or a single triple.

    Raises:
        InputError: a scale is below 0.25 on an axis, or on no axis above 1.
    """
    plain = value(scales)
    if isinstance(plain, list | tuple) and plain and not isinstance(plain[0], list | tuple):
        plain = [plain]
    parsed = []
    for given in plain or []:
        scale = triple(given, "a scale")
        if scale is None:
            raise InputError(f"a scale must name factors, not null; got {scales!r}")
        if min(scale) < 0.25 or max(scale) <= 1:
            raise InputError(f"scale {list(scale)}: one factor must be above 1, and none below 0.25")
        parsed.append(scale)
    if not parsed:
        raise InputError("scales needs at least one entry, such as [[2,2,2]]")
    return parsed


def sample_scan() -> str:
    """Path of a made scan with 4 mm slices, from the sample brain that training holds out; made on first use."""
    brains = sample_brains()
    case = held_out_brain(brains)
    target = brains.with_name(f"{brains.name}-{case.name}-thick-slices") / "sample-t1n-4mm.nii.gz"
    if not target.is_file():
        truth = nib.Nifti1Image.from_filename(case / f"{case.name}-t1n.nii.gz")
        low, _ = degrade(torch.as_tensor(truth.get_fdata(dtype=np.float32)), (1, 1, 4))
        scan = nib.Nifti1Image(low.numpy(), grid_affine(truth.affine, (1, 1, 4)))
        scan.header["descrip"] = b"synthetic, not for diagnosis"
        with replacing(target) as partial:
            nib.save(scan, partial)
    return str(target)


def measured(entry: Mapping[str, Any], degradation: SliceProfile) -> Iterator[Measures]:
    """Measures of the low-resolution scans that a training volume becomes, at its finest and coarsest scales.

    Args:
        entry: with the volume's path as "image".
        degradation: has the scales and the slice profile, see ``common.engine.domain``.
    """
    scan = LoadScan()(entry["image"])
    scales = degradation.scales
    lows = []
    for scale in dict.fromkeys([min(scales, key=math.prod), max(scales, key=max), max(scales, key=math.prod)]):
        low, _ = degrade(scan.as_tensor().float(), scale, degradation.sigma, degradation.thickness)
        lows.append(like_image(low, scan, torch.as_tensor(grid_affine(scan.affine, scale))))
    yield variants(map(measure, lows))


def setting_name(scale: Sequence[float]) -> str:
    """Factors as a short text: "2x2.5x2" for (2, 2.5, 2)."""
    return "x".join(f"{factor:g}" for factor in scale)


def _case_names(paths: Sequence[str]) -> list[str]:
    """Names that tell volumes apart, with their folder where subjects' files have equal names."""
    stems = [stem_of(path) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{os.path.basename(os.path.dirname(path))}_{stem}" for path, stem in zip(paths, stems, strict=True)]


def _mask_of(image: str, name: str, sequence: str | None) -> str | None:
    """The mask beside an image, or None."""
    try:
        return guide_paths(image, [name], sequence)[0]
    except InputError:
        return None


def _read_mask(path: str | None, image: MetaTensor) -> torch.Tensor:
    """A mask ``(1, H, W, D)`` of 0 and 1 on an image's grid; 0 without a file."""
    if path is None:
        return torch.zeros_like(image.as_tensor()[:1])
    mask = LoadScan()(path)
    if mask.shape[1:] != image.shape[1:] or not torch.allclose(mask.affine, image.affine.to(mask.affine), atol=1e-3):
        raise InputError("the lesion's mask lies on another grid than its volume", path)
    return (mask.as_tensor() > 0).to(image.as_tensor())


class DegradedVolumes(CacheDataset):
    """Each volume at each scale: the degraded image as "image", the truth as "label".

    Items also carry "acquired", the low-resolution volume ``(1, h, w, d)`` with its affine, "low", its voxels blown up
    to the truth's grid for pictures, "affine", "case" and "setting"; where a volume has a lesion's mask, all carry
    "lesion" ``(1, H, W, D)``, 1 inside of theirs.

    Args:
        data: entries as for any MONAI dataset, with the high-resolution volume's path as "image".
        transform: loads an entry; gives "image" ``(1 + guides, H, W, D)`` with background 0.
        scales: factors per axis, see ``parse_scales``.
        sigma, thickness: the slice profile, see ``common.transforms.degradation.profile_sigma``.
        crop: edge length of the middle part of the foreground to take, as one number or three; None for all of it.
            Volumes are degraded whole, then cut.
        mask_name: takes the place of the sequence in the name of a lesion's mask beside the volume; None for no masks.
        sequence: of the volumes' names, as for ``common.data.datasets.scan_entries``.
        progress: show MONAI's bar while volumes are loaded.

    Raises:
        InputError: when an item is taken, a mask on another grid than its volume.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable,
        scales: Any,
        sigma: float | None = None,
        thickness: float = 1.0,
        crop: Any = None,
        mask_name: str | None = None,
        sequence: str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=progress)
        self.scales = parse_scales(scales)
        self.sigma = sigma
        self.thickness = thickness
        self.crop = triple(crop, "crop")
        self.cases = _case_names([str(entry["image"]) for entry in data])
        self.masks: list[str | None] = (
            [_mask_of(str(e["image"]), mask_name, sequence) for e in data] if mask_name else []
        )

    @property
    def lesion(self) -> str | None:
        """Key of the masks in items, None where no volume has one."""
        return "lesion" if any(self.masks) else None

    def __len__(self) -> int:
        return len(self.data) * len(self.scales)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # MONAI's takes slices, too
        image = super().__getitem__(index // len(self.scales))["image"]
        scale = self.scales[index % len(self.scales)]
        volume = image.as_tensor()
        low, interpolated = degrade(volume[:1], scale, self.sigma, self.thickness)
        window = (slice(None), *middle_window(foreground_mask(volume[0]), self.crop))
        affine = image.affine.clone()
        affine[:3, 3] += affine[:3, :3] @ affine.new_tensor([part.start for part in window[1:]])
        shown, blown_up = torch.cat([interpolated, volume[1:]]), low
        for axis, factor in enumerate(scale):
            nearest = (torch.arange(volume.shape[axis + 1], device=low.device) + 0.5).div(factor).long()
            blown_up = blown_up.index_select(axis + 1, nearest.clamp_max(low.shape[axis + 1] - 1))
        lesion = {}
        if self.lesion:
            lesion["lesion"] = _read_mask(self.masks[index // len(self.scales)], image)[window].contiguous()
        return {
            **lesion,
            "image": like_image(shown[window].contiguous(), image, affine),
            "acquired": like_image(low, image, torch.as_tensor(grid_affine(image.affine, scale))),
            "label": volume[:1][window].contiguous(),
            "low": blown_up[window].contiguous(),
            "affine": affine,
            "case": self.cases[index // len(self.scales)],
            "setting": setting_name(scale),
            **extent_of(self.crop),
        }

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self.data)} volumes at {', '.join(setting_name(scale) for scale in self.scales)}"
