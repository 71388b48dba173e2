# SPDX-License-Identifier: Apache-2.0
"""Training volumes in memory or on disk, and held-out cases with what simple methods make of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import CacheDataset, PersistentDataset, pickle_hashing
from monai.data import Dataset as UncachedDataset
from monai.transforms import Compose
from torch import nn
from torch.utils.data import Dataset

from common.data.datasets import check_entries
from common.errors import InputError
from common.io.inputs import root_cause
from common.io.readers import LoadScan
from common.transforms.geometry import extent_of, middle_window
from common.utils.console import say

from .data import SEQUENCES, inputs_of
from .metrics import scores_of
from .regression import linear_regression
from .standardisation import Standardisation
from .transforms import PackCased

__all__ = ["HeldOutCases", "TrainingCases", "decoded_cases", "on_disk"]

CHANNELS = 6  # three inputs, truth, tumour, brain
HEADROOM = 0.5  # share of memory_gb that training volumes may take
RESIDENT = 8  # volumes in memory where the others lie on disk
FORM = 2  # raise when ``CompactCased`` or ``AugmentCased`` give other numbers: old caches are then left aside


def on_disk(entries: Sequence[Mapping[str, Any]], memory_gb: float) -> bool:
    """Whether standardised cases would take more than half of the memory, told from the first one's header."""
    voxels = np.prod(_shape_of(entries[0]["image"]), dtype=np.float64) if entries else 0
    return bool(len(entries) * voxels * CHANNELS * 2 > HEADROOM * memory_gb * 2**30)


def _shape_of(path: str) -> tuple[int, ...]:
    if path.lower().endswith((".nii", ".nii.gz")):
        image = nib.load(path)
        assert isinstance(image, nib.Nifti1Pair)
        return image.shape[:3]
    try:
        return tuple(LoadScan()(path).shape[1:])
    except Exception as error:
        raise InputError(f"cannot be read ({root_cause(error)})", path) from error


def hash_of_case(entry: Mapping[str, Any]) -> bytes:
    """Name of a decoded case in a cache: another one when an image of it has changed, or for another variant."""
    paths = [entry[name] for name in (*SEQUENCES, "seg") if name in entry]
    files = [file for path in paths for file in ([path] if os.path.isfile(path) else sorted(Path(path).iterdir()))]
    facts = [(os.path.realpath(file), os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files]
    return pickle_hashing([FORM, facts, *(entry.get(key) for key in ("case", "variant", "seed"))])


def decoded_cases(
    data: Sequence[dict[str, Any]], transform: Callable, memory_gb: float, cache_dir: str | Path | None
) -> Dataset:
    """Cases as ``transforms.CompactCased`` keeps them: in memory where they fit, else each in a file made on first use.

    Args:
        data: entries of ``data.training_cases``.
        transform: loads an entry.
        memory_gb: memory of the process, see ``on_disk``.
        cache_dir: folder of the files, which all targets and runs may share; None decodes a case whenever it is asked
            for, where each is used once.
    """
    if not on_disk(data, memory_gb):
        return CacheDataset(data=data, transform=transform, num_workers=0, progress=len(data) > 3)
    if cache_dir is None:
        return UncachedDataset(data=data, transform=transform)
    say(f"{len(data)} cases do not fit in half of {memory_gb:g} GiB: they are decoded once into {cache_dir}")
    return PersistentDataset(data=data, transform=transform, cache_dir=cache_dir, hash_func=hash_of_case)


def _with_part(item: Mapping[Hashable, Any], entry: Mapping[str, Any]) -> dict[Hashable, Any]:
    return {**item, "part": entry.get("part", "whole")}  # no matter of the cache: both parts come of one volume


class TrainingCases(Dataset):
    """Training cases for a target, see ``transforms.PackCased``: in memory, or decoded in files.

    Args:
        data, transform, memory_gb, cache_dir: see ``decoded_cases``.
        standardisation: of the weights.

    Raises:
        InputError: entries without all four sequences, such as those of MONAI Label.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable,
        standardisation: Standardisation,
        memory_gb: float,
        cache_dir: str | Path | None,
    ) -> None:
        check_entries(data, data, SEQUENCES)
        self.data, self.pack = list(data), PackCased(standardisation)
        self.resident = RESIDENT if on_disk(data, memory_gb) else None  # cases that a sampler should hold itself
        if self.resident is None:
            transform = Compose([transform, self.pack]).flatten()
        self.cases = decoded_cases(self.data, transform, memory_gb, cache_dir)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[Hashable, Any]:
        item = self.cases[index]
        return item if self.resident is None else self.pack(_with_part(item, self.data[index]))


class HeldOutCases(Dataset):
    """Held-out cases: "image", "label" (truth, tumour, brain), "seg", "baseline", "regression", "case" and "setting".

    "baseline" is the input sequence, in standardised units, whose SSIM in healthy brain is best; "regression" the
    linear combination of the three inputs that fits the case best. Both are chosen knowing the truth.

    Args:
        data, transform, memory_gb, cache_dir: see ``decoded_cases``.
        network: the generator that is judged; cases are standardised as the weights want it that it holds by then.
        target: the sequence to make.
        slices: middle axial slices to take, None for all.
        whole: give the grid of the case's files, not the box of the brain alone.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable,
        network: nn.Module,
        target: str,
        slices: int | None,
        memory_gb: float,
        cache_dir: str | Path | None,
        whole: bool = False,
    ) -> None:
        self.data, self.network, self.target, self.slices = list(data), network, target, slices
        self.whole = whole
        self.decoded = decoded_cases(self.data, transform, memory_gb, cache_dir)
        self._best: dict[tuple[int, str], int] = {}

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self.data)} case(s), {self.target} of {', '.join(inputs_of(self.target))}"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        standardisation = Standardisation.of(self.network)
        if standardisation.target != self.target:
            raise InputError(f"the weights make {standardisation.target}, not {self.target}")
        item = PackCased(standardisation, self.whole, labels=True)(_with_part(self.decoded[index], self.data[index]))
        image, label, seg = (item[key].float() for key in ("image", "label", "seg"))
        window = middle_window(label[2] > 0.5, None if self.slices is None else [*image.shape[1:3], self.slices])
        image, label, seg = (x[(slice(None), *window)] for x in (image, label, seg))
        single = image * (item["scale"] / standardisation.scale)
        known = (index, standardisation.digest)
        if known not in self._best:
            scores = [scores_of(channel, label, "ssim") for channel in single]
            self._best[known] = int(np.nanargmax(scores)) if np.isfinite(scores).any() else 0
        return {
            "image": image,
            "label": label,
            "seg": seg,
            "baseline": single[self._best[known]][None],
            "regression": linear_regression(image, label),
            "case": item["case"],
            "setting": self.target,
            **extent_of([self.slices] if self.slices else None, "slices"),
        }
