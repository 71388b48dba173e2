# SPDX-License-Identifier: Apache-2.0
"""Training volumes in memory or on disk, and held-out cases with what simple methods make of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset, pickle_hashing
from monai.data import Dataset as UncachedDataset
from monai.transforms import Compose
from torch.utils.data import Dataset

from common.console import say
from common.inputs import InputError, root_cause
from common.readers import LoadScan
from common.transforms.geometry import middle_window

from .landmarks import Landmarks
from .metrics import scores_of
from .transforms import PackCased

__all__ = ["HeldOutCases", "case_volumes", "linear_regression", "on_disk", "regression_of", "resident_volumes"]

CHANNELS = 6  # three inputs, truth, tumour, brain
HEADROOM = 0.5  # share of memory_gb that training volumes may take
RESIDENT = 8  # volumes in memory where the others lie on disk


def on_disk(entries: Sequence[dict[str, Any]], memory_gb: float) -> bool:
    """Whether decoded cases would take more than half of the memory, told from the first one's header."""
    voxels = np.prod(_shape_of(entries[0]["image"]), dtype=np.float64) if entries else 0
    return len(entries) * voxels * CHANNELS * 2 > HEADROOM * float(memory_gb) * 2**30


def _shape_of(path: str) -> tuple[int, ...]:
    if path.lower().endswith((".nii", ".nii.gz")):
        return nib.load(path).shape[:3]
    try:
        return tuple(LoadScan()(path).shape[1:])
    except Exception as error:
        raise InputError(f"cannot be read ({root_cause(error)})", path) from error


def hash_of_files(entry: Mapping[str, Any]) -> bytes:
    """Name of an entry's file in a cache: another one when one of its images has been changed since."""
    paths = [value for value in entry.values() if isinstance(value, str) and os.path.exists(value)]
    files = [file for path in paths for file in ([path] if os.path.isfile(path) else sorted(Path(path).iterdir()))]
    facts = [(str(file), os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files]
    return pickle_hashing({**entry, "files": facts})


def case_volumes(
    data: Sequence[dict[str, Any]],
    transform: Callable,
    memory_gb: float,
    cache_dir: str | Path | None,
    progress: bool = False,
) -> Dataset:
    """Decoded cases: in memory where they fit, else each in a file below ``cache_dir``, made on first use.

    A file is made anew when an image of the case has changed.

    Args:
        data: entries of ``data.training_cases``.
        transform: loads an entry.
        memory_gb: memory of the process, see ``on_disk``.
        cache_dir: a folder for this target and these landmarks alone; None decodes a case whenever it is asked for,
            where each is used once.
        progress: show MONAI's bar while cases are decoded into memory.
    """
    if not on_disk(data, memory_gb):
        return CacheDataset(data=data, transform=transform, num_workers=0, progress=progress)
    if cache_dir is None:
        return UncachedDataset(data=data, transform=transform)
    say(f"{len(data)} cases do not fit in half of {memory_gb:g} GiB: they are decoded once into {cache_dir}")
    return PersistentDataset(data=data, transform=transform, cache_dir=cache_dir, hash_func=hash_of_files)


def resident_volumes(volumes: Dataset) -> int | None:
    """How many cases a sampler holds: None where the dataset holds them itself."""
    return RESIDENT if isinstance(volumes, PersistentDataset) else None


def linear_regression(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The inputs' best voxel-wise linear combination, fitted to this very case in its brain: more than a user has.

    Args:
        image: inputs ``(C, H, W, D)``.
        label: ``(3, H, W, D)``: truth, tumour, brain.

    Returns:
        ``(1, H, W, D)``, at least 0, and 0 outside the brain.
    """
    brain = label[2] > 0.5
    values = _with_ones(image, brain)
    made = torch.zeros_like(label[:1])
    made[0, brain] = (_solved(*_normal_equations(values, label[0][brain])) @ values).clamp_min(0).to(made.dtype)
    return made


def regression_of(volumes: Iterable[dict[str, Any]]) -> list[float]:
    """Weights of the inputs and a bias that fit the truth best over the brains of training volumes."""
    left, right = 0.0, 0.0
    for item in volumes:
        image, label = (torch.as_tensor(item[key]).as_subclass(torch.Tensor).float() for key in ("image", "label"))
        brain = label[2] > 0.5
        matrix, vector = _normal_equations(_with_ones(image, brain), label[0][brain])
        left, right = left + matrix, right + vector
    return _solved(left, right).tolist()


def _with_ones(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.cat([image[:, mask], image.new_ones(1, int(mask.sum()))]).double()


def _normal_equations(values: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values @ values.T, values @ truth.double()


def _solved(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    ridge = 1e-9 * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)  # where two inputs are one
    return torch.linalg.solve(matrix + ridge, vector)


class HeldOutCases(Dataset):
    """Held-out cases: "image", "label" (truth, tumour, brain), "baseline", "regression", "case" and "setting".

    "baseline" is the input sequence, in standardised units, whose SSIM in healthy brain is best; "regression" the
    linear combination of the three inputs that fits the case best. Both are chosen knowing the truth.

    Args:
        data: entries of ``data.training_cases``.
        transform: loads an entry.
        landmarks: of the weights.
        slices: middle axial slices to take, None for all.
        memory_gb, cache_dir: see ``case_volumes``.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable,
        landmarks: Landmarks,
        slices: int | None,
        memory_gb: float,
        cache_dir: str | Path | None,
    ) -> None:
        self.data, self.landmarks, self.slices = list(data), landmarks, slices
        self.volumes = case_volumes(self.data, transform, memory_gb, cache_dir)
        self._best: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.volumes[index]
        image, label = (torch.as_tensor(item[key]).as_subclass(torch.Tensor).float() for key in ("image", "label"))
        window = middle_window(label[2] > 0.5, None if self.slices is None else [*image.shape[1:3], self.slices])
        image, label = (x[(slice(None), *window)] for x in (image, label))
        single = image * (item["scale"] / self.landmarks.scale)
        if index not in self._best:
            scores = [scores_of(channel, label, "ssim") for channel in single]
            self._best[index] = int(np.nanargmax(scores)) if np.isfinite(scores).any() else 0
        return {
            "image": image,
            "label": label,
            "baseline": single[self._best[index]][None],
            "regression": linear_regression(image, label),
            "case": item["case"],
            "setting": self.landmarks.target,
        }

    @contextmanager
    def standardised_by(self, landmarks: Landmarks) -> Iterator[None]:
        """Meanwhile gives the cases in the scale of other landmarks, decoded anew each time and kept nowhere."""
        own = self.landmarks, self.volumes, self._best
        steps = self.volumes.transform.transforms
        steps = [PackCased(landmarks.target, landmarks) if isinstance(step, PackCased) else step for step in steps]
        self.landmarks, self.volumes, self._best = landmarks, UncachedDataset(self.data, Compose(steps)), {}
        try:
            yield
        finally:
            self.landmarks, self.volumes, self._best = own
