# SPDX-License-Identifier: Apache-2.0
"""Super-resolution of one region, slice by slice, pasted into the interpolated picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.inferers import Inferer
from torch import nn

from common.weights import bare

__all__ = ["RegionInferer", "paste"]


def paste(picture: torch.Tensor, patch: torch.Tensor, start: Sequence[int], ramps: Sequence[Sequence[int]]) -> None:
    """Lays a patch over a picture in place, its edges blended in; equal values stay exactly as they are.

    Args:
        picture: ``(..., H, W)``.
        patch: ``(..., h, w)``.
        start: the patch's first pixel in the picture, for both axes.
        ramps: pixels over which the patch is blended in, at the start and the end of both axes; 0 for a hard edge.
    """
    window = (..., *(slice(first, first + n) for first, n in zip(start, patch.shape[-2:], strict=True)))
    weights = []
    for (before, after), n in zip(ramps, patch.shape[-2:], strict=True):
        weight = patch.new_ones(n)
        weight[:before] = torch.arange(1, before + 1) / (before + 1)
        weight[n - after :] = torch.arange(after, 0, -1) / (after + 1)
        weights.append(weight)
    below = picture[window]
    picture[window] = below + weights[0][:, None] * weights[1] * (patch - below)


class RegionInferer(Inferer):
    """Applies a super-resolution network to the region that an image names, and interpolates the rest (bicubic).

    The region stands in the image's meta data: start and stop per axis in the image's voxels, slices last. The network
    reads the region and ``halo`` pixels of context around it, cut at the image's border, and is shown slices one by
    one. The whole region is the network's; the blending into the interpolated picture lies outside of it.

    Args:
        factor: of the network.
        halo: context around the region in the image's pixels.
        feather: width of the blending in output pixels, at most ``halo * factor``.
        batch_size: slices at a time.
        whole: give the whole picture; False gives the region alone.
        key: of the region in the meta data; an image without one is taken as the region as a whole.

    Raises:
        ValueError: a feather wider than the context.
    """

    def __init__(
        self,
        factor: int = 4,
        halo: int = 8,
        feather: int = 8,
        batch_size: int = 8,
        whole: bool = True,
        key: str = "region",
    ) -> None:
        super().__init__()
        if feather > halo * factor:
            raise ValueError(f"feather {feather} is wider than the context of {halo * factor} output pixels")
        self.factor, self.halo, self.feather = factor, halo, feather
        self.batch_size, self.whole, self.key = batch_size, whole, key

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Prediction ``(B, 1, fH, fW[, D])`` of ``inputs`` ``(B, 1, H, W[, D])``, or its region alone.

        With ``whole=False`` the regions of a batch have one size.
        """
        image = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        regions = self.regions(inputs)
        with torch.no_grad():
            return torch.stack([self._one(x, r, network) for x, r in zip(image, regions, strict=True)])

    def regions(self, inputs: torch.Tensor) -> list[list[list[int]]]:
        """Start and stop per axis, for each image of a batch ``(B, 1, H, W[, D])``."""
        stored = getattr(inputs, "meta", {}).get(self.key)
        axes = inputs.ndim - 2
        if stored is None:
            return [[[0, n] for n in inputs.shape[2:]]] * len(inputs)
        return torch.as_tensor(stored).reshape(-1, axes, 2).tolist()

    def box(self, inputs: torch.Tensor) -> list[slice]:
        """What the network reads of the first image: region and context, in its slices."""
        region = self.regions(inputs)[0]
        read = self._read(region, inputs.shape[2:])
        return [slice(start, stop) for start, stop in [*read, *region[2:]]]

    def _read(self, region: Sequence[Sequence[int]], shape: Sequence[int]) -> list[tuple[int, int]]:
        return [
            (max(0, start - self.halo), min(n, stop + self.halo))
            for (start, stop), n in zip(region[:2], shape[:2], strict=True)
        ]

    def _one(self, image: torch.Tensor, region: Sequence[Sequence[int]], network: nn.Module) -> torch.Tensor:
        flat = image.ndim == 3
        slices = image[None] if flat else image.movedim(-1, 0)  # (D, 1, H, W)
        first, last = (0, 1) if flat else region[2]
        read, factor = self._read(region, slices.shape[2:]), self.factor
        part = slices[first:last, :, read[0][0] : read[0][1], read[1][0] : read[1][1]]
        form = {"memory_format": torch.channels_last}
        made = [bare(network)(chunk.contiguous(**form)).float() for chunk in part.split(self.batch_size) if len(chunk)]
        patch = torch.cat(made) if made else part.new_zeros(0, 1, *(factor * n for n in part.shape[2:]))
        # outside the feather the patch is context only
        keep, start, ramps = [], [], []
        for (begin, end), (low, _), n in zip(region[:2], read, slices.shape[2:], strict=True):
            ramp = [min(self.feather, factor * begin), min(self.feather, factor * (n - end))] if self.whole else [0, 0]
            start.append(factor * begin - ramp[0])
            keep.append(slice(start[-1] - factor * low, factor * end + ramp[1] - factor * low))
            ramps.append(ramp)
        patch = patch[(..., *keep)].contiguous()
        if not self.whole:
            return patch[0] if flat else patch.movedim(0, -1)
        picture = torch.cat([self._enlarge(chunk) for chunk in slices.float().split(64)])
        if len(patch):
            paste(picture[first:last], patch, start, ramps)
        return picture[0] if flat else picture.movedim(0, -1)

    def _enlarge(self, slices: torch.Tensor) -> torch.Tensor:
        return F.interpolate(slices, scale_factor=self.factor, mode="bicubic", align_corners=False)
