# SPDX-License-Identifier: Apache-2.0
"""A volume seen from nine sides: slice-wise predictions along straight and turned axes, fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.inferers import Inferer

from common.inferers.stacks import SliceStackInferer
from common.utils.images import as_tensor

try:
    from tqdm import tqdm
except ImportError:  # the bar is a comfort
    tqdm = None

__all__ = ["ViewsInferer", "turn", "turn_back"]

ANGLE = math.pi / 4
MARGIN = 2  # voxels around what is not zero, so that its rim is interpolated with zeros and not cut
OUTPUTS = ("mean", "sd", "straight")


class ViewsInferer(Inferer):
    """Fuses slice-wise predictions across nine slice directions (Baltruschat et al. 2024, sec. 2.4; Sci Rep 11:24237).

    The directions are the three axes and, for each axis, the two that a turn by +45 degrees about one of the other axes
    makes of it. A volume turned about one axis serves two of them, so three turned volumes serve all six. Predictions
    are turned back and averaged with ones that were turned there and back as weights, so that a volume's border does
    not darken. Turns interpolate linearly, about the middle of the box around what is not 0, on a grid that holds all
    of the box.

    Args:
        views: 9, or 1 for slices across ``axis`` alone.
        axis: axis of the single view, and of the output "straight".
        neighbours, batch_size, multiple: see ``SliceStackInferer``.
        outputs: channels of the result: "mean" of the views, "sd" their weighted standard deviation (0 for one view),
            "straight" the view across ``axis`` alone.
        progress: show a bar over the views.

    Raises:
        ValueError: another number of views, or an unknown output.
    """

    def __init__(
        self,
        views: int = 9,
        axis: int = 2,
        neighbours: int = 3,
        batch_size: int = 16,
        multiple: int = 32,
        outputs: Sequence[str] = ("mean",),
        progress: bool = False,
    ) -> None:
        super().__init__()
        if views not in (1, 9) or not outputs or not set(outputs) <= set(OUTPUTS):
            raise ValueError(f"views must be 1 or 9 and outputs of {OUTPUTS}, got {views!r} and {list(outputs)}")
        self.views, self.axis, self.outputs, self.progress = views, axis, tuple(outputs), progress
        self.slicers = [SliceStackInferer(a, neighbours, batch_size, multiple) for a in range(3)]

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Result ``(1, len(outputs), H, W, D)`` of one volume ``(1, C, H, W, D)``; 0 outside what is not 0.

        Args:
            inputs: the volume; where all channels are 0 there is nothing.
            network: 2D network of stacks, see ``SliceStackInferer``.
            *args: handed on to the network.
            **kwargs: handed on to the network.
        """
        if inputs.ndim != 5 or len(inputs) != 1:
            raise ValueError(f"expected one volume (1, C, H, W, D), got {tuple(inputs.shape)}")
        volume = as_tensor(inputs[0])
        window = self.box(inputs)
        part = volume[(slice(None), *window)]
        total, squares, weights = (part.new_zeros(part.shape[1:]) for _ in range(3))
        straight = total  # until it is made
        bar = tqdm(total=self.views, desc="views", mininterval=1) if self.progress and tqdm is not None else None
        for slice_axis, turned_about, made in self._predictions(part, network, args, kwargs):
            weight = torch.ones(())
            if turned_about is None and slice_axis == self.axis:
                straight = made
            if turned_about is not None:
                made, weight = turn_back(made[None], turned_about, part.shape[1:])[0], self._weight(part, turned_about)
            total += made
            if "sd" in self.outputs:  # a view by itself is its turned prediction over its turned ones
                squares += made.square() / weight.clamp_min(1e-3)
            weights += weight
            if bar is not None:
                bar.update()
        if bar is not None:
            bar.close()
        mean = total / weights
        parts = {"mean": mean, "straight": straight}
        if "sd" in self.outputs:
            parts["sd"] = (squares / weights - mean.square()).clamp_min(0).sqrt()
        result = volume.new_zeros(1, len(self.outputs), *volume.shape[1:])
        result[0][(slice(None), *window)] = torch.stack([parts[name] for name in self.outputs])
        return result

    def box(self, inputs: torch.Tensor) -> list[slice]:
        """The part of ``(1, C, H, W, D)`` that is worked on: what is not 0 and a small margin."""
        filled = as_tensor((inputs[0] != 0).any(dim=0))
        if not filled.any():
            return [slice(0, n) for n in filled.shape]
        sides = []
        for axis, length in enumerate(filled.shape):
            used = torch.nonzero(filled.movedim(axis, 0).flatten(1).any(dim=1)).flatten()
            sides.append(slice(max(int(used[0]) - MARGIN, 0), min(int(used[-1]) + 1 + MARGIN, length)))
        return sides

    def stacks(self, inputs: torch.Tensor) -> list[tuple[int, int, int]]:
        """How many stacks of which height and width the network will be given, at most, for a time estimate."""
        shape = [side.stop - side.start for side in self.box(inputs)]
        found = []
        for about, axes in self._plan():
            size = shape if about is None else canvas(shape, about)
            found += [(size[a], *[n for b, n in enumerate(size) if b != a]) for a in axes]
        return found

    def _plan(self) -> list[tuple[int | None, list[int]]]:
        if self.views == 1:
            return [(None, [self.axis])]
        return [(None, [0, 1, 2]), *[(about, [a for a in range(3) if a != about]) for about in range(3)]]

    def _predictions(
        self, part: torch.Tensor, network: Callable, args: tuple, kwargs: dict
    ) -> Iterator[tuple[int, int | None, torch.Tensor]]:
        for about, axes in self._plan():
            seen = part if about is None else turn(part, about)
            for axis in axes:
                yield axis, about, self.slicers[axis](seen[None], network, *args, **kwargs)[0, 0].to(part.dtype)

    def _weight(self, part: torch.Tensor, about: int) -> torch.Tensor:
        """Ones turned there and back; the same in every plane across the axis of the turn."""
        shape = [1 if a == about else n for a, n in enumerate(part.shape[1:])]
        return turn_back(turn(part.new_ones(1, *shape), about), about, shape)[0]


def canvas(shape: Sequence[int], about: int) -> list[int]:
    """Size of the grid that holds all of a volume turned by 45 degrees about an axis."""
    rows, columns = (n for a, n in enumerate(shape) if a != about)
    edge = math.ceil(rows * math.cos(ANGLE) + columns * math.sin(ANGLE)) + 1
    return [n if a == about else edge for a, n in enumerate(shape)]


def turn(volume: torch.Tensor, about: int) -> torch.Tensor:
    """A volume turned by +45 degrees about an axis through its middle, linear; 0 comes in from outside.

    Args:
        volume: ``(C, H, W, D)``.
        about: spatial axis, 0 to 2.

    Returns:
        ``(C, *canvas(shape, about))``.
    """
    return _resample(volume, about, canvas(volume.shape[1:], about), ANGLE)


def turn_back(volume: torch.Tensor, about: int, shape: Sequence[int]) -> torch.Tensor:
    """The reverse of ``turn`` onto a grid of the given shape."""
    return _resample(volume, about, shape, -ANGLE)


def _resample(volume: torch.Tensor, about: int, shape: Sequence[int], angle: float) -> torch.Tensor:
    """Turned in the plane across the axis: a volume's planes are channels that share one 2D grid."""
    planes = volume.movedim(about + 1, 1)  # (C, N, h, w)
    size = [n for a, n in enumerate(shape) if a != about]
    rows, columns = (torch.arange(n, dtype=torch.float32, device=volume.device) - (n - 1) / 2 for n in size)
    cosine, sine = math.cos(angle), math.sin(angle)
    y = cosine * rows[:, None] - sine * columns
    x = sine * rows[:, None] + cosine * columns
    grid = torch.stack([2 * x / planes.shape[3], 2 * y / planes.shape[2]], dim=-1)[None].to(volume.dtype)
    flat = planes.reshape(1, -1, *planes.shape[2:])
    made = F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return made.reshape(*planes.shape[:2], *size).movedim(1, about + 1)
