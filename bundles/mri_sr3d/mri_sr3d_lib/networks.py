# SPDX-License-Identifier: Apache-2.0
"""The residual convolutional network of Pham et al.

Pham et al., "Multiscale brain MRI super-resolution using deep 3D convolutional networks",
Computerized Medical Imaging and Graphics 77:101647, 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from common.utils.values import boolean

__all__ = ["ReCNN", "form"]

INITS = ("he", "xavier", "normal_0.001", "normal_0.01")


class ReCNN(nn.Module):
    """Chain of 3D convolutions that predicts what spline interpolation misses (sec. 2.2, eq. 5 and 6, fig. 1).

    ``num_layers`` convolutions, each but the last followed by a ReLU; the skip adds the interpolated image, so the
    layers learn the residual ``R = X - Z``. With guide sequences (sec. 5, fig. 9) the input carries them as channels
    1, 2, ... and the skip adds channel 0 only. SRCNN3D is ``filter_sizes=(9, 1, 5), filters=(64, 32), residual=False``.

    Departs from the paper: nothing in the layers; the released training network adds all input channels in the guided
    skip, the released test network only the interpolated image: this one follows the latter, as figure 9 shows.

    Args:
        num_layers: number of convolutions L, the last one linear with one filter.
        filters: filters of the hidden layers: one number, or one per hidden layer.
        filter_sizes: odd edge length of the filters in voxels: one number, or one per layer.
        guides: number of guide sequences, as further input channels.
        residual: add the interpolated image to the output.
        init: ``he`` (sec. 3.4, ``N(0, sqrt(2 / (n f^3)))`` with n input channels), ``xavier``
            (``U(-sqrt(3 / (n f^3)), +sqrt(3 / (n f^3)))``), ``normal_0.001`` or ``normal_0.01``. Biases start at 0.

    Raises:
        ValueError: an even filter size, sequences of the wrong length or an unknown ``init``.
    """

    def __init__(
        self,
        num_layers: int = 20,
        filters: int | Sequence[int] = 64,
        filter_sizes: int | Sequence[int] = 3,
        guides: int = 0,
        residual: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        widths = [filters] * (num_layers - 1) if isinstance(filters, int) else list(filters)
        sizes = [filter_sizes] * num_layers if isinstance(filter_sizes, int) else list(filter_sizes)
        if len(widths) != num_layers - 1 or len(sizes) != num_layers:
            raise ValueError(
                f"{num_layers} layers need {num_layers - 1} filter counts and {num_layers} filter sizes, "
                f"got {len(widths)} and {len(sizes)}"
            )
        if any(size % 2 == 0 for size in sizes):
            raise ValueError(f"filter sizes must be odd, got {sizes}")
        if init not in INITS:
            raise ValueError(f"init must be one of {INITS}, got {init!r}")
        self.residual = boolean(residual)
        channels = [1 + guides, *widths, 1]
        layers: list[nn.Module] = []
        for i, size in enumerate(sizes):
            layers.append(nn.Conv3d(channels[i], channels[i + 1], size, padding=size // 2))
            if i < num_layers - 1:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)
        self._initialise(init)

    @classmethod
    def form_of(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Constructor arguments of the network that a state dict belongs to, read off its names and shapes.

        Raises:
            ValueError: not the state dict of a ``ReCNN``.
        """
        shapes = [state[f"layers.{2 * i}.weight"].shape for i in range(len(state)) if f"layers.{2 * i}.weight" in state]
        names = {f"layers.{2 * i}.{name}" for i in range(len(shapes)) for name in ("weight", "bias")}
        if not shapes or state.keys() != names or any(len(shape) != 5 for shape in shapes):
            raise ValueError("its tensors are not those of a chain of 3D convolutions")
        widths, sizes = [shape[0] for shape in shapes[:-1]], [shape[2] for shape in shapes]
        return {
            "num_layers": len(shapes),
            "filters": widths[0] if len(set(widths)) == 1 else widths,
            "filter_sizes": sizes[0] if len(set(sizes)) == 1 else sizes,
            "guides": shapes[0][1] - 1,
        }

    def _initialise(self, init: str) -> None:
        for module in self.layers:
            if not isinstance(module, nn.Conv3d):
                continue
            fan_in = module.in_channels * module.kernel_size[0] ** 3
            if init == "he":
                nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5)
            elif init == "xavier":
                nn.init.uniform_(module.weight, -((3 / fan_in) ** 0.5), (3 / fan_in) ** 0.5)
            else:
                nn.init.normal_(module.weight, std=float(init.removeprefix("normal_")))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def combine(self, output: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Adds the interpolated image to the layers' output; ``(B, 1, H, W, D)`` and ``(B, 1 + guides, H, W, D)``."""
        return output + image[:, :1] if self.residual else output

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Super-resolved image.

        Args:
            image: spline-interpolated image on the high-resolution grid, then the guides, ``(B, 1 + guides, H, W, D)``,
                intensities with background at 0 and the foreground's 99.9 percentile at 1.

        Returns:
            ``(B, 1, H, W, D)`` in the same intensities.
        """
        return self.combine(self.layers(image), image)


def form(network: Mapping[str, Any], guides: int) -> dict[str, Any]:
    """A budget's network, with 10 layers at most where there are guides (fig. 12: deeper ones do not help there)."""
    return {**network, "num_layers": min(network["num_layers"], 10)} if guides else dict(network)
