# SPDX-License-Identifier: Apache-2.0
"""Crops of two probes' frames that do not belong together, and batches of different sizes in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from common.console import say
from common.inputs import InputError

__all__ = ["StepBatches", "UnpairedCrops"]

COVERED = 0.8  # share of a crop that is ultrasound


class UnpairedCrops(Dataset):
    """Crops of both probes, each by itself: "image" of low, "label" of high (the paper, section III A).

    A moving window with 50 % overlap goes over the region of every frame; windows with less than 80 % of ultrasound are
    left out. All windows are shown once before one is shown again, in an order that follows from (seed, pass) alone, so
    a resumed run repeats it. Files in several sub-folders take turns, a crop from each, whatever they hold, so that
    few frames of one scanner are not drowned by many of another. Call ``set_epoch`` before each epoch.

    Args:
        low: items ``{"image": (N, H, W)}`` with their region as meta data, see ``LoadFramesd``.
        high: the reference probe's, or None: then "label" is the image itself, for the generator's first training.
        size: edge of the low crops in pixels.
        high_size: edge of the high crops; None for the same.
        samples: per epoch.
        seed: start of all randomness.
        jitter: move each window by up to a quarter of its size (the random crops of the first two trainings).

    Raises:
        InputError: every picture of a probe is smaller than the crop.
    """

    def __init__(
        self,
        low: Sequence[Mapping[str, Any]],
        high: Sequence[Mapping[str, Any]] | None,
        size: int,
        samples: int,
        high_size: int | None = None,
        seed: int = 0,
        jitter: bool = False,
    ) -> None:
        self.sides = {"image": (low, int(size))}
        if high is not None:
            self.sides["label"] = (high, int(high_size or size))
        self.windows = {key: _windows(*side) for key, side in self.sides.items()}
        self.groups = {key: _by_folder(self.sides[key][0], windows) for key, windows in self.windows.items()}
        self.samples, self.seed, self.jitter, self.epoch = int(samples), seed, jitter, 1

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 1, whose samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Crops ``(1, size, size)``."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        position = (self.epoch - 1) * self.samples + index
        item = {key: self._crop(key, number, position) for number, key in enumerate(self.sides)}
        return item if "label" in item else {**item, "label": item["image"]}

    def _crop(self, key: str, number: int, position: int) -> torch.Tensor:
        (frames, size), groups = self.sides[key], self.groups[key]
        windows = groups[position % len(groups)]
        turn, place = divmod(position // len(groups), len(windows))
        order = np.random.default_rng([self.seed, number, turn]).permutation(len(windows))
        file, frame, top, left = windows[order[place]]
        image = frames[file]["image"].as_tensor()[frame]
        if self.jitter:
            moves = np.random.default_rng([self.seed, number, 1, position]).integers(-(size // 4), size // 4 + 1, 2)
            corner = zip((top, left), moves, image.shape, strict=True)
            top, left = (int(np.clip(c + move, 0, n - size)) for c, move, n in corner)
        return image[None, top : top + size, left : left + size].clone()


def _by_folder(frames: Sequence[Mapping[str, Any]], windows: np.ndarray) -> list[np.ndarray]:
    """The windows of each folder with files."""
    folders = [os.path.dirname(str(item["image"].meta["filename_or_obj"])) for item in frames]
    own = np.array([folders[number] for number in windows[:, 0]])
    return [windows[own == folder] for folder in sorted(set(own))]


def _windows(frames: Sequence[Mapping[str, Any]], size: int) -> np.ndarray:
    """Rows of file, frame, top and left of all windows of a probe."""
    found, refused = [], []
    for number, item in enumerate(frames):
        image = item["image"]
        region = image.meta["region"].numpy().astype(float)
        area = np.pad(region.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        corners = [
            (top, left)
            for top in _starts(region.shape[0], size)
            for left in _starts(region.shape[1], size)
            if area[top + size, left + size] - area[top, left + size] - area[top + size, left] + area[top, left]
            >= COVERED * size**2
        ]
        if not corners:
            rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
            shown = f"{np.ptp(columns) + 1 if len(columns) else 0} x {np.ptp(rows) + 1 if len(rows) else 0} pixels"
            refused.append(
                (image.meta["filename_or_obj"], f"its ultrasound of {shown} holds no crop of {size} x {size}")
            )
        found += [(number, frame, *corner) for frame in range(len(image)) for corner in corners]
    if not found:
        raise InputError(f"{refused[0][1]}, nor does any other file; give a smaller crop_size", refused[0][0])
    for path, reason in refused:
        say(f"left out {path}: {reason}")
    return np.array(found)


def _starts(length: int, size: int) -> list[int]:
    """First pixels of windows with 50 % overlap; the last ends at the border."""
    last = length - size
    return sorted({*range(0, last + 1, max(1, size // 2)), last}) if last >= 0 else []


class StepBatches(Sampler):
    """Batches of different sizes in turn, such as 20 crops for the discriminator and then 20 times 8.

    Args:
        sampler: gives indices in order.
        sizes: of the batches of one iteration; what does not fill an iteration is left out.
    """

    def __init__(self, sampler: Sampler, sizes: Sequence[int]) -> None:
        self.sampler, self.sizes = sampler, [int(size) for size in sizes]

    def __len__(self) -> int:
        return len(self.sampler) // sum(self.sizes) * len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.sampler)
        start = 0
        for _ in range(len(indices) // sum(self.sizes)):
            for size in self.sizes:
                yield indices[start : start + size]
                start += size
