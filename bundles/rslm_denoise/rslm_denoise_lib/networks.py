# SPDX-License-Identifier: Apache-2.0
"""Generator and critic of RSLM-DNN-3D.

Nazleem and Sujatha, "Denoising of MR images using reformed structural loss based 3D multi-scale deep neural network
(RSLM-DNN-3D)"; its parent is SMGAN, You et al., IEEE Access 6, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from common.io.weights import in_format
from common.utils import values

__all__ = ["COMPACT", "INITS", "STAGES", "Critic", "Generator", "amp_pays", "memory_format", "placed"]

STAGES = ((3, 3, 1), 5, 5, 5, 7, 7, 7, 3, (3, 3, 1))  # the paper's
COMPACT = ((3, 3, 1), *(3,) * 8, (3, 3, 1))
INITS = ("he", "identity")
LAST_BIAS = 0.05  # keeps the last ReLU open at the start


class Generator(nn.Module):
    """Nine 3D convolutions in five stages, each followed by a ReLU (sec. 3a).

    Stages of 1, 3, 3, 1 and 1 convolutions with filters of 3x3x1, 5x5x5, 7x7x7, 3x3x3 and 3x3x1 voxels, 32 filters
    each; about 1.47 million multiplications per voxel. There is no skip: the network maps the noisy image itself to
    the noise-free one. ``COMPACT`` is the member of this family that ships.

    Departs from the paper: the last convolution has one filter ("all the layers have 32", but the output is one
    image); the 3x3x1 filters are padded by (1, 1, 0), since a padding of 1 would let the depth grow; the last bias
    starts at 0.05, so that the last ReLU does not start closed. Not in the paper, and off by default:
    ``init="identity"`` starts from a network that hands the image on as it is, which saves much of a short training;
    ``residual`` adds the noisy image before the last ReLU, so that the layers compute what is taken away.

    Under autocast the first and the last convolution stay in float32, since an image has more grey levels than
    bfloat16. Without ``residual`` the layers between still round the image that they carry: train under autocast, but
    infer in float32.

    Args:
        filters: filters of the hidden layers.
        filter_sizes: odd sizes in voxels, one number or three per layer, in order.
        init: ``he`` for He et al. 2015, or ``identity``.
        residual: add the image to the layers' output.

    Raises:
        ValueError: fewer than two layers, an even filter size, or an unknown ``init``.
    """

    def __init__(
        self,
        filters: int = 32,
        filter_sizes: Sequence[int | Sequence[int]] = STAGES,
        init: str = "he",
        residual: bool = False,
    ) -> None:
        super().__init__()
        sizes = [(size,) * 3 if isinstance(size, int) else tuple(size) for size in filter_sizes]
        if len(sizes) < 2 or any(edge % 2 == 0 for size in sizes for edge in size):
            raise ValueError(f"need at least two layers with odd filter sizes, got {filter_sizes}")
        if init not in INITS:
            raise ValueError(f"init must be one of {INITS}, got {init!r}")
        channels = [1, *[filters] * (len(sizes) - 1), 1]
        layers: list[nn.Module] = []
        for i, (a, b, c) in enumerate(sizes):
            padding = (a // 2, b // 2, c // 2)
            layers += [nn.Conv3d(channels[i], channels[i + 1], (a, b, c), padding=padding), nn.ReLU()]
        self.residual = residual
        self.layers = nn.Sequential(*(layers[:-1] if residual else layers))
        if residual:  # a state dict tells by it which form it belongs to
            self.register_buffer("skip", torch.ones(1))
        self._initialise(init)

    @staticmethod
    def form_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Arguments that build the generator of a state dict, by its names and shapes alone.

        Raises:
            ValueError: it is no generator's.
        """
        weights = [tensor for name, tensor in state.items() if name.endswith("weight")]
        expected = {f"layers.{2 * i}.{part}" for i in range(len(weights)) for part in ("weight", "bias")}
        known = state.keys() in (expected, expected | {"skip"}) and all(weight.ndim == 5 for weight in weights)
        if len(weights) < 2 or not known:
            raise ValueError("no chain of 3D convolutions")
        filters = int(weights[0].shape[0])
        channels = [1, *[filters] * (len(weights) - 1), 1]
        if [tuple(weight.shape[:2]) for weight in weights] != list(zip(channels[1:], channels[:-1], strict=True)):
            raise ValueError("its layers do not have one number of filters")
        sizes = [n[0] if len({*n}) == 1 else n for n in (list(weight.shape[2:]) for weight in weights)]
        return {"filters": filters, "filter_sizes": sizes, "residual": "skip" in state}

    def _initialise(self, init: str) -> None:
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv3d)]
        biases = [layer.bias for layer in convolutions if layer.bias is not None]
        for layer, bias in zip(convolutions, biases, strict=True):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(bias)
        if init == "identity" and self.residual:
            nn.init.zeros_(convolutions[-1].weight)
        elif init == "identity":
            for layer in convolutions:
                centre = [edge // 2 for edge in layer.kernel_size]
                with torch.no_grad():
                    layer.weight[0] = 0
                    layer.weight[(0, 0, *centre)] = 1
        elif not self.residual:
            nn.init.constant_(biases[-1], LAST_BIAS)

    def combine(self, output: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """What the layers' output makes of the image, both ``(B, 1, H, W, D)``, within the image's range.

        For inference, where the layers are run in parts.
        """
        if self.residual:
            output = image + output
        return output.clamp(0, max(float(image.max()), 0.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Noise-free image ``(B, 1, H, W, D)``, 0 or more, of a noisy one with background 0 and foreground up to 1."""
        output = self.layers(image) if torch.jit.is_scripting() else self._layers(image)
        return torch.relu(image + output) if self.residual else output

    @torch.jit.unused
    def _layers(self, image: torch.Tensor) -> torch.Tensor:
        """The layers, the first and the last in float32 under autocast: bfloat16 would show as steps of grey."""
        kind, last = image.device.type, len(self.layers) - (1 if self.residual else 2)
        with torch.autocast(kind, enabled=False):
            features = self.layers[:2](image.float())
        features = self.layers[2:last](features)
        with torch.autocast(kind, enabled=False):
            return self.layers[last:](features.float())


def memory_format(network: nn.Module, device: torch.device | str) -> torch.memory_format:
    """Layout in which the network runs fastest: on CPUs 7x7x7 filters want torch's default, others channels last."""
    large = any(max(m.kernel_size) > 5 for m in network.modules() if isinstance(m, nn.Conv3d))
    return torch.contiguous_format if large and torch.device(device).type == "cpu" else torch.channels_last_3d


def placed(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on a device, in its ``memory_format`` there."""
    return in_format(network, memory_format(network, device), device)


def amp_pays(network: Generator, device: torch.device | str) -> bool:
    """Whether inference gains from mixed precision: without ``residual`` the layers would round the image."""
    return network.residual and values.amp_pays(device)


class Critic(nn.Module):
    """Six convolutions with 64, 64, 128, 128, 256 and 256 filters, two dense layers with 1024 and 1 units (sec. 3b).

    By default 2D convolutions with the depth slices of a patch as channels, as in SMGAN ("2D filter in D"); with
    ``spatial_dims=3`` 3D ones and a pooling to 2x2x2 cells, which keeps the first dense layer small. Strides 1, 2, 1,
    2, 1, 2 and LeakyReLU slopes of 0.2 as in SMGAN.

    Departs from the paper: no LeakyReLU behind the last unit, since a Wasserstein critic is unbounded and linear there.

    Args:
        patch_size: edge lengths of the patches, one number or three.
        spatial_dims: 2 or 3.
        filters: filters per convolution.
        units: units of the first dense layer.

    Raises:
        ValueError: ``spatial_dims`` is neither 2 nor 3.
    """

    def __init__(
        self,
        patch_size: int | Sequence[int],
        spatial_dims: int = 2,
        filters: Sequence[int] = (64, 64, 128, 128, 256, 256),
        units: int = 1024,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        self.spatial_dims = spatial_dims
        self.patch_size = (patch_size,) * 3 if isinstance(patch_size, int) else tuple(patch_size)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        channels = [self.patch_size[2] if spatial_dims == 2 else 1, *filters]
        edges = list(self.patch_size[:spatial_dims])
        layers: list[nn.Module] = []
        for i in range(len(filters)):
            stride = 1 + i % 2
            layers += [convolution(channels[i], channels[i + 1], 3, stride, padding=1), nn.LeakyReLU(0.2)]
            edges = [-(-edge // stride) for edge in edges]
        if spatial_dims == 3:
            edges = [min(edge, 2) for edge in edges]
            layers.append(nn.AdaptiveAvgPool3d(tuple(edges)))
        cells = 1
        for edge in edges:
            cells *= edge
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(filters[-1] * cells, units), nn.LeakyReLU(0.2), nn.Linear(units, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores ``(B, 1)``, any real numbers, of patches ``(B, 1, *patch_size)``.

        Raises:
            ValueError: patches of another size.
        """
        if tuple(image.shape[2:]) != self.patch_size:
            raise ValueError(f"this critic judges patches of {self.patch_size} voxels, got {tuple(image.shape[2:])}")
        if self.spatial_dims == 2:
            image = image[:, 0].movedim(-1, 1)
        return self.head(self.features(image))
