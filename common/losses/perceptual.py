# SPDX-License-Identifier: Apache-2.0
"""Features of VGG networks as a loss, with weights from a local file and nothing ever downloaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from torch import nn

from common.errors import InputError
from common.io.weights import load_checkpoint

__all__ = ["PerceptualLoss", "vgg_features"]

logger = logging.getLogger(__name__)

# filters of the 3x3 convolutions, each with a ReLU; "M" halves the image (Simonyan and Zisserman 2014, table 1)
LAYERS: dict[str, tuple[int | str, ...]] = {
    "vgg16": (64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"),
    "vgg19": (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"),
}
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the weights were trained on


def vgg_features(name: str, last: int | None = None) -> nn.Sequential:
    """The convolutional part of VGG-16 or VGG-19 with torchvision's numbering of layers, random weights.

    Args:
        name: ``vgg16`` or ``vgg19``.
        last: number of the last layer wanted.

    Raises:
        ValueError: another name.
    """
    if name not in LAYERS:
        raise ValueError(f"network must be one of {tuple(LAYERS)}, got {name!r}")
    layers: list[nn.Module] = []
    channels = 3
    for entry in LAYERS[name]:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU()]
            channels = entry
    return nn.Sequential(*layers[: None if last is None else last + 1])


class PerceptualLoss(nn.Module):
    """``sum_l ||lambda_l (phi_l(image) - phi_l(truth))||^2`` on raw convolution outputs (Baltruschat et al. 2024).

    The norm is the sum over a feature map's elements, the loss its mean over the batch; grey images are repeated to
    three channels and given ImageNet's mean and standard deviation. Other layers and weights give other papers' losses.

    Without ``weights`` the loss is 0 and one line in the log says so.

    Args:
        weights: local file with torchvision's state dict of the network (keys ``features.0.weight``, ...), or None.
        network: ``vgg19`` (the paper) or ``vgg16``.
        layers: numbers of the convolutions in torchvision's ``features``.
        factors: lambda of each.

    Raises:
        InputError: the file is missing or holds other weights.
        ValueError: a number that is no convolution's, or another count of factors.

    Example:
        >>> grey = torch.rand(1, 1, 32, 32)
        >>> PerceptualLoss()(grey, grey.flip(-1)).item()  # no weights: off
        0.0
    """

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(
        self,
        weights: str | os.PathLike | None = None,
        network: str = "vgg19",
        layers: Sequence[int] = (2, 7, 14, 21, 28),
        factors: Sequence[float] = (0.0002, 0.0001, 0.0001, 0.0002, 0.0005),
    ) -> None:
        super().__init__()
        self.factors = dict(zip(layers, factors, strict=True))
        self.features: nn.Sequential | None = None
        features = vgg_features(network, max(layers))
        if not all(0 <= n < len(features) and isinstance(features[n], nn.Conv2d) for n in layers):
            raise ValueError(f"{list(layers)} are not all convolutions of {network}")
        if weights is None:
            logger.warning("no vgg_weights given: the perceptual loss is off (nothing is downloaded)")
            return
        state = load_checkpoint(weights)
        own = features.state_dict()
        given = {key: state.get(f"features.{key}") for key in own} if isinstance(state, dict) else {}
        if not given or any(getattr(given[key], "shape", None) != own[key].shape for key in own):
            raise InputError(f"{weights}: does not hold torchvision's weights of {network}")
        features.load_state_dict(given)
        self.features = features.requires_grad_(False).eval()
        for name, values in (("mean", MEAN), ("sd", SD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @property
    def off(self) -> bool:
        """Whether it has no weights, and is 0."""
        return self.features is None

    def train(self, mode: bool = True) -> PerceptualLoss:
        """The features stay as they are."""
        return super().train(False)

    def forward(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Loss of 0 or more of ``(B, 1 or 3, H, W)`` in [0, 1] and a truth of the same shape."""
        if self.features is None:
            return image.new_zeros(())
        count = len(image)
        both = torch.cat([image, truth.to(image)])
        if self.mean.device != both.device:
            self.to(both.device)
        both = (both.expand(-1, 3, -1, -1) - self.mean) / self.sd
        loss = both.new_zeros(())
        for number, layer in enumerate(self.features):
            # ReLUs by themselves: in place they would change the convolution's output that is compared
            both = layer(both)
            if number in self.factors:
                difference = self.factors[number] * (both[:count] - both[count:])
                loss = loss + difference.square().sum() / count
        return loss
