# SPDX-License-Identifier: Apache-2.0
"""Generator and critic of RSLM-DNN-3D.

Nazleem and Sujatha, "Denoising of MR images using reformed structural loss based 3D multi-scale deep neural network
(RSLM-DNN-3D)"; its parent is SMGAN, You et al., IEEE Access 6, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

__all__ = ["Critic", "Generator", "grow", "memory_format"]

STAGES = ((3, 3, 1), 5, 5, 5, 7, 7, 7, 3, (3, 3, 1))
INITS = ("he", "identity")
LAST_BIAS = 0.05  # keeps the last ReLU open at the start


class Generator(nn.Module):
    """Nine 3D convolutions in five stages, each followed by a ReLU (sec. 3a).

    Stages of 1, 3, 3, 1 and 1 convolutions with filters of 3x3x1, 5x5x5, 7x7x7, 3x3x3 and 3x3x1 voxels, 32 filters
    each; about 1.47 million multiplications per voxel. There is no skip: the network maps the noisy image itself to
    the noise-free one.

    Departs from the paper: the last convolution has one filter ("all the layers have 32", but the output is one
    image); the 3x3x1 filters are padded by (1, 1, 0), since a padding of 1 would let the depth grow; the last bias
    starts at 0.05, so that the last ReLU does not start closed. ``init="identity"`` (not in the paper) starts from a
    network whose first filters hand the image on as it is, which saves much of a short training.

    Args:
        filters: filters of the hidden layers.
        filter_sizes: odd sizes in voxels, one number or three per layer, in order.
        init: ``he`` for He et al. 2015, or ``identity``.

    Raises:
        ValueError: no layer, an even filter size, or an unknown ``init``.
    """

    def __init__(
        self, filters: int = 32, filter_sizes: Sequence[int | Sequence[int]] = STAGES, init: str = "he"
    ) -> None:
        super().__init__()
        sizes = [(size,) * 3 if isinstance(size, int) else tuple(size) for size in filter_sizes]
        if len(sizes) < 2 or any(edge % 2 == 0 for size in sizes for edge in size):
            raise ValueError(f"need at least two layers with odd filter sizes, got {filter_sizes}")
        if init not in INITS:
            raise ValueError(f"init must be one of {INITS}, got {init!r}")
        channels = [1, *[filters] * (len(sizes) - 1), 1]
        layers: list[nn.Module] = []
        for i, size in enumerate(sizes):
            layers += [
                nn.Conv3d(channels[i], channels[i + 1], size, padding=tuple(edge // 2 for edge in size)),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self._initialise(init)

    def _initialise(self, init: str) -> None:
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv3d)]
        for layer in convolutions:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        if init == "identity":
            for layer in convolutions:
                centre = [edge // 2 for edge in layer.kernel_size]
                with torch.no_grad():
                    layer.weight[0] = 0
                    layer.weight[(0, 0, *centre)] = 1
        else:
            nn.init.constant_(convolutions[-1].bias, LAST_BIAS)

    def combine(self, output: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Clamps the layers' output to the range of the image, both ``(B, 1, H, W, D)``, for inference."""
        return output.clamp(0, max(float(image.max()), 0.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Noise-free image ``(B, 1, H, W, D)``, 0 or more, of a noisy one with background 0 and foreground up to 1."""
        return self.layers(image)


def grow(state: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor] | None:
    """Weights of a smaller generator made as deep and wide as ``network``: the same function, cheaper to train first.

    Filters are set into the middle of larger ones; layers missing before the last hand on what they get, which behind a
    ReLU changes nothing (Chen et al., "Net2Net", ICLR 2016); further filters keep the network's random weights towards
    the input and start with zeros towards the output.

    Args:
        state: state dict of a ``Generator``.
        network: ``Generator`` with at least as many layers and filters, and filters at least as large.

    Returns:
        State dict for ``network``, or None where the two do not belong together.
    """
    large = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    given, wanted = ([key for key in part if key.endswith("weight")] for part in (state, large))
    if not given or len(given) > len(wanted) or any(state[key].ndim != 5 for key in given):
        return None
    hidden = state[given[0]].shape[0]
    for i, target in enumerate(wanted):
        last = i == len(wanted) - 1
        source = given[-1] if last else given[i] if i < len(given) - 1 else None
        if source is None:
            weight, bias = torch.eye(hidden).view(hidden, hidden, 1, 1, 1), torch.zeros(hidden)
        else:
            weight, bias = state[source], state[source.replace("weight", "bias")]
        margins = [new - old for new, old in zip(large[target].shape, weight.shape, strict=True)]
        if min(margins) < 0 or any(margin % 2 for margin in margins[2:]):
            return None
        inside = [slice(m // 2, m // 2 + n) for m, n in zip(margins[2:], weight.shape[2:], strict=True)]
        out, into = weight.shape[:2]
        large[target][:out] = 0
        large[target][(slice(out), slice(into), *inside)] = weight.to(large[target])
        large[target.replace("weight", "bias")][:out] = bias.to(large[target])
    return large


def memory_format(device: torch.device | str) -> torch.memory_format:
    """Layout in which 7x7x7 filters run fastest: torch's default on CPUs (1.3 times as fast), else channels last."""
    return torch.contiguous_format if torch.device(device).type == "cpu" else torch.channels_last_3d


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
            layers.append(nn.AdaptiveAvgPool3d(edges))
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
