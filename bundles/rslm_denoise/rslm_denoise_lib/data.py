# SPDX-License-Identifier: Apache-2.0
"""Held-out volumes at every noise level that is tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset

from common.data.datasets import held_out_brain
from common.data.sample_data import sample_brains
from common.io.files import replacing
from common.io.savers import stem_of
from common.transforms.geometry import middle_window
from common.transforms.intensity import robust_range
from common.utils.values import triple

from .classical import best_gaussian, block_matching, non_local_means
from .noise import add_noise, parse_levels

__all__ = ["COMPARED", "NoisyVolumes", "columns", "sample_scan", "with_coarser"]

COMPARED = ("gaussian", "nlm", "bm4d")
SAMPLE_LEVEL = 5.0  # percent
SAMPLE_SHAPE = (96, 96, 48)


def sample_scan() -> str:
    """Path of a made noisy scan (T1c), from the sample brain that training holds out; made on first use.

    A block of 96 x 96 x 48 voxels, so that two cores need seconds, with 5 % Rician noise, background included.
    """
    brains = sample_brains()
    case = held_out_brain(brains)
    target = brains.with_name(f"{brains.name}-{case.name}-5-percent-noise") / "sample-t1c-noisy.nii.gz"
    if not target.is_file():
        truth = nib.nifti1.load(case / f"{case.name}-t1c.nii.gz")
        image = torch.as_tensor(truth.get_fdata(dtype=np.float32))
        window = middle_window(image > robust_range(image)[0], SAMPLE_SHAPE)
        block = image[tuple(window)]
        low, high = robust_range(block)
        noisy = add_noise((block - low) / (high - low), SAMPLE_LEVEL, seed=0) * (high - low) + low
        affine = truth.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [side.start for side in window]
        scan = nib.Nifti1Image(noisy.numpy(), affine)
        scan.header["descrip"] = b"synthetic, not for diagnosis"
        with replacing(target) as partial:
            nib.save(scan, partial)
    return str(target)


def columns(others: Sequence[str]) -> list[list[str]]:
    """Titles and keys of an evaluation's pictures, with those of other methods."""
    return [["noisy", "image"], *([name, name] for name in others), ["network", "pred"], ["truth", "label"]]


def with_coarser(entries: Sequence[dict[str, Any]], factor: float | None) -> list[dict[str, Any]]:
    """Training entries, each once more with "coarser" for ``rslm_denoise_lib.transforms.Coarsend``.

    Scans that serve as truth have noise of their own; at a coarser resolution they have less of it.

    Args:
        entries: of images.
        factor: how much longer the edges of their voxels become; None for no further entries.
    """
    return [*entries, *([{**entry, "coarser": factor} for entry in entries] if factor else [])]


class NoisyVolumes(CacheDataset):
    """Each volume at each noise level: with Rician noise as "image", the truth as "label".

    Items also carry "case" and "setting", and what other methods make of the noisy image: "gaussian" (smoothing), "nlm"
    (non-local means), "bm4d". The noise of a volume is the same in every validation and every run.

    Args:
        data: entries as for any MONAI dataset, with the volume's path as "image".
        transform: loads an entry; gives "image" ``(2, H, W, D)``, the image and its foreground.
        levels: noise levels in percent, see ``rslm_denoise_lib.noise.parse_levels``.
        crop: edge length of the middle part of the foreground to take, as one number or three; None for all of it.
        masked: zero the noisy background, as in skull-stripped scans.
        others: names of the other methods to add.
        progress: show MONAI's bar while volumes are loaded.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable,
        levels: Any,
        crop: Any = None,
        masked: bool = False,
        others: Sequence[str] = (),
        progress: bool = False,
    ) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=progress)
        self.levels = parse_levels(levels)
        self.crop = triple(crop, "crop")
        self.masked = masked
        self.others = tuple(others)

    def __len__(self) -> int:
        return len(self.data) * len(self.levels)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # MONAI's takes slices, too
        number, level = index // len(self.levels), self.levels[index % len(self.levels)]
        volume = super().__getitem__(number)["image"]
        source = str(volume.meta.get("filename_or_obj", f"volume {number}"))
        volume = volume.as_tensor()
        truth, mask = volume[(slice(None), *middle_window(volume[1] > 0, self.crop))].split(1)
        truth = truth.clamp_min(0).contiguous()
        noisy = add_noise(truth, level, seed=1000 * number + round(10 * level))
        if self.masked:
            noisy, truth = noisy * mask, truth * mask
        item = {"image": noisy, "label": truth, "case": stem_of(source), "setting": f"{level:g}%"}
        methods = {
            "gaussian": lambda: best_gaussian(noisy, truth, mask),
            "nlm": lambda: non_local_means(noisy, level),
            "bm4d": lambda: block_matching(noisy, level),
        }
        return item | {name: methods[name]() for name in self.others}

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self.data)} volumes, noise {', '.join(f'{level:g} %' for level in self.levels)}"
