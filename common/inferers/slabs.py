# SPDX-License-Identifier: Apache-2.0
"""Exact whole-volume inference of plain convolution chains, in little memory and without computing anything twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.inferers import Inferer
from torch import nn

from common.io.weights import bare
from common.utils.images import as_tensor

__all__ = ["ForegroundInferer", "LayerSlabs"]

try:
    from tqdm import tqdm
except ImportError:  # the bar is a comfort
    tqdm = None


class _Layer:
    """One convolution with what follows it pointwise, and the planes it still needs of what it was given."""

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, cropped: Sequence[bool], form: torch.memory_format) -> None:
        self.convolution = convolution
        self.form = form
        self.after: list[nn.Module] = []
        self.exact = False
        self.radius = convolution.kernel_size[0] // 2
        # an axis cropped on both sides has true neighbours as its halo, so it shrinks instead of being padded
        sizes = convolution.kernel_size
        self.padding = [0 if crop else k // 2 for k, crop in zip(sizes[1:], cropped[1:], strict=True)]
        self.margin = 0 if cropped[0] else self.radius
        self.kept: torch.Tensor | None = None

    def __call__(self, planes: torch.Tensor, first: bool, last: bool) -> torch.Tensor | None:
        """Takes the next planes of the first spatial axis, returns the planes that they complete."""
        if first and last and self.kept is None:  # all planes at once: the convolution pads, nothing is copied
            padding = self.margin
        else:
            planes, padding = self._joined(planes, first, last), 0
            self.kept = planes[:, :, max(0, planes.shape[2] - 2 * self.radius) :].clone() if not last else None
        if planes.shape[2] + 2 * padding <= 2 * self.radius:
            return None
        conv = self.convolution
        convolve = F.conv3d if planes.ndim == 5 else F.conv2d
        kind = planes.device.type
        inside = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=inside and not self.exact):
            planes = planes.to(conv.weight.dtype) if self.exact else planes
            out = convolve(planes, conv.weight, conv.bias, padding=(padding, *self.padding))
            for module in self.after:
                out = module(out)
        return out

    def _joined(self, planes: torch.Tensor, first: bool, last: bool) -> torch.Tensor:
        """The planes kept and the new ones, with zeros where the volume ends; one copy, in the layers' format."""
        parts = [planes] if self.kept is None else [self.kept, planes]
        if self.margin and (first or last):
            shape = list(planes.shape)
            shape[2] = self.margin
            margin = planes.new_zeros(shape).contiguous(memory_format=self.form)
            parts = [*([margin] if first else []), *parts, *([margin] if last else [])]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2).contiguous(memory_format=self.form)


def _format(convolutions: Sequence[nn.Conv2d | nn.Conv3d]) -> torch.memory_format:
    """Channels last if all weights are, else torch's default."""
    form = torch.channels_last_3d if convolutions[0].weight.ndim == 5 else torch.channels_last
    last = all(convolution.weight.is_contiguous(memory_format=form) for convolution in convolutions)
    return form if last else torch.contiguous_format


class LayerSlabs:
    """Runs the layers of a network over slabs of the first spatial axis, each layer keeping the planes at the seam.

    Every layer hands on the planes that are complete and remembers the last ``2 * radius`` it was given, so the result
    is that of one pass, nothing is computed twice, and memory is that of a few slabs instead of two feature maps.

    Under autocast the first and the last layer stay in float32: an image has more grey levels than bfloat16.

    Args:
        layers: stride-1 convolutions with odd filters and "same" zero padding, each followed by pointwise modules.
        memory_gb: memory for feature maps, in GiB.
        progress: show a progress bar if there are several slabs.

    Raises:
        TypeError: a layer is neither a convolution nor pointwise.
    """

    def __init__(self, layers: nn.Sequential, memory_gb: float = 4.0, progress: bool = False) -> None:
        for module in layers:
            if not isinstance(module, nn.Conv2d | nn.Conv3d | nn.ReLU | nn.LeakyReLU | nn.PReLU | nn.Identity):
                raise TypeError(f"{type(module).__name__} cannot be run in slabs")
        self.layers = layers
        self.memory_gb = memory_gb
        self.progress = progress

    @property
    def radius(self) -> list[int]:
        """Receptive radius per axis in voxels."""
        sizes = [m.kernel_size for m in self.layers if isinstance(m, nn.Conv2d | nn.Conv3d)]
        return [sum(size[axis] // 2 for size in sizes) for axis in range(len(sizes[0]))]

    def __call__(self, image: torch.Tensor, cropped: Sequence[bool] | None = None) -> torch.Tensor:
        """Output of the layers.

        Args:
            image: ``(B, C, H, W[, D])``.
            cropped: per spatial axis, whether the image was cut out of a larger one with a halo of the receptive radius
                at both ends: then that halo is used up instead of zeros being padded.

        Returns:
            ``(B, C', H, W', [D'])``; a cropped axis is shorter by twice the receptive radius.
        """
        cropped = [False] * (image.ndim - 2) if cropped is None else list(cropped)
        form = _format([m for m in self.layers if isinstance(m, nn.Conv2d | nn.Conv3d)])
        chain: list[_Layer] = []
        for module in self.layers:
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                chain.append(_Layer(module, cropped, form))
            else:
                chain[-1].after.append(module)
        chain[0].exact = chain[-1].exact = True
        starts = list(range(0, image.shape[2], self._slab(image, chain)))
        bar = tqdm(starts, desc="slabs", leave=False) if self.progress and tqdm and len(starts) > 1 else starts
        done = []
        for start, stop in zip(bar, [*starts[1:], image.shape[2]], strict=True):
            planes = image[:, :, start:stop].contiguous(memory_format=form)
            done.append(self._push(chain, planes, start == 0, stop == image.shape[2]))
        return torch.cat([planes for planes in done if planes is not None], dim=2)

    def _push(self, chain: list[_Layer], planes: torch.Tensor, first: bool, last: bool) -> torch.Tensor | None:
        for layer in chain:
            first_here = first or layer.kept is None
            made = layer(planes, first_here, last)
            if made is None:
                return None
            planes = made
        return planes

    def _slab(self, image: torch.Tensor, chain: list[_Layer]) -> int:
        """Planes per slab so that input, seams and output of the widest layer fit in the memory given."""
        wide = max(max(layer.convolution.in_channels, layer.convolution.out_channels) for layer in chain)
        plane = image.shape[0] * wide * image.element_size() * image[0, 0, 0].numel() / 2**30
        seams = sum(2 * layer.radius for layer in chain) * plane
        length = image.shape[2]
        if 2 * (length + 2) * plane <= self.memory_gb:
            return length
        least = max(1, 4 * max(layer.radius for layer in chain))
        return int(min(length, max(least, (self.memory_gb - seams) / (3 * plane))))


class ForegroundInferer(Inferer):
    """Applies a network with a plain chain of ``layers`` to the foreground's box, and keeps the input outside of it.

    The region read is the box and a halo of the receptive radius, cut at the volume's border, where the layers' own
    zero padding applies as in one pass over the whole volume; only voxels of the box are written. So the result does
    not depend on ``memory_gb`` and equals one pass inside the box.

    The network has ``layers`` (see ``LayerSlabs``) and ``combine(output, image)``, as ``ReCNN`` does.

    Args:
        memory_gb: memory for feature maps, in GiB.
        progress: show a progress bar over the slabs of large volumes.
        foreground: restrict the work to the box; False computes everywhere.
    """

    def __init__(self, memory_gb: float = 4.0, progress: bool = False, foreground: bool = True) -> None:
        super().__init__()
        self.memory_gb = float(memory_gb)
        self.progress = progress
        self.foreground = foreground

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Prediction ``(B, 1, H, W[, D])`` for ``inputs`` ``(B, C, H, W[, D])`` scaled to background 0.

        The network has ``layers`` for ``LayerSlabs``, and ``combine(output, image)``, which makes the prediction.
        """
        network = bare(network)
        image = as_tensor(inputs)
        with torch.no_grad():
            return torch.cat([self._one(case[None], network) for case in image])

    def box(self, image: torch.Tensor) -> list[slice]:
        """The foreground's bounding box in channel 0 of an image ``(B, C, H, W[, D])``."""
        image = as_tensor(image)
        shape = image.shape[2:]
        if not self.foreground:
            return [slice(0, n) for n in shape]
        mask = image[:, 0].abs().amax(dim=0) > 0.02
        box = []
        for axis in range(len(shape)):
            hits = torch.nonzero(mask.movedim(axis, 0).flatten(1).any(dim=1)).flatten()
            box.append(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0))
        return box

    def _one(self, image: torch.Tensor, network: Any) -> torch.Tensor:
        run = LayerSlabs(network.layers, self.memory_gb, self.progress)
        box = self.box(image)
        result = image[:, :1].clone()
        if any(side.start == side.stop for side in box):
            return result
        read, trimmed = [], []
        for side, radius, length in zip(box, run.radius, image.shape[2:], strict=True):
            start, stop = max(0, side.start - radius), min(length, side.stop + radius)
            read.append(slice(start, stop))
            trimmed.append(side.start - radius >= 0 and side.stop + radius <= length)
        part = image[(slice(None), slice(None), *read)]
        out = run(part, trimmed)
        inside, write = [], []
        for side, region, trim in zip(box, read, trimmed, strict=True):
            write.append(side)
            offset = 0 if trim else side.start - region.start
            inside.append(slice(offset, offset + side.stop - side.start))
        place = (slice(None), slice(None), *write)
        result[place] = network.combine(out[(slice(None), slice(None), *inside)], image[place])
        return result
