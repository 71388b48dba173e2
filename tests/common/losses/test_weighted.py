# SPDX-License-Identifier: Apache-2.0
"""Named, weighted losses, also from a config."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from common.losses import RelativeError, WeightedLoss

LOSSES = {"l1": torch.nn.L1Loss(), "mse": torch.nn.MSELoss()}


def test_sum_of_weighted_terms():
    loss = WeightedLoss(LOSSES, {"l1": 2.0, "mse": 0.5})
    a, b = torch.zeros(1, 1, 4), torch.full((1, 1, 4), 3.0)
    assert float(loss(a, b)) == pytest.approx(2 * 3 + 0.5 * 9)
    assert {name: float(term) for name, term in loss.terms(a, b).items()} == {"l1": 3.0, "mse": 9.0}


def test_weight_zero_is_not_computed():
    def explode(a, b):
        raise AssertionError("computed")

    loss = WeightedLoss({"l1": torch.nn.L1Loss(), "other": explode}, {"l1": 1.0, "other": 0.0})
    assert float(loss(torch.zeros(2), torch.ones(2))) == 1.0
    assert float(WeightedLoss({"other": explode}, {"other": 0})(torch.zeros(2), torch.ones(2))) == 0.0


@pytest.mark.parametrize("weight", [0, 1])
def test_masks_are_needed_where_a_loss_that_counts_needs_them(weight):
    loss = WeightedLoss({"relative": RelativeError(), "l1": torch.nn.L1Loss()}, {"relative": weight, "l1": 1})
    assert loss.needs_masks is bool(weight)


def test_from_a_config():
    config = {
        "weights": {"l1": 0.11, "ms_ssim": 0.89},
        "loss": {
            "_target_": "common.losses.WeightedLoss",
            "losses": {
                "ms_ssim": {"_target_": "common.losses.MultiScaleSSIMLoss", "scales": 2},
                "l1": {"_target_": "torch.nn.L1Loss"},
            },
            "weights": "@weights",
        },
    }
    loss = ConfigParser(config).get_parsed_content("loss")
    assert float(loss(torch.ones(1, 1, 12, 12), torch.ones(1, 1, 12, 12))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("weights", "message"), [({"l1": 1}, "names"), ({"l1": 1, "mse": -1}, "negative")])
def test_weights_that_cannot_work(weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedLoss(LOSSES, weights)
