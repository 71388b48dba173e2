# SPDX-License-Identifier: Apache-2.0
"""Learning rates of weights and biases."""

import pytest
import torch

from mri_sr3d_lib.networks import ReCNN
from mri_sr3d_lib.training import parameter_groups


def test_biases_learn_at_a_tenth_of_the_rate():
    network = ReCNN(4, 3)
    weights, biases = parameter_groups(network, 1e-4)
    assert weights["lr"] == 1e-4 and biases["lr"] == pytest.approx(1e-5)
    assert len(weights["params"]) == len(biases["params"]) == 4
    assert all(p.ndim == 5 for p in weights["params"]) and all(p.ndim == 1 for p in biases["params"])
    assert {id(p) for p in network.parameters()} == {id(p) for g in (weights, biases) for p in g["params"]}
    optimizer = torch.optim.Adam(parameter_groups(network, 1e-3, bias_factor=0.5), lr=1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 5e-4]
