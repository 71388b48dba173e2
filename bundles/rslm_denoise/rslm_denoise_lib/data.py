# SPDX-License-Identifier: Apache-2.0
"""Held-out volumes at every noise level that is tested."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset

from common.data.datasets import entries_to_evaluate, held_out_brain, scan_entries, split_entries
from common.data.sample_data import sample_brains
from common.engine.domain import estimate_level
from common.errors import InputError
from common.io.files import replacing
from common.io.find import stem_of
from common.io.inputs import check_headers, find_scans
from common.io.readers import grid_of
from common.transforms.geometry import extent_of, middle_window
from common.transforms.intensity import robust_range
from common.utils.values import triple

from .classical import best_gaussian, block_matching, non_local_means
from .noise import Noise, parse_levels

__all__ = [
    "COMPARED",
    "NoisyVolumes",
    "columns",
    "evaluation_entries",
    "sample_scan",
    "training_entries",
    "with_coarser",
    "with_noisy",
]

COMPARED = ("gaussian", "nlm", "bm4d")
SAME_GRID = 1e-3  # mm: largest difference of affines that counts as the same grid
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
        noisy = Noise()((block - low) / (high - low), SAMPLE_LEVEL, seed=0) * (high - low) + low
        affine = truth.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [side.start for side in window]
        scan = nib.Nifti1Image(noisy.numpy(), affine)
        scan.header["descrip"] = b"synthetic, not for diagnosis"
        with replacing(target) as partial:
            nib.save(scan, partial)
    return str(target)


def training_entries(
    dataset_dir: str | None, pattern: str, sequence: str | None, paired: str | None, **split: Any
) -> dict[str, list[dict[str, Any]]]:
    """Scans of a folder, split by subject, each with its noisy scan of ``paired`` where that is given.

    Arguments and errors as for ``common.data.datasets.training_entries`` and ``with_noisy``.
    """
    entries = scan_entries(dataset_dir, pattern, sequence, sample_sequence="t1c")
    return split_entries(with_noisy(entries, dataset_dir, paired), **split)


def evaluation_entries(
    dataset_dir: str | None, pattern: str, sequence: str | None, paired: str | None, **split: Any
) -> dict[str, list[dict[str, Any]]]:
    """Scans to evaluate; arguments and errors as for ``common.data.datasets.evaluation_entries`` and ``with_noisy``."""
    entries = scan_entries(dataset_dir, pattern, sequence, sample_sequence="t1c")
    return entries_to_evaluate(with_noisy(entries, dataset_dir, paired), dataset_dir, **split)


def with_noisy(entries: Sequence[dict[str, Any]], dataset_dir: str | None, paired: str | None) -> list[dict[str, Any]]:
    """Entries with the noisy scan of each clean one as "noisy": real pairs (x, y) of the paper's equation 1.

    A noisy scan lies at its clean one's place below ``paired``, or has its name there and is the only one that does;
    ``.nii`` and ``.nii.gz`` are the same name. Both lie on one grid, in the same units. Entries of noisy scans
    themselves, where ``paired`` lies in ``dataset_dir``, are left out.

    Args:
        entries: of the clean scans.
        dataset_dir: their folder.
        paired: folder of the noisy scans, or one file; None leaves the entries as they are.

    Raises:
        InputError: no clean scans of one's own, or a scan without partner, with several, on another grid, or with
            itself as partner.
    """
    if paired is None:
        return list(entries)
    if dataset_dir is None:
        raise InputError("paired needs dataset_dir, the folder of the clean scans")
    noisy = find_scans(paired)
    known = {os.path.realpath(path) for path in noisy}
    clean = [entry for entry in entries if os.path.realpath(entry["image"]) not in known]
    if not clean:
        raise InputError("all scans of dataset_dir lie in it; it must hold the noisy ones alone", paired)
    return [{**entry, "noisy": _partner(entry["image"], noisy, dataset_dir, paired)} for entry in clean]


def _partner(path: str, noisy: Sequence[str], dataset_dir: str, paired: str) -> str:
    roots = [Path(root).expanduser() for root in (dataset_dir, paired)]
    if all(root.is_file() for root in roots):
        found = list(noisy)
    else:
        found = [one for one in noisy if stem_of(one) == stem_of(path)]
        found = [one for one in found if _place(one, roots[1]) == _place(path, roots[0])] or found
    if not found:
        raise InputError(f"has no noisy scan of the same name under {paired}", path)
    if len(found) > 1:
        raise InputError(f"has several noisy scans of the same name: {', '.join(sorted(found))}", path)
    _, failures = check_headers(found)
    if failures:
        raise InputError(failures[0][1], failures[0][0])
    (shape, affine), (other, place) = grid_of(path), grid_of(found[0])
    if shape[:3] != other[:3] or not np.allclose(affine, place, atol=SAME_GRID):
        sizes = [" x ".join(map(str, size[:3])) for size in (other, shape)]
        raise InputError(f"lies on another grid ({sizes[0]}) than its clean scan {path} ({sizes[1]})", found[0])
    return found[0]


def _place(path: str, root: Path) -> Path:
    """Folder of a file below the root."""
    return Path(os.path.relpath(Path(path).parent, root))


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
    """Each volume at each noise level: with noise as "image", the truth as "label".

    Volumes with a noisy scan of their own, see ``with_noisy``, are there once, with that. Items also carry "case" and
    "setting", the noise's "level" in percent (of pairs estimated, of a map its mean), and what other methods make of
    the noisy image: "gaussian" (smoothing), "nlm" (non-local means), "bm4d". The noise of a volume is the same in every
    validation and every run.

    Args:
        data: entries as for any MONAI dataset, with the volume's path as "image".
        transform: loads an entry; gives "image" ``(2, H, W, D)``, the image and its foreground, or ``(3, H, W, D)``,
            its noisy scan, too.
        levels: noise levels in percent, see ``rslm_denoise_lib.noise.parse_levels``.
        crop: edge length of the middle part of the foreground to take, as one number or three; None for all of it.
        masked: zero the noisy background, as in skull-stripped scans.
        others: names of the other methods to add.
        progress: show MONAI's bar while volumes are loaded.
        noise: what is added.
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
        noise: Noise = Noise(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(data=data, transform=transform, num_workers=0, progress=progress)
        self.paired = any("noisy" in entry for entry in data)
        self.levels = [float("nan")] if self.paired else parse_levels(levels)
        self.crop = triple(crop, "crop")
        self.masked = masked
        self.others = tuple(others)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.data) * len(self.levels)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # MONAI's takes slices, too
        number, level = index // len(self.levels), self.levels[index % len(self.levels)]
        volume = super().__getitem__(number)["image"]
        source = str(volume.meta.get("filename_or_obj", f"volume {number}"))
        volume = volume.as_tensor()
        truth, mask, *given = volume[(slice(None), *middle_window(volume[1] > 0, self.crop))].split(1)
        truth = truth.clamp_min(0).contiguous()
        noisy = given[0].contiguous() if given else self._noisy(truth, level, number)
        if self.masked:
            noisy, truth = noisy * mask, truth * mask
        item = {"image": noisy, "label": truth, "case": stem_of(source), **extent_of(self.crop)}
        item["setting"] = "paired" if self.paired else f"{level:g}%"
        item["level"] = told = estimate_level(noisy) if self.paired else level * self.noise.strength
        methods = {
            "gaussian": lambda: best_gaussian(noisy, truth, mask),
            "nlm": lambda: non_local_means(noisy, told, self.noise.channels),
            "bm4d": lambda: block_matching(noisy, told),
        }
        return item | {name: methods[name]() for name in self.others}

    def _noisy(self, truth: torch.Tensor, level: float, number: int) -> torch.Tensor:
        return self.noise(truth, level, seed=1000 * number + round(10 * level))

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        if self.paired:
            return f"{len(self.data)} volumes with noisy scans of their own"
        levels = ", ".join(f"{level:g} %" for level in self.levels)
        return f"{len(self.data)} volumes, {self.noise.describe()} {levels}"
