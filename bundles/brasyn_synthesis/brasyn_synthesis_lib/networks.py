# SPDX-License-Identifier: Apache-2.0
"""Generator and discriminator of Baltruschat et al., "BraSyn 2023 challenge" (arXiv 2403.07800)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.networks.nets import PatchDiscriminator
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["Discriminator", "Generator"]

HASH_BYTES = 32  # of SHA-256


class Generator(nn.Module):
    """U-Net of 3x3 convolutions with stride 2 and Mish that makes one slice of a stack of slices (sec. 2.2).

    Each level down doubles the channels up to eight times ``width``. Each level up enlarges twofold by nearest
    neighbours and convolves 3x3 (``EnlargedConv``): no transposed convolution, whose checkerboards would show. The
    output is CeLU, above -1. Nothing is normalised: the paper names no normalisation, and the batch normalisation of
    pix2pix needs the paper's batches of 64 (with 8 it made results worse than a linear regression).

    At sizes that are multiples of 2^depth (256 for the paper's eight levels) this is the paper's network; other sizes
    work too: each level rounds its size up, and what is enlarged is cut to the size of its skip.

    Departs from the paper: a last level at full resolution, as the first of the U-Net (Ronneberger et al. 2015), sees
    the stack itself through one convolution, and a linear convolution of the stack is added to its result, since
    features of half the resolution alone blur vessels and edges. The width of the shipped weights is 28, the paper's
    (of the network it adapts) 64.

    The buffer ``landmarks`` holds the hash of the landmarks that the weights were trained with, so that they cannot be
    used with others; zeros before training.

    Args:
        in_channels: sequences times neighbouring slices.
        width: channels of the first level.
        depth: levels.
        full_width: channels at full resolution.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, in_channels: int = 9, width: int = 28, depth: int = 8, full_width: int = 16) -> None:
        super().__init__()
        if min(in_channels, width, depth, full_width) < 1:
            numbers = f"{in_channels} channels, width {width}, depth {depth}, full width {full_width}"
            raise ValueError(f"need positive numbers, got {numbers}")
        channels = [in_channels, *[width * min(2**level, 8) for level in range(depth)]]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[i], channels[i + 1], 3, 2, 1), nn.Mish()) for i in range(depth)
        )
        self.up = nn.ModuleList(
            nn.Sequential(EnlargedConv(channels[i + 1] * (1 if i == depth - 1 else 2), channels[i]), nn.Mish())
            for i in range(depth - 1, 0, -1)
        )
        self.full = EnlargedConv(channels[1] * (1 if depth == 1 else 2), full_width)
        self.full_skip = nn.Conv2d(in_channels, full_width, 3, padding=1, bias=False)
        self.last = nn.Conv2d(full_width, 1, 3, padding=1)
        self.last_skip = nn.Conv2d(in_channels, 1, 3, padding=1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # keeps the size of features over many levels (He et al. 2015)
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.register_buffer("landmarks", torch.zeros(HASH_BYTES, dtype=torch.uint8))

    @torch.no_grad()
    def start_linear(self, weights: Sequence[float], bias: float) -> None:
        """Makes the untrained network the linear combination of its middle slices; its features have no say yet.

        Args:
            weights: one per sequence.
            bias: added to all.
        """
        neighbours = self.last_skip.in_channels // len(weights)
        self.last.weight.zero_()
        self.last.bias.fill_(bias)
        self.last_skip.weight.zero_()
        for i, weight in enumerate(weights):
            self.last_skip.weight[0, i * neighbours + neighbours // 2, 1, 1] = weight

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """Middle slice ``(B, 1, H, W)`` of the missing sequence, above -1, of stacks ``(B, in_channels, H, W)``.

        Inputs and output are standardised and scaled to [0, 1], background 0.
        """
        skips = [stack]
        for level in self.down:
            skips.append(level(skips[-1]))
        features = skips.pop()
        for level in self.up:
            skip = skips.pop()
            features = torch.cat([_cut(level(features), skip), skip], dim=1)
        full = F.mish(_cut(self.full(features), stack) + self.full_skip(stack))
        return F.celu(self.last(full) + self.last_skip(stack))


class EnlargedConv(nn.Conv2d):
    """A 3x3 convolution of an image enlarged twofold by nearest neighbours, computed on the small image.

    The pixels that the nine weights meet are at most four different ones, so four 2x2 convolutions, one for each place
    in a pixel's four copies, give the same with 4 instead of 9 multiplications per output.

    Args:
        in_channels, out_channels, bias: as in ``torch.nn.Conv2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, out, 2 H, 2 W)`` of ``(B, in, H, W)``."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript leaves out what stands inside
            if torch.compiler.is_exporting():  # by definition: what follows ties free sizes to those of the example
                return F.conv2d(F.interpolate(image, scale_factor=2), self.weight, self.bias, padding=1)
        first, middle, last = self.weight.unbind(dim=2)
        rows = [torch.stack([first, middle + last], dim=2), torch.stack([first + middle, last], dim=2)]
        kernels = []
        for row in rows:
            first, middle, last = row.unbind(dim=3)
            kernels += [torch.stack([first, middle + last], dim=3), torch.stack([first + middle, last], dim=3)]
        bias = self.bias
        if bias is not None:
            bias = bias.repeat(4)
        weight = torch.cat(kernels)
        made = F.conv2d(image, weight, bias, padding=1)  # one row and column more than the image
        made = made.unflatten(1, (2, 2, self.out_channels))
        height, width = image.shape[2:]
        columns = [
            torch.stack([made[:, a, b, :, a : a + height, b : b + width] for b in (0, 1)], dim=-1) for a in (0, 1)
        ]
        return torch.stack(columns, dim=3).reshape(image.shape[0], self.out_channels, 2 * height, 2 * width)


def _cut(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102 - as above
        if torch.compiler.is_exporting():  # a slice would tie free sizes to even ones
            for axis in (-2, -1):
                image = image.index_select(axis, torch.arange(like.shape[axis], device=image.device))
            return image
    return image[..., : like.shape[-2], : like.shape[-1]]


class Discriminator(nn.Module):
    """Five-layer PatchGAN with spectral normalisation, of the target's slice alone (sec. 2.2, eq. 5 and 6).

    MONAI's ``PatchDiscriminator`` with ``num_layers_d=3`` has just five convolutions, 4x4.

    Departs from the paper: spectral normalisation takes the place of batch normalisation, which would let slices of a
    batch depend on each other.

    Args:
        width: channels of the first convolution.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        network = PatchDiscriminator(spatial_dims=2, channels=width, in_channels=1, num_layers_d=3, norm=None)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                spectral_norm(module)
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores of patches ``(B, 1, h, w)``, any real numbers, of slices ``(B, 1, H, W)``."""
        return self.network(image)[-1]
