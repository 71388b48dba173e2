# SPDX-License-Identifier: Apache-2.0
"""Rates, growth and estimates of a training run."""

import pytest
import torch
from torch import nn

from common.console import duration
from mri_sr3d_lib import training
from mri_sr3d_lib.networks import ReCNN
from mri_sr3d_lib.training import announce, announce_evaluation, expected_seconds, grow, parameter_groups


class HeldOut:
    """Two volumes at two scales."""

    data = (1, 2)
    scales = ((2.0, 2.0, 2.0), (1.0, 1.0, 4.0))

    def voxels(self):
        return 1000

    def __len__(self):
        return 4


@pytest.fixture
def rate(monkeypatch):
    """A machine of known speed."""
    monkeypatch.setattr(training, "convolution_rate", lambda device: 1e6)


def test_biases_learn_at_a_tenth_of_the_rate():
    network = ReCNN(4, 3)
    weights, biases = parameter_groups(network, 1e-4)
    assert weights["lr"] == 1e-4 and biases["lr"] == pytest.approx(1e-5)
    assert len(weights["params"]) == len(biases["params"]) == 4
    assert all(p.ndim == 5 for p in weights["params"]) and all(p.ndim == 1 for p in biases["params"])
    assert {id(p) for p in network.parameters()} == {id(p) for g in (weights, biases) for p in g["params"]}
    optimizer = torch.optim.Adam(parameter_groups(network, 1e-3, bias_factor=0.5), lr=1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 5e-4]


def test_shallow_weights_grow_to_the_networks_depth():
    shallow, deep = ReCNN(3, 4), ReCNN(6, 4)
    deep.load_state_dict(grow(shallow.state_dict(), deep))
    image = torch.rand(1, 1, 7, 6, 5)
    torch.testing.assert_close(deep(image), shallow(image))


@pytest.mark.parametrize(
    "state",
    [ReCNN(6, 4).state_dict(), nn.Linear(2, 3).state_dict(), {"layers.0.conv.weight": torch.ones(2)}, {}],
    ids=["deeper", "no layers", "another kind", "empty"],
)
def test_what_cannot_grow_is_none(state):
    assert grow(state, ReCNN(3, 4)) is None
    assert grow(ReCNN(2, 4).state_dict(), nn.Linear(2, 2)) is None


def test_the_expected_time_counts_training_and_validation(rate):
    network = ReCNN(2, 4)
    multiplications = 2 * 4 * 27
    both = expected_seconds(network, "cpu", 10, 100, HeldOut(), 2)
    assert both == pytest.approx(multiplications * (3 * 10 * 100 + 2 * 1000) / 1e6)
    assert expected_seconds(nn.DataParallel(network), "cpu", 10, 100, HeldOut(), 2) == both


def test_a_training_says_what_it_has(rate, capsys):
    budget = {"name": "short", "epochs": 4, "patch_size": 5}
    announce(budget, ReCNN(2, 4), "cpu", [0] * 3, 8, HeldOut(), 2, "models/model.pt", "runs/short-1")
    out = capsys.readouterr().out
    assert "3 training volumes, 8 patches per epoch; 2 held-out volume(s) at 2x2x2, 1x1x4" in out
    assert "models/model.pt" in out and "runs/short-1" in out and "short (epochs 4" in out
    expected = 2 * 4 * 27 * (3 * 32 * 125 + 3 * 1000) / 1e6
    assert f"about {duration(expected)}" in out
    announce({**budget, "patch_size": [5, 5, 5]}, ReCNN(2, 4), "cpu", [0] * 3, 8, HeldOut(), 2, "w", "r")
    assert f"about {duration(expected)}" in capsys.readouterr().out


def test_an_evaluation_says_what_it_has(rate, capsys):
    announce_evaluation(ReCNN(2, 4), "cpu", HeldOut(), "models/model.pt")
    out = capsys.readouterr().out
    assert out.startswith("evaluating models/model.pt on 2 volume(s) at 2x2x2, 1x1x4; about 1 s on cpu")
