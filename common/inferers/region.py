# SPDX-License-Identifier: Apache-2.0
"""Super-resolution of one region, slice by slice, pasted into the interpolated picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from common.inferers.work import multiplications_of
from common.io.weights import bare
from common.utils.images import as_tensor

__all__ = ["RegionInferer", "paste", "tile_edges"]

LEAST_TILE = 16  # pixels of a tile without its context
SCRATCH = 1.15  # what a convolution needs beside its maps, in all
PICTURES = 8  # slices interpolated at a time


def tile_edges(shape: Sequence[int], radius: int, pixels: float) -> tuple[int, int]:
    """Edges of the tiles that a slice is cut into, chosen so that the least is computed twice.

    Args:
        shape: of the slice.
        radius: context that a tile is read with on each side, cut at the slice's border.
        pixels: that a tile with its context has at most.

    Returns:
        Height and width without context; ``LEAST_TILE`` where no tile has so few pixels.
    """
    height, width = shape
    if height * width <= pixels:
        return height, width
    best, least_work = (min(height, LEAST_TILE), min(width, LEAST_TILE)), float("inf")
    for bands in range(1, -(-height // LEAST_TILE) + 1):
        rows = -(-height // bands)
        read_rows = min(height, rows + 2 * radius)
        most = int(pixels // read_rows)
        columns = width if most >= width else most - 2 * radius
        if columns < min(width, LEAST_TILE):
            continue
        columns = -(-width // -(-width // columns))  # equal ones
        work = -(-height // rows) * read_rows * -(-width // columns) * min(width, columns + 2 * radius)
        if work < least_work:
            best, least_work = (rows, columns), work
    return best


def paste(picture: torch.Tensor, patch: torch.Tensor, start: Sequence[int], ramps: Sequence[Sequence[int]]) -> None:
    """Lays a patch over a picture in place, its edges blended in; equal values stay exactly as they are.

    Args:
        picture: ``(..., H, W)``.
        patch: ``(..., h, w)``.
        start: the patch's first pixel in the picture, for both axes.
        ramps: pixels over which the patch is blended in, at the start and the end of both axes; 0 for a hard edge.
    """
    rows, columns = (slice(first, first + n) for first, n in zip(start, patch.shape[-2:], strict=True))
    weights = []
    for (before, after), n in zip(ramps, patch.shape[-2:], strict=True):
        weight = patch.new_ones(n)
        weight[:before] = torch.arange(1, before + 1) / (before + 1)
        weight[n - after :] = torch.arange(after, 0, -1) / (after + 1)
        weights.append(weight)
    below = picture[..., rows, columns]
    picture[..., rows, columns] = below + weights[0][:, None] * weights[1] * (patch - below)


class RegionInferer(Inferer):
    """Applies a super-resolution network to the region that an image names, and interpolates the rest (bicubic).

    The region stands in the image's meta data: start and stop per axis in the image's voxels, slices last; of an empty
    one, all is interpolated. The network
    reads the region and ``halo`` pixels of context around it, cut at the image's border, and is shown slices one by
    one. The whole region is the network's; the blending into the interpolated picture lies outside of it.

    A network that has ``values_per_pixel`` (values of all feature maps held at a time, per pixel of the image) and
    ``radius`` (its receptive radius in the image's pixels) is given as many slices as fit in ``memory_gb``, and a slice
    that does not fit in tiles, each with its context, so the result is that of one pass. Other networks are given
    ``batch_size`` whole slices.

    Args:
        factor: of the network.
        halo: context around the region in the image's pixels.
        feather: width of the blending in output pixels, at most ``halo * factor``.
        batch_size: slices at a time, at most.
        memory_gb: memory for feature maps, in GiB; the least tile takes what it takes.
        key: of the region in the meta data; an image without one is taken as the region as a whole.
        tiles: applies the network to ``(B, 1, h, w)``, such as an ``OrientationInferer``, whose spread becomes a second
            channel of the prediction, 0 where it is interpolated; None for the network as it is.

    Raises:
        ValueError: a feather wider than the context.
    """

    def __init__(
        self,
        factor: int = 4,
        halo: int = 8,
        feather: int = 8,
        batch_size: int = 8,
        memory_gb: float = 4.0,
        key: str = "region",
        tiles: Inferer | None = None,
    ) -> None:
        super().__init__()
        if feather > halo * factor:
            raise ValueError(f"feather {feather} is wider than the context of {halo * factor} output pixels")
        self.factor, self.halo, self.feather = factor, halo, feather
        self.batch_size, self.memory_gb = batch_size, float(memory_gb)
        self.key = key
        self.tiles = SimpleInferer() if tiles is None else tiles

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Prediction ``(B, 1, fH, fW[, D])`` of ``inputs`` ``(B, 1, H, W[, D])``; with a spread ``(B, 2, ...)``."""
        image = as_tensor(inputs)
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

    def work(self, inputs: torch.Tensor, network: nn.Module) -> int:
        """Multiplications for an image."""
        sides = [side.stop - side.start for side in self.box(inputs)]
        slices = 1 if inputs.ndim == 4 else sides[2]
        return slices * multiplications_of(self.tiles, torch.empty(1, 1, *sides[:2], device="meta"), network)

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
        # outside the feather the patch is context only
        keep, start, ramps = [], [], []
        for (begin, end), (low, _), n in zip(region[:2], read, slices.shape[2:], strict=True):
            ramp = [min(self.feather, factor * begin), min(self.feather, factor * (n - end))]
            start.append(factor * begin - ramp[0])
            keep.append(slice(start[-1] - factor * low, factor * end + ramp[1] - factor * low))
            ramps.append(ramp)
        made = self._enlarged(slices)
        if all(begin < end for begin, end in region):
            for chosen, patch in self._patches(part, bare(network)):
                if patch.shape[1] > made.shape[1]:
                    made = torch.cat([made, torch.zeros_like(made)], dim=1)
                paste(made[first:last][chosen], patch[..., keep[0], keep[1]], start, ramps)
        return made[0] if flat else made.movedim(0, -1)

    def _patches(self, part: torch.Tensor, network: nn.Module) -> Iterator[tuple[slice, torch.Tensor]]:
        """What the network makes of slices ``(D, 1, h, w)``: which ones, and ``(n, 1, fh, fw)``."""
        count, edges, radius = self._shares(part, network)
        factor, (height, width) = self.factor, part.shape[2:]
        for first in range(0, len(part), count):
            chunk = part[first : first + count]
            patch: torch.Tensor | None = None
            for top in range(0, height, edges[0]):
                for left in range(0, width, edges[1]):
                    tile, inside, out = chunk, [], []
                    for axis, (begin, edge, n) in enumerate(zip((top, left), edges, (height, width), strict=True)):
                        end, low = min(n, begin + edge), max(0, begin - radius)
                        # padding at a cut reaches as far as the context, which is dropped
                        tile = tile.narrow(axis + 2, low, min(n, end + radius) - low)
                        inside.append(slice(factor * (begin - low), factor * (end - low)))
                        out.append(slice(factor * begin, factor * end))
                    made = self.tiles(tile.contiguous(memory_format=torch.channels_last), network)
                    if patch is None:
                        patch = made.new_empty(*made.shape[:2], factor * height, factor * width, dtype=torch.float32)
                    patch[..., out[0], out[1]] = made[..., inside[0], inside[1]].float()
            assert patch is not None  # of a region that is not empty
            yield slice(first, first + len(chunk)), patch

    def _shares(self, part: torch.Tensor, network: Any) -> tuple[int, tuple[int, int], int]:
        """Slices at a time, the edges of tiles, and the context that a tile needs."""
        height, width = part.shape[2:]
        values = getattr(network, "values_per_pixel", None)
        if values is None:
            return self.batch_size, (height, width), 0
        pixels = self.memory_gb * 2**30 / (SCRATCH * 4 * values)
        edges = tile_edges((height, width), network.radius, pixels)
        return max(1, min(self.batch_size, int(pixels / (height * width)))), edges, network.radius

    def _enlarged(self, slices: torch.Tensor) -> torch.Tensor:
        size = [self.factor * n for n in slices.shape[2:]]
        picture = slices.new_empty(len(slices), 1, *size, dtype=torch.float32)
        for part, room in zip(slices.split(PICTURES), picture.split(PICTURES), strict=True):
            room.copy_(F.interpolate(part.float(), scale_factor=self.factor, mode="bicubic", align_corners=False))
        return picture
