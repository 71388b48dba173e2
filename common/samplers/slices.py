# SPDX-License-Identifier: Apache-2.0
"""2.5D training samples: stacks of neighbouring slices along any axis, cut on the fly from whole volumes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch.utils.data import Dataset

from common.utils.images import as_tensor
from common.utils.types import Items

__all__ = ["RandomStacks", "slice_stacks"]


def slice_stacks(volume: torch.Tensor, axis: int, indices: Sequence[int], neighbours: int) -> torch.Tensor:
    """Stacks of neighbouring slices as channels; slices beyond the ends are 0.

    Args:
        volume: ``(C, H, W, D)``.
        axis: spatial axis that the slices lie across, 0 to 2.
        indices: middle slices.
        neighbours: k, odd: slices per stack and channel.

    Returns:
        ``(B, C * k, h, w)``, all slices of the first channel first; h and w are the two other axes in their order.

    Example:
        >>> volume = torch.arange(1.0, 5).expand(1, 2, 2, 4)  # slices of 1, 2, 3 and 4
        >>> slice_stacks(volume, axis=2, indices=[0, 2], neighbours=3)[:, :, 0, 0]
        tensor([[0., 1., 2.],
                [2., 3., 4.]])
    """
    radius, length = neighbours // 2, volume.shape[axis + 1]
    slices = volume.movedim(axis + 1, 0)  # (N, C, h, w), a view
    wanted = [[i + offset for offset in range(-radius, radius + 1)] for i in indices]
    if min(wanted[0]) >= 0 and max(wanted[0]) < length and len(wanted) == 1:
        stack = slices[wanted[0][0] : wanted[0][-1] + 1].transpose(0, 1)
        return stack.reshape(1, -1, *stack.shape[2:])
    flat = torch.tensor(wanted, device=volume.device)
    stack = slices[flat.clamp(0, length - 1)]  # (B, k, C, h, w)
    beyond = (flat < 0) | (flat >= length)
    if beyond.any():
        stack[beyond] = 0
    return stack.transpose(1, 2).flatten(1, 2)


class RandomStacks(Dataset):
    """A fixed number of random slice stacks per epoch, padded, cropped, flipped and turned (Baltruschat et al., 2.3).

    Slices across all three axes are used, except those where every input is 0. Everything random about a sample
    follows from (seed, epoch, sample index) alone, never from the worker, the process or the order of calls: training
    resumes exactly. Give the loader ``shuffle=False``, the order is shuffled here, and call ``set_epoch`` before each
    epoch.

    With ``resident`` set, volumes are read when they are needed and no more than that many are held: an epoch goes
    through the volumes in random groups of that size and shuffles the stacks within a group. So a set that lies on
    disk (a ``PersistentDataset``) needs the memory of one group. In an epoch with fewer samples than all volumes have
    slices, each volume gives the same number of samples, up to one.

    Volumes may be stored in half precision; samples are float32. Images are interpolated linearly where they are
    turned, masks (the channels of "label" after the first) are taken from the nearest pixel; what comes in from
    outside is 0.

    Args:
        volumes: items ``{"image": (C, H, W, D), "label": (L, H, W, D)}``, such as a ``CacheDataset``.
        size: edge length of the samples in pixels, one number or two.
        stacks: samples per epoch.
        pad: edge length that smaller slices are first padded to, evenly on both sides; None for 9/8 of the larger
            ``size``, 288 for the paper's 256.
        neighbours: k, odd: slices per input.
        axes: which axes slices may lie across.
        flip: probability of a flip of ``flip_axis``: left to right where that axis runs from left to right, the one
            flip that gives a plausible head. Of slices across that axis, the neighbours change places.
        flip_axis: spatial axis of the volumes that is flipped.
        angle: largest turn in degrees.
        turn: probability of a turn, uniform in ``[-angle, angle]``.
        transform: further augmentation, a function of a sample's image, its label and a NumPy generator that returns
            both; None for none.
        resident: volumes held at a time; None where ``volumes`` holds them itself.
        seed: start of all randomness.

    Raises:
        ValueError: an even number of slices, or padding to less than the samples' size.

    Example:
        >>> volumes = [{"image": torch.rand(2, 24, 20, 22), "label": torch.rand(1, 24, 20, 22)}]
        >>> samples = RandomStacks(volumes, size=16, pad=32, stacks=10, neighbours=3)
        >>> {key: tuple(value.shape) for key, value in samples[0].items()}
        {'image': (6, 16, 16), 'label': (1, 16, 16)}
    """

    def __init__(
        self,
        volumes: Items,
        size: int | Sequence[int],
        stacks: int,
        pad: int | None = None,
        neighbours: int = 3,
        axes: Sequence[int] = (0, 1, 2),
        flip: float = 0.5,
        angle: float = 15.0,
        turn: float = 0.5,
        flip_axis: int = 0,
        transform: Callable | None = None,
        resident: int | None = None,
        seed: int = 0,
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        pad = max(self.size) * 9 // 8 if pad is None else pad
        if neighbours < 1 or neighbours % 2 == 0 or min(self.size) < 1 or pad < max(self.size):
            raise ValueError(f"need odd neighbours and a pad of at least {size}, got {neighbours} and {pad}")
        self.volumes, self.pad, self.stacks, self.neighbours = volumes, int(pad), int(stacks), neighbours
        self.axes, self.flip, self.angle, self.turn = tuple(axes), flip, angle, turn
        self.flip_axis, self.transform = flip_axis, transform
        self.resident, self.seed, self.epoch = resident, seed, 0
        self._held: OrderedDict[int, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()
        self._boxes: dict[int, list[slice]] = {}
        self._slices: dict[int, np.ndarray] = {}
        self._order: tuple[int, np.ndarray] | None = None

    def describe(self) -> str:
        """What is drawn, for a run's first lines."""
        return f"{len(self.volumes)} volumes, {self.stacks} slice stacks of {' x '.join(map(str, self.size))} per epoch"

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose samples are drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.stacks

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One sample: "image" ``(C * k, *size)`` and "label" ``(L, *size)``."""
        random = np.random.default_rng([self.seed, self.epoch, int(index)])
        number = self._volume_of(int(index))
        image, label = self._volume(number)
        if number not in self._boxes:
            self._boxes[number] = _box(image, label)
            self._slices[number] = self._used(image)
        axis, position = self._slices[number][random.integers(len(self._slices[number]))].tolist()
        # only the box that is not 0 is read: a brain fills a third of its volume
        box = self._boxes[number]
        inner = (slice(None), *box)
        inputs = slice_stacks(image[inner], axis, [position - box[axis].start], self.neighbours)[0].float()
        truth = label[inner].select(axis + 1, position - box[axis].start).float()
        shape, corner = ([x[a] for a in range(3) if a != axis] for x in (image.shape[1:], [b.start for b in box]))
        # where the sample starts in the slice, which lies in the middle of the padded one
        start = [int(random.integers(max(self.pad, n) - p + 1)) for n, p in zip(shape, self.size, strict=True)]
        start = [s - max(self.pad - n, 0) // 2 for s, n in zip(start, shape, strict=True)]
        flipped = random.random() < self.flip
        degrees = random.uniform(-self.angle, self.angle) if random.random() < self.turn else 0.0
        if degrees:
            inputs, truth = _turned(inputs, truth, shape, corner, start, self.size, degrees)
        else:
            first = [s - c for s, c in zip(start, corner, strict=True)]
            inputs, truth = (_window(x, first, self.size) for x in (inputs, truth))
        if flipped:
            inputs, truth = self._flipped(inputs, truth, axis)
        if self.transform is not None:
            inputs, truth = self.transform(inputs, truth, random)
        return {"image": inputs, "label": truth}

    def _flipped(self, image: torch.Tensor, label: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A stack and its label of the volume flipped along ``flip_axis``."""
        if axis == self.flip_axis:
            return image.unflatten(0, (-1, self.neighbours)).flip(1).flatten(0, 1), label
        others = [a for a in range(3) if a != axis]
        side = others.index(self.flip_axis) - 2
        return image.flip(side), label.flip(side)

    def _volume_of(self, index: int) -> int:
        """Volume of a sample; the order of an epoch is made once."""
        if self._order is None or self._order[0] != self.epoch:
            random = np.random.default_rng([self.seed, self.epoch])
            count = len(self.volumes)
            # volume by volume in a random order, then shuffled within groups: samples of a group lie together
            places = np.sort(np.arange(self.stacks) % count)
            owners = random.permutation(count)[places]
            group = self.resident or count
            for first in range(0, count, group):
                inside = slice(*np.searchsorted(places, [first, first + group]))
                owners[inside] = random.permutation(owners[inside])
            self._order = (self.epoch, owners)
        return int(self._order[1][index])

    def _volume(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.resident is None:
            return _plain(self.volumes[number])
        if number not in self._held:
            while len(self._held) >= self.resident:
                self._held.popitem(last=False)
            self._held[number] = _plain(self.volumes[number])
        self._held.move_to_end(number)
        return self._held[number]

    def _used(self, image: torch.Tensor) -> np.ndarray:
        """Pairs of axis and position of the slices that hold anything."""
        filled = (image != 0).any(dim=0)
        pairs = []
        for axis in self.axes:
            others = [a for a in range(3) if a != axis]
            positions = torch.nonzero(filled.any(dim=others[1]).any(dim=others[0])).flatten()
            pairs += [(axis, int(p)) for p in positions]
        return np.asarray(pairs or [(self.axes[0], 0)])


def _plain(item: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return as_tensor(item["image"]), as_tensor(item["label"])


def _box(image: torch.Tensor, label: torch.Tensor) -> list[slice]:
    """The part of a volume outside of which all channels are 0; all of an empty one."""
    filled = (image != 0).any(dim=0) | (label != 0).any(dim=0)
    if not filled.any():
        return [slice(0, n) for n in filled.shape]
    used = [torch.nonzero(filled.movedim(a, 0).flatten(1).any(dim=1)).flatten() for a in range(3)]
    return [slice(int(u[0]), int(u[-1]) + 1) for u in used]


def _window(image: torch.Tensor, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Part of ``(C, H, W)`` that starts at a pixel, which may lie outside; zeros there."""
    out = image.new_zeros(image.shape[0], *size)
    inner, outer = [], []
    for first, length, wanted in zip(start, image.shape[1:], size, strict=True):
        low, high = max(first, 0), min(first + wanted, length)
        outer.append(slice(low, max(high, low)))
        inner.append(slice(low - first, max(high, low) - first))
    out[(slice(None), *inner)] = image[(slice(None), *outer)]
    return out


def _turned(
    image: torch.Tensor,
    label: torch.Tensor,
    shape: Sequence[int],
    corner: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    degrees: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The window of a slice that was turned about its middle: only the window's pixels are computed.

    Args:
        image: ``(C, h, w)``, the part of the slice that starts at ``corner``; 0 outside of it.
        label: ``(L, h, w)``, the same part.
        shape: of the whole slice.
        corner: first pixel of the part, in the slice.
        start: first pixel of the window, in the slice.
        size: of the window.
        degrees: of the turn.
    """
    middle = [(n - 1) / 2 for n in shape]
    cosine, sine = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))
    # where the part's corners come to lie in the window: the rest of it stays 0
    ends = [(c - 1 - m, c + n - m) for c, n, m in zip(corner, image.shape[1:], middle, strict=True)]
    places = [(cosine * y + sine * x, cosine * x - sine * y) for y in ends[0] for x in ends[1]]
    window = []
    for axis in (0, 1):
        found = [place[axis] + middle[axis] - start[axis] for place in places]
        low, high = max(int(np.floor(min(found))), 0), min(int(np.ceil(max(found))) + 1, size[axis])
        window.append(slice(low, max(low, high)))
    out = [x.new_zeros(x.shape[0], *size) for x in (image, label)]
    if any(side.start == side.stop for side in window):
        return out[0], out[1]
    rows, columns = (
        torch.arange(side.start, side.stop, dtype=torch.float32, device=image.device) + s - m
        for side, s, m in zip(window, start, middle, strict=True)
    )
    y = cosine * rows[:, None] - sine * columns + (middle[0] - corner[0])
    x = sine * rows[:, None] + cosine * columns + (middle[1] - corner[1])
    # grid_sample counts from -1 to 1 between the outer pixels' edges
    height, width = image.shape[1:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)[None]
    inside = (slice(None), *window)
    smooth = torch.cat([image, label[:1]])[None]
    smooth = F.grid_sample(smooth, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    out[0][inside], out[1][inside][:1] = smooth[: len(image)], smooth[len(image) :]
    if len(label) > 1:
        masks = F.grid_sample(label[None, 1:], grid, mode="nearest", padding_mode="zeros", align_corners=False)[0]
        out[1][inside][1:] = masks
    return out[0], out[1]
