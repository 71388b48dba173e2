# SPDX-License-Identifier: Apache-2.0
"""Losses on the outputs of a generator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lesion_msgan_lib
from common.losses import WeightedLoss
from common.losses.perceptual import vgg_features
from lesion_msgan_lib.losses import OutputLoss, VGGLoss
from lesion_msgan_lib.slices import downsample

CONFIGS = Path(lesion_msgan_lib.__file__).parents[1] / "configs"


def test_each_output_meets_the_target_on_its_grid():
    target = torch.randn(2, 1, 16, 16)
    made = [torch.randn(2, 1, 8, 8), torch.randn(2, 1, 16, 16)]
    torch.testing.assert_close(OutputLoss(0)(made, target), (made[0] - downsample(target, 2)).square().mean())
    torch.testing.assert_close(OutputLoss()(made, target), (made[1] - target).square().mean())
    torch.testing.assert_close(OutputLoss()(made[1], target), (made[1] - target).square().mean())  # eq. 4
    assert OutputLoss(0)([downsample(target, 2), target], target) == 0
    with pytest.raises(ValueError, match="no x2 output"):
        OutputLoss(0)(made[1], target)


@pytest.mark.parametrize(("layer", "number"), [("conv2_2", 7), ("conv5_4", 34)])
def test_vgg_loss_is_the_mean_squared_difference_of_features(tmp_path, layer, number):
    torch.manual_seed(0)
    features = vgg_features("vgg19")
    for module in features:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)  # features that do not fade with depth
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, tmp_path / "vgg.pt")
    loss = VGGLoss(str(tmp_path / "vgg.pt"), layer, patch_size=32)
    image, target = 3 * torch.randn(1, 1, 32, 32) - 2, 3 * torch.randn(1, 1, 32, 32) - 2
    span = target.max() - target.min()
    mean, sd = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pair = [((x - target.min()) / span - mean) / sd for x in (image, target)]
    with torch.no_grad():
        expected = torch.nn.functional.mse_loss(*(features[: number + 1](x) for x in pair))
    torch.testing.assert_close(loss(image, target), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(loss([image[..., ::2, ::2], image], target), loss(image, target))  # of two outputs
    # units do not matter
    torch.testing.assert_close(loss(100 * image + 5, 100 * target + 5), expected, rtol=1e-3, atol=0)


def test_the_vgg_term_has_srgan_s_scale():
    """SRGAN divides features by 12.75; squared, that is its weight of 0.006, so features are not divided here again."""
    weight = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))["vgg_weight"]
    assert weight == pytest.approx(1 / 12.75**2, rel=0.03)


def test_vgg_loss_is_off_without_weights_and_says_so(caplog):
    assert VGGLoss()(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)) == 0
    assert "perceptual loss is off" in caplog.text
    objective = WeightedLoss({"mse": OutputLoss(), "vgg": VGGLoss()}, {"mse": 1.0, "vgg": 0.006})
    assert objective.weights == {"mse": 1.0, "vgg": 0.0}  # which is what a run records
