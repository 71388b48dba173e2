# SPDX-License-Identifier: Apache-2.0
"""Generators and critic of the lesion-focused super-resolution.

Zhu, Yang and Lio, "How can we make GAN perform better in single medical image super-resolution? A lesion focused
multi-scale approach", ISBI 2019; SRResNet and its discriminator: Ledig et al., "Photo-realistic single image
super-resolution using a generative adversarial network", CVPR 2017.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from monai.networks.utils import icnr_init
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.errors import InputError

__all__ = ["Critic", "MultiScaleGenerator", "SRResNet", "fold", "interpolate"]

FACTOR = 4


def interpolate(image: torch.Tensor, factor: int = FACTOR, mode: str = "bicubic") -> torch.Tensor:
    """``(B, 1, h, w)`` on a grid ``factor`` times as fine whose field of view is the same."""
    return F.interpolate(image, scale_factor=factor, mode=mode, align_corners=False)


class _Block(nn.Module):
    """Convolution, batch normalisation, PReLU, convolution, batch normalisation, and the block's input added."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(filters)
        self.activation = nn.PReLU()
        self.second = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(filters)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        inner = self.activation(self.first_norm(self.first(features)))
        return self.second_norm(self.second(inner)) + features


class _Doubling(nn.Sequential):
    """Sub-pixel up-sampling by 2: convolution to four times the filters, pixel shuffle, PReLU."""

    def __init__(self, filters: int) -> None:
        convolution = nn.Conv2d(filters, 4 * filters, 3, padding=1)
        icnr_init(convolution, 2)  # the four sub-pixels start alike: no checkerboard
        super().__init__(convolution, nn.PixelShuffle(2), nn.PReLU())


class _Head(nn.Conv2d):
    """The convolution to an image, in float32 whatever autocast does around it."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            return self._conv_forward(features, self.weight, self.bias)
        with torch.autocast(features.device.type, enabled=False):
            return self._conv_forward(features.float(), self.weight, self.bias)


class SRResNet(nn.Module):
    """Residual blocks on the low-resolution grid, then two doublings by sub-pixel convolution (Ledig et al., fig. 4).

    Departs from the paper: with ``skip`` the heads' outputs are added to the bicubic interpolation of the input and the
    heads start at zero, so that an untrained network is bicubic interpolation; on a CPU this saves most of a training.
    One slope per PReLU, sub-pixel filters initialised alike (ICNR).

    Compact forms (fewer filters and blocks) are of the same family; ``form_of`` reads from weights which one they are.
    Autocast leaves the heads in float32: rounding their image to bfloat16 would cost what they add.

    Args:
        filters: filters of all hidden layers.
        blocks: residual blocks on the low-resolution grid.
        middle_blocks: residual blocks on the x2 grid.
        x2_head: in training also give the image on the x2 grid.
        skip: add the interpolated input to the heads' outputs.
    """

    __jit_unused_properties__ = ("multiplications", "radius", "values_per_pixel")

    def __init__(
        self,
        filters: int = 64,
        blocks: int = 16,
        middle_blocks: int = 0,
        x2_head: bool = False,
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.skip = skip
        self.factor = FACTOR  # of the grid of the image in inference, see ``fold``
        if not self.skip:  # weights of the two forms must not be taken for each other's
            self.register_buffer("no_skip", torch.ones(()))
        self.enter = nn.Sequential(nn.Conv2d(1, filters, 9, padding=4), nn.PReLU())
        self.blocks = nn.Sequential(*[_Block(filters) for _ in range(blocks)])
        self.leave = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.leave_norm = nn.BatchNorm2d(filters)
        self.to_x2 = _Doubling(filters)
        self.head_x2 = _Head(filters, 1, 3, padding=1) if x2_head else None
        self.middle = nn.Sequential(*[_Block(filters) for _ in range(middle_blocks)])
        self.to_x4 = _Doubling(filters)
        self.head_x4 = _Head(filters, 1, 9, padding=4)
        for module in self.modules():
            if isinstance(module, _Block):
                nn.init.kaiming_normal_(module.first.weight, nonlinearity="relu")
                nn.init.kaiming_normal_(module.second.weight, nonlinearity="relu")
        if self.skip:
            for head in (self.head_x2, self.head_x4):
                if head is not None:
                    nn.init.zeros_(head.weight)
                    if head.bias is not None:
                        nn.init.zeros_(head.bias)

    @staticmethod
    def form_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The arguments that weights were trained with, from names and shapes alone.

        Args:
            state: state dict of any of this family, not folded.

        Raises:
            ValueError: weights of something else.
        """
        width = state.get("leave.weight")
        if width is None or width.ndim != 4:
            raise ValueError("not the weights of an SRResNet")
        blocks, middle = (len({k.split(".")[1] for k in state if k.startswith(f"{p}.")}) for p in ("blocks", "middle"))
        return {
            "filters": width.shape[0],
            "blocks": blocks,
            "middle_blocks": middle,
            "x2_head": "head_x2.weight" in state,
            "skip": "no_skip" not in state,
        }

    @property
    def multiplications(self) -> int:
        """Multiplications per low-resolution pixel."""
        grids = {self.middle: 4, self.to_x4: 4, self.head_x4: 16 if isinstance(self.head_x4, nn.Conv2d) else 4}
        if self.head_x2 is not None:
            grids[self.head_x2] = 4 if self.training or self.factor == 2 else 0
        grids |= {self.enter: 1, self.blocks: 1, self.leave: 1, self.to_x2: 1}
        return sum(
            pixels * module.weight.numel()
            for part, pixels in grids.items()
            for module in part.modules()
            if isinstance(module, nn.Conv2d)
        )

    @property
    def radius(self) -> int:
        """Receptive radius in low-resolution pixels."""
        grids = {self.enter: 1, self.blocks: 1, self.leave: 1, self.to_x2: 1, self.middle: 2, self.to_x4: 2}
        grids[self.head_x4] = 4 if isinstance(self.head_x4, nn.Conv2d) else 2
        reach = sum(
            module.kernel_size[0] // 2 / finer
            for part, finer in grids.items()
            for module in part.modules()
            if isinstance(module, nn.Conv2d)
        )
        return max(math.ceil(reach), 2)  # the bicubic skip reads two pixels

    @property
    def values_per_pixel(self) -> int:
        """Values of all feature maps held at a time per low-resolution pixel, at most, in inference."""
        x4, before = 16 * self.leave.out_channels, 9 * self.leave.out_channels  # two on the x2 grid, the first layer's
        return before + x4 * (2 if isinstance(self.head_x4, nn.Conv2d) else 1)  # shuffle and PReLU copy if not folded

    def forward(self, image: torch.Tensor):  # no annotation: TorchScript would want one type
        """Standardised slices ``(B, 1, h, w)`` to ``(B, 1, 4h, 4w)``, any real numbers.

        In training, a network with an x2 head returns the list ``[(B, 1, 2h, 2w), (B, 1, 4h, 4w)]``.
        """
        first = self.enter(image)
        features = self.to_x2(self.leave_norm(self.leave(self.blocks(first))) + first)
        if not torch.jit.is_scripting() and self.factor == 2:
            return self._small(features, image)
        large = self.head_x4(self.to_x4(self.middle(features)))
        if self.skip:
            large = large + F.interpolate(image, scale_factor=4.0, mode="bicubic", align_corners=False)
        if not torch.jit.is_scripting() and self.training and self.head_x2 is not None:
            return [self._small(features, image), large]
        return large

    @torch.jit.unused
    def _small(self, features: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """The image on the x2 grid, of features there."""
        assert self.head_x2 is not None
        small = self.head_x2(features)
        return small + interpolate(image, 2) if self.skip else small


class MultiScaleGenerator(SRResNet):
    """MS-GAN's generator (fig. 1, eq. 6): an image on the x2 grid first, and the x4 grid reached from its features.

    "The higher dimensional images are achieved from the lower dimensional ones" (sec. 2.2.2) can mean that the second
    half is given the x2 image, or the features that this image is made of. The features are taken: eq. 6 writes both
    images as outputs of one G for one input, and a single channel would lose what 64 hold. The second half still rests
    on what eq. 6 trains towards the x2 image. ``fold`` gives that image in inference.

    Departs from the paper: it does not say how many residual blocks stand on the x2 grid; six make it 1.9 times as
    costly as ``SRResNet``, which is what its inference times say (7.75 s against 4.04 s). The rest as in ``SRResNet``.

    Args:
        filters, blocks, skip: as for ``SRResNet``.
        middle_blocks: residual blocks on the x2 grid.
    """

    def __init__(self, filters: int = 64, blocks: int = 16, middle_blocks: int = 6, skip: bool = True) -> None:
        super().__init__(filters, blocks, middle_blocks, x2_head=True, skip=skip)

    @staticmethod
    def form_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """As for ``SRResNet``; weights without an x2 head are no multi-scale generator's."""
        form = SRResNet.form_of(state)
        if not form.pop("x2_head"):
            raise ValueError("these weights have no x2 head; they are an SRResNet's")
        return form


def fold(network: nn.Module, factor: int = FACTOR) -> nn.Module:
    """Makes a trained ``SRResNet`` faster without changing what it computes, in place; it is no longer for training.

    Args:
        network: as its weights tell.
        factor: 2 for the image on the x2 grid, the first of eq. 6, without what comes behind it.

    Raises:
        InputError: factor 2 of a network without an x2 head.

    Batch normalisations go into their convolutions, PReLUs work in place. The last head, whose single filter leaves
    most of a CPU's vector unit idle on the x4 grid, becomes four filters on the x2 grid in front of the pixel shuffle.
    """
    network.eval()
    if factor == 2:
        if network.head_x2 is None:
            raise InputError("these weights have no image on the x2 grid; use those of a multi-scale generator")
        network.factor = factor  # type: ignore[assignment]  # torch's stubs know tensors and modules alone
        network.middle, network.to_x4, network.head_x4 = nn.Sequential(), nn.Sequential(), nn.Sequential()
    for module in list(network.modules()):
        pairs = [("first", "first_norm"), ("second", "second_norm"), ("leave", "leave_norm")]
        for name, norm in pairs:
            if isinstance(getattr(module, norm, None), nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(getattr(module, name), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
        for name, child in list(module.named_children()):
            if isinstance(child, nn.PReLU):  # one slope: the same function without memory of its own
                setattr(module, name, nn.LeakyReLU(float(child.weight.detach()), inplace=True))
    if isinstance(network.head_x4, nn.Conv2d):
        assert isinstance(network.to_x4, nn.Sequential)
        convolution, shuffle, activation = network.to_x4
        network.head_x4 = nn.Sequential(_before_shuffle(network.head_x4), shuffle)
        network.to_x4 = nn.Sequential(convolution, activation)  # one slope for all, so before the shuffle or behind it
    return network


def _before_shuffle(head: nn.Conv2d) -> nn.Conv2d:
    """The same head on the sub-pixels of the coarser grid: four times the channels in, four out, 5x5 instead of 9x9."""
    filters, reach = head.in_channels, head.kernel_size[0] // 2
    margin = (reach + 1) // 2
    moved = _Head(4 * filters, 4, 2 * margin + 1, padding=margin).to(head.weight)
    nn.init.zeros_(moved.weight)
    assert moved.bias is not None and head.bias is not None  # both are made with one
    with torch.no_grad():
        moved.bias.copy_(head.bias.expand(4))
        # output sub-pixel (i, j), input sub-pixel (a, b), coarse offset (u, v), and the fine offset that they make
        for i, j, a, b in itertools.product(range(2), repeat=4):
            for u, v in itertools.product(range(2 * margin + 1), repeat=2):
                y, x = 2 * (u - margin) + a - i + reach, 2 * (v - margin) + b - j + reach
                if 0 <= y <= 2 * reach and 0 <= x <= 2 * reach:
                    moved.weight[2 * i + j, 2 * a + b :: 4, u, v] = head.weight[0, :, y, x]
    return moved


class Critic(nn.Module):
    """SRGAN's discriminator: eight convolutions with strides 1 and 2 in turn, two dense layers (Ledig et al., fig. 4).

    Departs from it: no batch normalisation unless asked for, since a gradient penalty is per sample; the last unit is
    linear, for a Wasserstein critic as for cross-entropy on logits.

    Args:
        patch_size: edge length of the images it judges, in pixels.
        filters: filters per convolution.
        units: units of the first dense layer.
        batch_norm: normalise behind all convolutions but the first; not with a gradient penalty.
    """

    def __init__(
        self,
        patch_size: int = 96,
        filters: Sequence[int] = (64, 64, 128, 128, 256, 256, 512, 512),
        units: int = 1024,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        layers: list[nn.Module] = []
        channels, edge = 1, patch_size
        for i, count in enumerate(filters):
            stride = 1 + i % 2
            layers.append(nn.Conv2d(channels, count, 3, stride, padding=1))
            if batch_norm and i:
                layers.append(nn.BatchNorm2d(count))
            layers.append(nn.LeakyReLU(0.2))
            channels, edge = count, -(-edge // stride)
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * edge * edge, units), nn.LeakyReLU(0.2), nn.Linear(units, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores ``(B, 1)``, any real numbers, of images ``(B, 1, patch_size, patch_size)``.

        Raises:
            ValueError: images of another size.
        """
        if tuple(image.shape[2:]) != (self.patch_size, self.patch_size):
            raise ValueError(f"this critic judges images of {self.patch_size} pixels, got {tuple(image.shape[2:])}")
        return self.head(self.features(image))
