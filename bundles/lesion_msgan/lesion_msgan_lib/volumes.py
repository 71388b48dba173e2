# SPDX-License-Identifier: Apache-2.0
"""Training volumes in little memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset

from common.transforms.intensity import foreground_mask
from common.utils.console import say
from common.utils.images import as_tensor

from .regions import FACTOR, bounding_box

__all__ = ["SCALE", "PackedVolumes", "pack"]

SCALE = "packed_scale"  # key in an image's meta data: what its stored values are multiplied by
MARGIN = 8 * FACTOR  # background that is kept around the head, in pixels of a slice


def pack(volume: MetaTensor, least: int) -> MetaTensor:
    """The foreground's box of a volume ``(2, H, W, D)`` (image and mask) in half precision, with the mask's lesion.

    The box starts on whole low-resolution pixels, and keeps some background, so slices are standardised and
    down-sampled as before. Values are scaled by a power of two, which the meta data tells.

    Args:
        volume: any finite intensities.
        least: edge of the box in a slice, where the slice is as large.
    """
    plain = as_tensor(volume)
    shown = foreground_mask(plain[0]) | (plain[1] > 0)
    window: list[slice] = []
    for axis, ((start, stop), length) in enumerate(zip(bounding_box(shown) or (), volume.shape[1:], strict=True)):
        if axis < 2:
            missing = max(MARGIN, -(-(least - (stop - start)) // 2))
            start = max(0, min(start - missing, length - least)) // FACTOR * FACTOR
            stop = min(length, max(stop + missing, start + least))
        window.append(slice(start, stop))
    part = volume.as_tensor()[(slice(None), *window)]
    scale = 2.0 ** (math.floor(math.log2(max(float(part[0].abs().max()), 1e-30))) - 9)  # the largest below 1024
    packed = torch.stack([part[0] / scale, part[1]]).half()
    return MetaTensor(packed, meta={**volume.meta, SCALE: scale})


class PackedVolumes(Dataset):
    """Volumes as ``pack`` makes them, decoded once where they fit in memory, else for each access.

    Args:
        data: entries.
        transform: loads an entry; gives "image" ``(2, H, W, D)``.
        memory_gb: for all of them, in GiB.
        least: see ``pack``.
    """

    def __init__(self, data: Sequence[Any], transform: Callable, memory_gb: float = 4.0, least: int = 96) -> None:
        self.data, self.transform, self.least = data, transform, least
        self.kept: list[dict[str, Any]] = []
        left = memory_gb * 2**30
        for entry in data:
            item = self._load(entry)
            left -= item["image"].nbytes
            if left < 0:
                break
            self.kept.append(item)
        if len(self.kept) < len(data):
            most = f"{len(self.kept)} of {len(data)} volumes fit in {memory_gb:g} GiB"
            say(f"{most}; the others are decoded anew for every crop, which takes long: give a larger memory_gb")

    def _load(self, entry: Any) -> dict[str, Any]:
        return {"image": pack(self.transform(entry)["image"], self.least)}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The volume of an entry as "image"."""
        return self.kept[index] if index < len(self.kept) else self._load(self.data[index])
