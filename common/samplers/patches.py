# SPDX-License-Identifier: Apache-2.0
"""Random 3D patches of volumes that are decoded once, degraded batch-wise on the volumes' device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from common.errors import InputError
from common.transforms.degradation import profile_sigma, round_trip_matrix
from common.transforms.intensity import foreground_mask
from common.utils.images import as_tensor
from common.utils.types import Items

__all__ = ["Patch", "RandomPatches", "SliceProfile"]

MAX_CENTRES = 200_000  # foreground voxels remembered per volume: enough to draw from, little memory


@dataclass
class Patch:
    """One drawn patch: the whole volume ``(C, H, W, D)``, the patch's first voxel, and its own random generator."""

    volume: torch.Tensor
    corner: tuple[int, int, int]
    random: np.random.Generator


class SliceProfile:
    """Degrades patches as ``common.transforms.degradation.degrade`` degrades whole volumes, batched.

    Only rows of the round-trip matrices that the patches need, and only columns that matter, are applied: the result
    is that of the whole volume, cut out, to 1e-5 of the intensity range.

    Args:
        scales: factors per axis to draw from; a patch's scale is drawn by the patch's own generator.
        sigma, thickness: the profile, see ``common.transforms.degradation.profile_sigma``.
        guide_dropout: probability that a guide channel of a patch is zeroed, each by itself, so that the network
            also learns to work without it (an addition to the paper).
        smoothing: factors per axis, of which one entry (its axes in random order) is drawn for a patch: the truth
            itself is first acquired at that scale and interpolated back, as scans are that were resampled before they
            were shared. Empty for none (an addition to the paper).
        smoothing_probability: share of the patches that are smoothed.

    Example:
        >>> patch = Patch(torch.rand(1, 24, 20, 22), (4, 2, 6), np.random.default_rng(0))
        >>> batch = SliceProfile(scales=[[1, 1, 3]])([patch], (8, 8, 8))  # slices three times as thick
        >>> batch["image"].shape, bool(batch["image"].std() < batch["label"].std())
        (torch.Size([1, 1, 8, 8, 8]), True)
    """

    def __init__(
        self,
        scales: Sequence[Sequence[float]],
        sigma: float | None = None,
        thickness: float = 1.0,
        guide_dropout: float = 0.0,
        smoothing: Sequence[Sequence[float]] = (),
        smoothing_probability: float = 0.5,
    ) -> None:
        if not scales:
            raise ValueError("scales needs at least one entry, such as [2, 2, 2]")
        self.scales = [tuple(float(f) for f in scale) for scale in scales]
        self.sigma = sigma
        self.thickness = thickness
        self.guide_dropout = guide_dropout
        self.smoothing = [tuple(float(f) for f in scale) for scale in smoothing]
        self.smoothing_probability = smoothing_probability

    def __call__(self, patches: Sequence[Patch], size: Sequence[int]) -> dict[str, torch.Tensor]:
        """Interpolated image and guides ``(B, 1 + G, *size)`` as "image", truth ``(B, 1, *size)`` as "label"."""
        truths, inputs = [], []
        for patch in patches:
            scale = self.scales[patch.random.integers(len(self.scales))]
            smooth = self._smooth(patch.random)
            axes = list(zip(patch.volume.shape[-3:], scale, smooth, patch.corner, size, strict=True))
            inputs.append([self._band(length, (s, f), corner, n) for length, f, s, corner, n in axes])
            truths.append([self._band(length, (s,), corner, n) for length, _, s, corner, n in axes])
        degraded = _apply(patches, inputs, size)
        windows = torch.stack([p.volume[(slice(None), *_window(p.corner, size))] for p in patches])
        truth = _apply(patches, truths, size) if self.smoothing else windows[:, :1]
        guides = windows[:, 1:]
        keep = np.stack([patch.random.random(guides.shape[1]) >= self.guide_dropout for patch in patches])
        guides = guides * torch.as_tensor(keep, device=guides.device)[..., None, None, None]
        return {"image": torch.cat([degraded, guides], dim=1), "label": truth}

    def _smooth(self, random: np.random.Generator) -> tuple[float, float, float]:
        if not self.smoothing or random.random() >= self.smoothing_probability:
            return (1.0, 1.0, 1.0)
        return tuple(random.permutation(self.smoothing[random.integers(len(self.smoothing))]))

    def _band(self, length: int, factors: tuple[float, ...], corner: int, size: int) -> tuple[np.ndarray, int]:
        """Rows of one axis for a patch, degraded by each factor in turn, and the first of the columns used."""
        rows = np.eye(length)[corner : corner + size] if factors[-1] == 1 else None
        for factor in reversed(factors):
            if factor == 1:
                continue
            matrix = round_trip_matrix(length, factor, profile_sigma(factor, self.sigma, self.thickness))
            rows = matrix[corner : corner + size] if rows is None else rows @ matrix
        assert rows is not None  # the last of the factors is 1, or it gave the rows
        used = np.flatnonzero((np.abs(rows) > 1e-6).any(axis=0))
        return rows[:, used[0] : used[-1] + 1], int(used[0])


def _apply(
    patches: Sequence[Patch], bands: Sequence[list[tuple[np.ndarray, int]]], size: Sequence[int]
) -> torch.Tensor:
    """First channels of the patches, degraded by their bands of each axis, ``(B, 1, *size)``."""
    widths = [max(band[axis][0].shape[1] for band in bands) for axis in range(3)]
    first, count = patches[0].volume, len(patches)
    image = first.new_zeros(count, *widths)
    weights = [first.new_zeros(count, n, width) for n, width in zip(size, widths, strict=True)]
    for i, (patch, band) in enumerate(zip(patches, bands, strict=True)):
        part = patch.volume[0][tuple(slice(start, start + rows.shape[1]) for rows, start in band)]
        image[i][tuple(slice(n) for n in part.shape)] = part
        for axis, (rows, _) in enumerate(band):
            weights[axis][i, :, : rows.shape[1]] = torch.as_tensor(rows).to(first)
    image = (weights[0] @ image.flatten(2)).reshape(count, size[0], widths[1], widths[2])
    image = weights[1][:, None] @ image
    return (image @ weights[2][:, None].transpose(-1, -2))[:, None]


def _window(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + n) for start, n in zip(corner, size, strict=True))


class RandomPatches(Dataset):
    """A fixed number of random patches per epoch, centred on the foreground, each epoch in a new order.

    Everything random about a sample follows from (seed, epoch, sample index) alone, never from the worker, the process
    or the order of calls: training resumes exactly, and several processes see what one would. Give the loader
    ``shuffle=False``: the order is shuffled here. Call ``set_epoch`` before each epoch.

    Args:
        volumes: dataset of decoded volumes, items ``{"image": (C, H, W, D)}``, such as a ``CacheDataset``; on a GPU
            when they fit (then with 0 workers).
        degradation: makes a batch ``{"image", "label"}`` of a list of ``Patch`` and the patch size.
        patch_size: edge lengths in voxels; one number for a cube.
        patches: samples per epoch, spread evenly over the volumes; for None ``patches_per_volume`` of each.
        seed: start of all randomness.
        orient: also flip and, for cubic patches, permute the axes of each patch at random, so that the network does
            not depend on how a scan lies in its array (an addition to the papers).
        jitter: largest change of a patch's gain and offset, input and truth alike, as a share of the intensity range
            (an addition to the papers).
        keep_input: append the degraded image to "label", for ``common.losses.RelativeError``.
        resample: draw other patches in each epoch; False keeps one set, seen in every epoch in another order, as
            Pham et al. 2019, sec. 3.1, do.
        times: how many times as many samples are drawn, such as for the steps of a critic, see
            ``common.engine.trainers.batches_per_iteration``.

    Raises:
        ValueError: neither ``patches`` nor ``patches_per_volume``.

    Example:
        >>> volumes = [{"image": torch.rand(1, 24, 20, 22)}]
        >>> samples = RandomPatches(volumes, SliceProfile([[2, 2, 2]]), patch_size=8, patches=16)
        >>> len(samples), samples[0]["image"].shape
        (16, torch.Size([1, 8, 8, 8]))
        >>> first = samples[0]["label"]
        >>> samples.set_epoch(1)
        >>> torch.equal(samples[0]["label"], first)
        False
        >>> samples.set_epoch(0)
        >>> torch.equal(samples[0]["label"], first)
        True
    """

    def __init__(
        self,
        volumes: Items,
        degradation: Callable[[Sequence[Patch], Sequence[int]], dict[str, torch.Tensor]],
        patch_size: int | Sequence[int],
        patches: int | None,
        seed: int = 0,
        orient: bool = False,
        jitter: float = 0.0,
        keep_input: bool = False,
        resample: bool = True,
        patches_per_volume: int | None = None,
        times: int = 1,
    ) -> None:
        self.volumes = volumes
        self.degradation = degradation
        self.patch_size = (patch_size,) * 3 if isinstance(patch_size, int) else tuple(patch_size)
        if patches_per_volume:
            patches = patches_per_volume * len(volumes)
        if patches is None:
            raise ValueError("give patches or patches_per_volume")
        self.patches, self.times = int(patches), times
        self.seed = seed
        self.orient = orient
        self.jitter = jitter
        self.keep_input = keep_input
        self.resample = resample
        self.epoch = 0
        self._centres: dict[int, np.ndarray] = {}
        self._order: tuple[int, np.ndarray] | None = None

    def check(self) -> None:
        """Makes sure that a patch fits into every volume.

        Raises:
            InputError: it does not.
        """
        for number in range(len(self.volumes)):
            image = self.volumes[number]["image"]
            if any(n < p for n, p in zip(image.shape[-3:], self.patch_size, strict=True)):
                source = getattr(image, "meta", {}).get("filename_or_obj", f"volume {number}")
                sizes = [" x ".join(map(str, size)) for size in (image.shape[-3:], self.patch_size)]
                raise InputError(f"{sizes[0]} voxels are less than a patch of {sizes[1]}", source)

    def describe(self) -> str:
        """What it holds, for a run's first lines."""
        return f"{len(self.volumes)} volumes, {self.patches} patches per epoch"

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches * self.times

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One sample without batch axis: "image" and "label" ``(C, *patch_size)``."""
        return {key: value[0] for key, value in self.batch([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """The samples of a batch, degraded together; torch's loaders ask for them in this way."""
        batch = self.batch(indices)
        return [{key: value[i] for key, value in batch.items()} for i in range(len(indices))]

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Samples ``(B, C, *patch_size)`` of the given indices in the present epoch."""
        patches = [self._draw(int(index)) for index in indices]
        batch = self.degradation(patches, self.patch_size)
        if self.orient:
            turns = [_draw_turn(patch.random, len(set(self.patch_size)) == 1) for patch in patches]
            batch = {key: torch.stack([_turn(v, t) for v, t in zip(x, turns, strict=True)]) for key, x in batch.items()}
        if self.jitter:
            changes = np.stack([patch.random.uniform(-self.jitter, self.jitter, 2) for patch in patches])
            gain, offset = torch.as_tensor(changes).to(batch["image"]).T[..., None, None, None, None]
            batch = {key: x * (1 + gain) + offset for key, x in batch.items()}
        if self.keep_input:
            batch["label"] = torch.cat([batch["label"], batch["image"][:, : batch["label"].shape[1]]], dim=1)
        return batch

    def _draw(self, index: int) -> Patch:
        if self._order is None or self._order[0] != self.epoch:
            self._order = (self.epoch, np.random.default_rng([self.seed, self.epoch]).permutation(len(self)))
        place = int(self._order[1][index])
        number = place % len(self.volumes)
        volume = as_tensor(self.volumes[number]["image"])
        shape = volume.shape[-3:]
        if number not in self._centres:
            flat = torch.nonzero(foreground_mask(volume[0]).flatten()).flatten().cpu().numpy()
            self._centres[number] = flat[:: max(1, len(flat) // MAX_CENTRES)]
        random = np.random.default_rng([self.seed, self.epoch, index] if self.resample else [self.seed, place])
        centre = np.unravel_index(random.choice(self._centres[number]), shape)
        places = zip(centre, self.patch_size, shape, strict=True)
        row, column, plane = (int(min(max(c - p // 2, 0), n - p)) for c, p, n in places)
        return Patch(volume, (row, column, plane), random)


def _draw_turn(random: np.random.Generator, cubic: bool) -> tuple[list[int], list[int]]:
    axes = random.permutation(3) if cubic else np.arange(3)
    return [int(a) + 1 for a in axes], [axis + 1 for axis in range(3) if random.random() < 0.5]


def _turn(patch: torch.Tensor, turn: tuple[list[int], list[int]]) -> torch.Tensor:
    axes, flips = turn
    return patch.permute(0, *axes).flip(flips)
