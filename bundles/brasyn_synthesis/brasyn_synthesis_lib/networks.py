# SPDX-License-Identifier: Apache-2.0
"""Generator and discriminator of Baltruschat et al., "BraSyn 2023 challenge" (arXiv 2403.07800)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets import PatchDiscriminator
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from common.transforms.intensity import PERCENTILES

__all__ = ["Discriminator", "Generator"]

NORMS = (None, "batch", "instance")


class Generator(nn.Module):
    """U-Net of 3x3 convolutions with stride 2 and Mish that makes one slice of a stack of slices (sec. 2.2).

    Each level down doubles the channels up to eight times ``width``. Each level up enlarges twofold by nearest
    neighbours and convolves 3x3 (``EnlargedConv``): no transposed convolution, whose checkerboards would show. The
    output is CeLU, above -1. The paper's network is ``Generator(width=64, depth=8, full_width=0, linear_skip=False)``.

    At sizes that are multiples of 2^depth (256 for the paper's eight levels) this is the paper's network; other sizes
    work too: each level rounds its size up, and what is enlarged is cut to the size of its skip.

    Departs from the paper: with ``full_width`` a last level at full resolution, as the first of the U-Net (Ronneberger
    et al. 2015), sees the stack itself through one convolution; with ``linear_skip`` a linear convolution of the stack
    is added to the result. Features of half the resolution alone blur vessels and edges. Both are off in
    ``configs/paper_*.json``. The compact network has fewer levels and channels than the paper's eight levels and (of
    the network it adapts) 64 channels.

    Buffers hold the histogram standardisation that the weights were trained with (``standardisation.Standardisation``):
    ``landmarks`` (4, 11) and ``tops`` (4,) of the sequences t1n, t1c, t2w, t2f, and the ``target``'s place among them;
    zeros before training. All are floating-point numbers, so that averages of equal weights keep them.

    Args:
        in_channels: sequences times neighbouring slices.
        width: channels of the first level.
        depth: levels.
        full_width: channels at full resolution; 0 leaves that level out.
        linear_skip: whether the result is added to a linear convolution of the stack.
        norm: ``batch`` or ``instance`` normalisation (affine) between convolution and Mish, save in the outermost and
            the innermost level as in pix2pix (Isola et al. 2017); None, as the paper names none. Batch normalisation
            needs the paper's batches of 64: with 8 it made results worse than a linear regression.

    Raises:
        ValueError: a number below 1, or another ``norm``.
    """

    def __init__(
        self,
        in_channels: int = 9,
        width: int = 28,
        depth: int = 4,
        full_width: int = 16,
        linear_skip: bool = True,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        if min(in_channels, width, depth, full_width + 1) < 1:
            numbers = f"{in_channels} channels, width {width}, depth {depth}, full width {full_width}"
            raise ValueError(f"need positive numbers, got {numbers}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
        channels = [in_channels, *[width * min(2**level, 8) for level in range(depth)]]
        self.down = nn.ModuleList(
            _level(nn.Conv2d(channels[i], channels[i + 1], 3, 2, 1), norm if 0 < i < depth - 1 else None)
            for i in range(depth)
        )
        self.up = nn.ModuleList(
            _level(EnlargedConv(channels[i + 1] * (1 if i == depth - 1 else 2), channels[i]), norm)
            for i in range(depth - 1, 0, -1)
        )
        inner = channels[1] * (1 if depth == 1 else 2)
        self.full: nn.Module | None = None
        self.full_skip: nn.Module | None = None
        if full_width:
            self.full = EnlargedConv(inner, full_width)
            self.full_skip = nn.Conv2d(in_channels, full_width, 3, padding=1, bias=False)
        self.last = nn.Conv2d(full_width, 1, 3, padding=1) if full_width else EnlargedConv(inner, 1)
        self.last_skip = nn.Conv2d(in_channels, 1, 3, padding=1, bias=False) if linear_skip else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # keeps the size of features over many levels (He et al. 2015)
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.register_buffer("target", torch.zeros(()))
        self.register_buffer("landmarks", torch.zeros(4, len(PERCENTILES)))
        self.register_buffer("tops", torch.zeros(4))

    @staticmethod
    def form_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Constructor arguments of the network that a state dict belongs to, from names and shapes.

        Raises:
            ValueError: the state dict is not one of this class.
        """
        first, full = state.get("down.0.0.weight"), state.get("full.weight")
        if first is None or first.ndim != 4:
            raise ValueError("there is no down.0.0.weight")
        norm = None
        if "up.0.1.weight" in state:
            norm = "batch" if "up.0.1.running_mean" in state else "instance"
        form: dict[str, Any] = {
            "in_channels": first.shape[1],
            "width": first.shape[0],
            "depth": sum(f"down.{i}.0.weight" in state for i in range(len(state))),
            "full_width": 0 if full is None else full.shape[0],
            "linear_skip": "last_skip.weight" in state,
            "norm": norm,
        }
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in Generator(**form).state_dict().items()}
        for name in sorted(shapes.keys() | state.keys()):
            if name not in shapes or name not in state or state[name].shape != shapes[name]:
                raise ValueError(f"{name} is not what a generator of {form} has")
        return form

    @torch.no_grad()
    def start_linear(self, weights: Sequence[float], bias: float) -> None:
        """Makes the untrained network the linear combination of its middle slices; its features have no say yet.

        Args:
            weights: one per sequence.
            bias: added to all.

        Raises:
            ValueError: a network without ``linear_skip``.
        """
        if self.last_skip is None:
            raise ValueError("a network without linear_skip cannot start as a linear combination")
        neighbours = self.last_skip.in_channels // len(weights)
        self.last.weight.zero_()
        assert self.last.bias is not None  # it is made with one
        self.last.bias.fill_(bias)
        self.last_skip.weight.zero_()
        for i, weight in enumerate(weights):
            self.last_skip.weight[0, i * neighbours + neighbours // 2, 1, 1] = weight

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """Middle slice ``(B, 1, H, W)`` of the missing sequence, above -1, of stacks ``(B, in_channels, H, W)``.

        Inputs and output are standardised and scaled to [0, 1], background 0. The sum before the output is float32
        under autocast, too.
        """
        skips = [stack]
        for level in self.down:
            skips.append(level(skips[-1]))
        features = skips.pop()
        for level in self.up:
            skip = skips.pop()
            features = torch.cat([_cut(level(features), skip), skip], dim=1)
        if self.full is not None and self.full_skip is not None:
            features = F.mish(_cut(self.full(features), stack) + self.full_skip(stack))
        made = _cut(self.last(features), stack).float()
        if self.last_skip is not None:
            made = made + self.last_skip(stack).float()
        return F.celu(made)


def _level(conv: nn.Conv2d, norm: str | None) -> nn.Sequential:
    layers: list[nn.Module] = [conv]
    if norm is not None:
        layers.append(get_norm_layer((norm, {"affine": True}), spatial_dims=2, channels=conv.out_channels))
    return nn.Sequential(*layers, nn.Mish())


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

    MONAI's ``PatchDiscriminator`` with ``num_layers_d=3`` has just five convolutions, 4x4. The three in the middle have
    instance normalisation and a bias by default, as in pix2pix's code; the paper names spectral normalisation alone.

    Args:
        width: channels of the first convolution.
        norm: of the three middle convolutions: ``instance``, ``batch`` (pix2pix; slices of a batch then depend on each
            other) or None.

    Raises:
        ValueError: another ``norm``.
    """

    def __init__(self, width: int = 64, norm: Any = "instance") -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
        network = PatchDiscriminator(2, channels=width, in_channels=1, num_layers_d=3, bias=True, norm=norm)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                spectral_norm(module)
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores of patches ``(B, 1, h, w)``, any real numbers, of slices ``(B, 1, H, W)``."""
        return self.network(image)[-1]
