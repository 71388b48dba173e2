# SPDX-License-Identifier: Apache-2.0
"""The average follows the trained weights, starts from them, and goes on where a checkpoint was made."""

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers import WeightAverage


def stepping(network, average, epochs=1, steps=5):
    """An engine that adds 1 to each weight in a step."""

    def step(engine, batch):
        with torch.no_grad():
            network.weight.add_(1)

    engine = Engine(step)
    average.attach(engine)
    engine.run(range(steps), max_epochs=epochs)
    return engine


def layer(value=0.0):
    network = nn.Linear(2, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_the_average_is_the_one_computed_by_hand():
    network = layer()
    average = WeightAverage(network, 0.5)
    stepping(network, average)
    expected = 0.0
    for n in range(1, 6):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    torch.testing.assert_close(average.network.weight, torch.full((1, 2), expected))


def test_it_starts_from_the_weights_at_the_start_of_the_training():
    network = layer()
    average = WeightAverage(network, 0.9)
    nn.init.constant_(network.weight, 7.0)  # loaded after the average was made
    seen = []
    engine = Engine(lambda engine, batch: None)
    average.attach(engine)
    engine.add_event_handler(Events.STARTED, lambda _: seen.append(average.network.weight.clone()))
    engine.run([0], max_epochs=1)
    assert float(seen[0].unique()) == 7.0
    assert float(average.network.weight.unique()) == 7.0


def test_a_loaded_average_goes_on_as_if_undisturbed():
    network = layer()
    undisturbed = WeightAverage(network, 0.9)
    stepping(network, undisturbed, epochs=2)
    halves = layer()
    first = WeightAverage(halves, 0.9)
    stepping(halves, first)
    second = WeightAverage(halves, 0.9)
    second.load_state_dict(first.state_dict())
    stepping(halves, second)
    torch.testing.assert_close(second.network.weight, undisturbed.network.weight)


def test_without_decay_it_is_the_network_itself():
    network = layer()
    average = WeightAverage(nn.DataParallel(network), 0)
    assert average.network is network
    assert average.state_dict() == {}


def test_the_average_is_independent_of_the_trained_weights():
    network = layer()
    average = WeightAverage(network, 0.9)
    stepping(network, average)
    before = average.network.weight.clone()
    nn.init.constant_(network.weight, -1.0)
    assert torch.equal(average.network.weight, before)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(layer(), decay)
