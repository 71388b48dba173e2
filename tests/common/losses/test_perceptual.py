# SPDX-License-Identifier: Apache-2.0
"""VGG features as a loss: torchvision's layers, files, and values against a direct computation."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.losses import PerceptualLoss, WeightedLoss
from common.losses.perceptual import MEAN, SD, vgg_features

# numbers of the convolutions in torchvision's `features`
CONVOLUTIONS = {
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    state = {f"features.{key}": value for key, value in vgg_features("vgg16", 7).state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(3, 3)}, path)
    return path


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_layers_are_numbered_as_in_torchvision(name):
    layers = vgg_features(name)
    assert [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)] == CONVOLUTIONS[name]
    assert len(layers) == (31 if name == "vgg16" else 37)
    channels = [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]
    assert (channels[0], channels[-1]) == (64, 512)


def test_value_is_that_of_the_formula(weights):
    loss = PerceptualLoss(weights, "vgg16", [2, 7], [0.3, 0.2])
    features = vgg_features("vgg16", 7)
    state = torch.load(weights, weights_only=True)
    features.load_state_dict({key: state[f"features.{key}"] for key in features.state_dict()})
    image, truth = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    expected = 0.0
    for last, factor in ((2, 0.3), (7, 0.2)):
        maps = [
            features[: last + 1](
                (x.repeat(1, 3, 1, 1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SD).view(3, 1, 1)
            )
            for x in (image, truth)
        ]
        expected += float((factor * (maps[0] - maps[1])).square().sum()) / 2
    assert float(loss(image, truth)) == pytest.approx(expected, rel=1e-4)
    assert float(loss(truth, truth)) == 0


def test_gradient_goes_to_the_image_alone(weights):
    loss = PerceptualLoss(weights, "vgg16", [2, 7], [0.3, 0.2])
    truth = torch.rand(1, 1, 16, 16)
    image = (1 - truth).requires_grad_(True)
    loss(image, truth).backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not loss.train().features.training


def test_without_weights_it_is_off_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        loss = PerceptualLoss()
    assert "perceptual loss is off" in caplog.text
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    total = WeightedLoss({"vgg": loss, "l1": nn.L1Loss()}, {"vgg": 1, "l1": 1})(image, torch.zeros(1, 1, 8, 8))
    total.backward()
    assert float(total) == pytest.approx(float(image.mean()))


def test_files_and_settings_that_cannot_work(weights, tmp_path):
    with pytest.raises(InputError, match="no such weights file"):
        PerceptualLoss(tmp_path / "none.pth")
    with pytest.raises(InputError, match="torchvision's weights of vgg19"):
        PerceptualLoss(weights)  # as deep as layer 7 only
    with pytest.raises(ValueError, match="not all convolutions"):
        PerceptualLoss(layers=(3,), factors=(1,))
    with pytest.raises(ValueError, match="network must be"):
        vgg_features("vgg11")
