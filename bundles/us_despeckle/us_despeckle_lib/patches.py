# SPDX-License-Identifier: Apache-2.0
"""Patches of two probes' frames that do not belong together, and batches of different sizes in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler

from common.data.sample_data import is_sample
from common.engine.sharing import batch_shares
from common.errors import InputError
from common.utils.console import say
from common.utils.distributed import sampler

__all__ = ["StepBatches", "StepPatches", "UnpairedPatches"]

COVERED = 0.8  # share of a patch that is ultrasound


class UnpairedPatches(Dataset):
    """Patches of both probes, each by itself: "image" of low, "label" of high (the paper, section III A).

    A moving window with 50 % overlap goes over the region of every frame; windows with less than 80 % of ultrasound are
    left out. All windows are shown once before one is shown again, in an order that follows from (seed, pass) alone, so
    a resumed run repeats it. Files in several sub-folders take turns, a patch from each, whatever they hold, so that
    few frames of one scanner are not drowned by many of another. Call ``set_epoch`` before each epoch.

    Args:
        low: items ``{"image": (N, H, W)}`` with their region as meta data, see ``LoadFramesd``.
        high: the reference probe's, or None: then "label" is the image itself, for the generator's first training.
        patch_size: edge of the low patches in pixels.
        samples: per epoch.
        high_patch_size: edge of the high patches, not above ``patch_size``; None for the same.
        seed: start of all randomness.
        jitter: move each window by up to a quarter of its size (the random patches of the first two trainings).
    """

    def __init__(
        self,
        low: Sequence[Mapping[str, Any]],
        high: Sequence[Mapping[str, Any]] | None,
        patch_size: int,
        samples: int,
        high_patch_size: int | None = None,
        seed: int = 0,
        jitter: bool = False,
    ) -> None:
        self.volumes = low  # where a session looks for the entries
        self.sides = {"image": (low, patch_size)}
        if high is not None:
            self.sides["label"] = (high, high_patch_size or patch_size)
        self.samples, self.seed, self.jitter, self.epoch = samples, seed, jitter, 1

    @cached_property
    def windows(self) -> dict[str, np.ndarray]:
        """Windows of both sides, rows of file, frame, top and left.

        Raises:
            InputError: every picture of a probe is smaller than the patch.
        """
        return {key: _windows(*side) for key, side in self.sides.items()}

    @cached_property
    def _groups(self) -> dict[str, list[np.ndarray]]:
        return {key: _by_folder(self.sides[key][0], windows) for key, windows in self.windows.items()}

    def check(self) -> None:
        """Makes sure that there are patches, and that own frames are not trained towards the sample's probe.

        Raises:
            InputError: there are none, the reference alone is sample data, or its patches are the larger ones.
        """
        if "label" in self.sides:
            path, reference = (frames[0]["image"].meta["filename_or_obj"] for frames, _ in self.sides.values())
            if is_sample(reference) and not is_sample(path):
                raise InputError("no reference probe for these frames: dataset_dir must name a folder with high/", path)
            small, large = (size for _, size in reversed(self.sides.values()))
            if small > large:
                raise InputError(f"discriminator_patch_size must be at most the patch_size of {large}; got {small}")
        self.windows  # noqa: B018  which are looked for at the first use

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        low, *high = (len(frames) for frames, _ in self.sides.values())
        reference = f", {high[0]} of the high one" if high else ""
        return f"{low} files of the low probe{reference}, {self.samples} patches per epoch"

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 1, whose samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Patches ``(1, size, size)``."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        position = (self.epoch - 1) * self.samples + index
        item = {key: self._patch(key, number, position) for number, key in enumerate(self.sides)}
        return item if "label" in item else {**item, "label": item["image"]}

    def _patch(self, key: str, number: int, position: int) -> torch.Tensor:
        (frames, size), groups = self.sides[key], self._groups[key]
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
                (image.meta["filename_or_obj"], f"its ultrasound of {shown} holds no patch of {size} x {size}")
            )
        found += [(number, frame, *corner) for frame in range(len(image)) for corner in corners]
    if not found:
        raise InputError(f"{refused[0][1]}, nor does any other file; give a smaller patch_size", refused[0][0])
    for path, reason in refused:
        say(f"left out {path}: {reason}")
    return np.array(found)


def _starts(length: int, size: int) -> list[int]:
    """First pixels of windows with 50 % overlap; the last ends at the border."""
    last = length - size
    return sorted({*range(0, last + 1, max(1, size // 2)), last}) if last >= 0 else []


class StepPatches(UnpairedPatches):
    """As many patches as the iterations of an epoch take: a batch for the discriminator, then the generator's.

    Args:
        low, high, patch_size: as for ``UnpairedPatches``.
        batch_size: patches of a generator's step.
        discriminator_batch_size: of a discriminator's step; half of them are real.
        generator_steps: per iteration.
        iterations: per epoch.
        more: further arguments of ``UnpairedPatches``.
    """

    def __init__(
        self,
        low: Sequence[Mapping[str, Any]],
        high: Sequence[Mapping[str, Any]],
        patch_size: int,
        batch_size: int,
        discriminator_batch_size: int,
        generator_steps: int,
        iterations: int,
        **more: Any,
    ) -> None:
        self.sizes = [discriminator_batch_size // 2] + [batch_size] * generator_steps  # inputs of each step
        super().__init__(low, high, patch_size, iterations * sum(self.sizes), **more)


class StepBatches(Sampler):
    """Batches of different sizes in turn, such as 20 patches for the discriminator and then 20 times 8.

    Args:
        patches: what is shared among the processes.
    """

    def __init__(self, patches: StepPatches) -> None:
        self.sampler = sampler(patches) or SequentialSampler(patches)
        self.sizes = batch_shares(patches.sizes)

    def __len__(self) -> int:
        return len(self.sampler) // sum(self.sizes) * len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        for _ in range(len(self.sampler) // sum(self.sizes)):
            for size in self.sizes:
                yield list(islice(indices, size))
