# SPDX-License-Identifier: Apache-2.0
"""Averages over orientations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch import nn

from common.inferers import ForegroundInferer, OrientationInferer
from common.transforms.intensity import HIGH, LOW, SplitSpreadd


def lopsided(dims=3):
    torch.manual_seed(0)
    layer = (nn.Conv3d if dims == 3 else nn.Conv2d)(1, 1, 3, padding=1)
    return layer.requires_grad_(False)


@pytest.mark.parametrize(("orientations", "count"), [(None, 1), ("flips", 8), ("all", 48)])
def test_every_orientation_is_shown_once(orientations, count):
    image, seen = torch.rand(1, 1, 3, 4, 5), []

    def network(turned):
        seen.append(turned.clone())
        return turned

    result = OrientationInferer(SimpleInferer(), orientations, spread=True)(image, network)
    assert len({(tuple(x.shape), tuple(x.flatten().tolist())) for x in seen}) == len(seen) == count
    # a network that hands the image on says so in every orientation
    torch.testing.assert_close(result[:, :1], image)
    assert (result[:, 1:].abs() < 1e-6).all()


@pytest.mark.parametrize("orientations", ["flips", "all"])
@pytest.mark.parametrize("dims", [2, 3])
def test_result_turns_with_the_image(orientations, dims):
    image, network = torch.rand(2, 1, *(6, 6, 6)[:dims]), lopsided(dims)
    inferer = OrientationInferer(SimpleInferer(), orientations)
    torch.testing.assert_close(inferer(image.flip(2), network), inferer(image, network).flip(2))
    assert not torch.allclose(network(image.flip(2)), network(image).flip(2))
    if orientations == "all":
        torch.testing.assert_close(inferer(image.mT, network), inferer(image, network).mT)


def test_mean_and_spread_are_those_of_all_passes():
    image, network = torch.rand(1, 1, 5, 4, 6), lopsided()
    axes = [[a for a, on in zip((2, 3, 4), f"{i:03b}", strict=True) if on == "1"] for i in range(8)]
    passes = torch.stack([network(image.flip(a)).flip(a) for a in axes])
    result = OrientationInferer(SimpleInferer(), spread=True)(image, network)
    torch.testing.assert_close(result[:, :1], passes.mean(0))
    torch.testing.assert_close(result[:, 1:], passes.std(0, unbiased=False))


def test_work_is_that_of_all_passes_in_the_foreground_s_box():
    image = torch.zeros(1, 1, 10, 10, 10)
    image[:, :, 2:6, 3:7, 4:5] = 1
    plain = ForegroundInferer()
    assert OrientationInferer(plain).work(image, lopsided()) == 8 * 27 * 4 * 4 * 1
    assert OrientationInferer(plain, "all").work(image, lopsided()) == 48 * 27 * 4 * 4 * 1
    assert OrientationInferer(SimpleInferer(), None).work(image, lopsided()) == 27 * 1000


def test_unknown_orientations():
    with pytest.raises(ValueError, match="orientations must be one of"):
        OrientationInferer(SimpleInferer(), "turns")


def test_spread_comes_in_the_input_s_units():
    image = MetaTensor(torch.rand(1, 3, 4, 5), affine=2 * torch.eye(4), meta={LOW: 100.0, HIGH: 600.0})
    mean, spread = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    out = SplitSpreadd("pred")({"image": image, "pred": torch.cat([mean, spread])})
    torch.testing.assert_close(out["pred"].as_tensor(), mean)
    torch.testing.assert_close(out["std"].as_tensor(), 500 * spread)
    np.testing.assert_allclose(out["std"].affine, image.affine)
    assert "std" not in SplitSpreadd("pred", wanted=False)({"image": image, "pred": mean})
