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

INNERMOST = 3  # levels without batch normalisation
HASH_BYTES = 32  # of SHA-256


class Generator(nn.Module):
    """U-Net of 3x3 convolutions with stride 2 and Mish that makes one slice of a stack of slices (sec. 2.2).

    Each level down doubles the channels up to eight times ``width``. Each level up enlarges twofold by nearest
    neighbours and convolves 3x3 (``EnlargedConv``): no transposed convolution, whose checkerboards would show. The
    output is CeLU, above -1. Batch normalisation as in pix2pix, but not in the three innermost levels: a crop has 1 to
    16 pixels there, whose statistics a small batch cannot tell.

    At sizes that are multiples of 2^depth (256 for the paper's eight levels) this is the paper's network; other sizes
    work too: each level rounds its size up, and what is enlarged is cut to the size of its skip.

    Departs from the paper: the stack itself is the skip of the last level, as in the first level of the U-Net
    (Ronneberger et al. 2015), since half-resolution features alone blur the result. The width of the shipped weights
    is 28, the paper's (of the network it adapts) 64.

    The buffer ``landmarks`` holds the hash of the landmarks that the weights were trained with, so that they cannot be
    used with others; zeros before training.

    Args:
        in_channels: sequences times neighbouring slices.
        width: channels of the first level.
        depth: levels.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, in_channels: int = 9, width: int = 28, depth: int = 8) -> None:
        super().__init__()
        if min(in_channels, width, depth) < 1:
            raise ValueError(f"need positive numbers, got {in_channels} channels, width {width}, depth {depth}")
        channels = [in_channels, *[width * min(2**level, 8) for level in range(depth)]]
        # the outermost level sees the image itself; the innermost ones have too few pixels for small batches
        normal = range(1, depth - INNERMOST)
        self.down = nn.ModuleList(
            _block(nn.Conv2d(channels[i], channels[i + 1], 3, 2, 1, bias=i not in normal)) for i in range(depth)
        )
        self.up = nn.ModuleList(
            _block(
                EnlargedConv(
                    channels[i + 1] * (1 if i == depth - 1 else 2), channels[i], bias=i - 1 not in (0, *normal)
                )
            )
            for i in range(depth - 1, 0, -1)
        )
        self.last = EnlargedConv(channels[1] * (1 if depth == 1 else 2), 1)
        self.last_skip = nn.Conv2d(in_channels, 1, 3, padding=1, bias=False)
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
        return F.celu(_cut(self.last(features), stack) + self.last_skip(stack))


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


def _block(convolution: nn.Conv2d) -> nn.Sequential:
    """A convolution with Mish; without a bias it has batch normalisation, which brings one."""
    normalised = [] if convolution.bias is not None else [nn.BatchNorm2d(convolution.out_channels)]
    return nn.Sequential(convolution, *normalised, nn.Mish())


def _cut(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
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
