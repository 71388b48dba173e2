# SPDX-License-Identifier: Apache-2.0
"""The despeckling residual network (DRNN) and its discriminator (Mishra et al. 2018, section II A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["DRNN", "Discriminator", "ResBlock", "folded"]


def _unit(in_channels: int, out_channels: int, kernel: int) -> list[nn.Module]:
    """Convolution, batch normalisation, ReLU; the convolution's bias would be lost in the normalisation."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class ResBlock(nn.Module):
    """Three 3x3 convolutions with batch normalisation and ReLU, and a weighted shortcut: ``F(x) + w x`` (figure 1).

    Departs from the paper: says "weighted shortcut" only; here one learnable number per block, 1 at first. The last
    normalisation's scale is small at first, so that a block starts near the shortcut alone.

    Args:
        channels: of input and output.
        gain: first scale of the last normalisation.
    """

    __jit_unused_properties__ = ("last_norm",)  # TorchScript knows no casts

    def __init__(self, channels: int, gain: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[module for _ in range(3) for module in _unit(channels, channels, 3)])
        self.shortcut = nn.Parameter(torch.ones(()))
        nn.init.constant_(self.last_norm.weight, gain)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation before the last ReLU."""
        return cast(nn.BatchNorm2d, self.layers[-2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the shape given, ``(B, C, H, W)``."""
        return torch.add(self.layers(x), self.shortcut * x)


class DRNN(nn.Module):
    """Generator: 7x7 convolution, six residual blocks, final 3x3 convolution (Mishra et al. 2018, figure 1).

    Every convolution but the last has 64 channels, batch normalisation and ReLU. The output has no activation and no
    skip from the input, so the network learns to reproduce its input first (the paper's first training). Compact forms
    have fewer channels or blocks. The last convolution is computed in float32 under autocast, too.

    Args:
        channels: of the hidden layers.
        blocks: residual blocks.
        identity: start close to the identity: one channel carries the image through the shortcuts, and the others are
            not seen by the last convolution yet. An addition to the paper, whose first training then has little to do.

    Raises:
        ValueError: no channel, or a negative number of blocks.
    """

    def __init__(self, channels: int = 64, blocks: int = 6, identity: bool = False) -> None:
        super().__init__()
        if channels < 1 or blocks < 0:
            raise ValueError(f"need at least one channel and no negative number of blocks, got {channels} and {blocks}")
        self.head = nn.Sequential(*_unit(1, channels, 7))
        self.body = nn.Sequential(*[ResBlock(channels) for _ in range(blocks)])
        self.tail = nn.Conv2d(channels, 1, 3, padding=1)
        if identity:
            self._start_as_identity()
        self.frozen = False  # in training, batch normalisation keeps its statistics (``stages.FreezeNorm``)

    def _start_as_identity(self) -> None:
        with torch.no_grad():
            first = cast(nn.Conv2d, self.head[0]).weight
            for weight in (first[0], *self.tail.parameters()):
                weight.zero_()
            first[0, 0, 3, 3] = 1
            self.tail.weight[0, 0, 1, 1] = 1
            for block in self.body:
                cast(ResBlock, block).last_norm.weight[0] = 1e-3  # with 0 its ReLU would be dead

    @classmethod
    def form_of(cls, state: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Constructor arguments of the network that a state dict belongs to, read off its names and shapes.

        Raises:
            ValueError: not the state dict of a ``DRNN``.
        """
        last = state.get("tail.weight")
        if last is None or last.ndim != 4:
            raise ValueError("it has no last convolution")
        form = {"channels": last.shape[1], "blocks": len({name for name in state if name.endswith(".shortcut")})}
        with torch.device("meta"):
            own = cls(form["channels"], form["blocks"]).state_dict()
        if own.keys() != state.keys() or any(state[name].shape != tensor.shape for name, tensor in own.items()):
            raise ValueError("its tensors are not those of a chain of residual blocks")
        return form

    def train(self, mode: bool = True) -> DRNN:
        """As for every module, but for the statistics of ``frozen``."""
        super().train(mode)
        if self.frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    @property
    def radius(self) -> int:
        """Receptive radius in pixels."""
        return 4 + 3 * len(self.body)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Despeckled grey levels of ``(B, 1, H, W)`` in [0, 1], any height and width; not clipped."""
        features = self.body(self.head(image))
        return self.tail(features) if torch.jit.is_scripting() else self._tail(features)

    @torch.jit.unused
    def _tail(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):  # a grey level is finer than bfloat16
            return self.tail(features.float())


class Discriminator(nn.Module):
    """Strided 3x3 convolutions with LeakyReLU 0.2, global average pooling, one unit (figure 2); returns logits.

    Departs from the paper: it gives neither depth nor widths; pairs of convolutions with stride 1 and 2 and 64 to 512
    channels are those of SRGAN (Ledig et al. 2017), without batch normalisation, which the paper does not name. The
    sigmoid belongs to the loss. Grey levels are multiplied by ``gain``, so that speckle is more than a small ripple.

    Args:
        channels: one pair of convolutions for each.
        gain: factor on the grey levels.
        centred: take each patch's mean grey level away first, so that brightness is not judged. The paper does not, and
            then nothing in the game holds the brightness of tissue.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512), gain: float = 4.0, centred: bool = False) -> None:
        super().__init__()
        self.gain, self.centred = gain, centred
        layers: list[nn.Module] = []
        last = 1
        for width in channels:
            for stride, inner in ((1, last), (2, width)):
                layers += [nn.Conv2d(inner, width, 3, stride, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            last = width
        self.layers = nn.Sequential(*layers)
        self.unit = nn.Linear(last, 1)
        for name, values in self.layers.named_parameters():  # torch's default would fade the signal over eight layers
            if name.endswith("weight"):
                nn.init.kaiming_normal_(values, a=0.2)
            else:
                nn.init.zeros_(values)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 1)`` of ``(B, 1, H, W)``, any height and width; large for the reference probe."""
        levels = image - image.mean(dim=(2, 3), keepdim=True) if self.centred else image
        features = self.layers(self.gain * levels)
        return self.unit(features.mean(dim=(2, 3)))


class _FoldedBlock(nn.Module):
    """A ``ResBlock`` for inference, whose shortcut is added in one pass over memory."""

    def __init__(self, layers: nn.Sequential, shortcut: float) -> None:
        super().__init__()
        self.layers, self.shortcut = layers, shortcut

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image).add_(image, alpha=self.shortcut)


def folded(network: DRNN) -> DRNN:
    """The network for inference, each batch normalisation folded into its convolution: the same function, faster.

    Exact in evaluation mode, where normalisation is a fixed scale and offset per channel.

    Args:
        network: left as it is.
    """

    def fold(units: nn.Sequential) -> nn.Sequential:
        layers = list(units)
        pairs = zip(layers[::3], layers[1::3], strict=True)
        fused = [
            fuse_conv_bn_eval(cast(nn.Conv2d, conv.eval()), cast(nn.BatchNorm2d, norm.eval())) for conv, norm in pairs
        ]
        return nn.Sequential(*[module for conv in fused for module in (conv, nn.ReLU(inplace=True))])

    modes = [(module, module.training) for module in network.modules()]
    result = DRNN.__new__(DRNN)
    nn.Module.__init__(result)
    try:
        result.head = fold(network.head)
        blocks = [cast(ResBlock, block) for block in network.body]
        result.body = nn.Sequential(*[_FoldedBlock(fold(block.layers), block.shortcut.item()) for block in blocks])
        result.tail = network.tail
    finally:
        for module, mode in modes:
            module.train(mode)
    result.frozen = False
    return result.eval()
