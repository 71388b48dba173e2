# SPDX-License-Identifier: Apache-2.0
"""Generator and discriminator: sizes, the paper's numbers, folding, forms, exact bands."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.engine.trainers import not_stepped
from us_despeckle_lib.inferers import FrameInferer
from us_despeckle_lib.networks import DRNN, Discriminator, folded


@pytest.fixture
def network():
    """A small generator whose normalisation has met data."""
    torch.manual_seed(0)
    made = DRNN(6, 2)
    for _ in range(3):
        made(torch.rand(4, 1, 20, 17))
    return made.eval()


def test_the_papers_generator():
    network = DRNN()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size[0] for c in convolutions] == [7] + [3] * 19
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 19
    assert all(float(block.shortcut) == 1 and block.shortcut.requires_grad for block in network.body)
    assert sum(p.numel() for p in network.parameters()) * 4 < 3e6
    assert network.radius == 22


@pytest.mark.parametrize("size", [(19, 32), (1, 5), (48, 33)])
def test_any_size(network, size):
    image = torch.rand(2, 1, *size)
    assert network(image).shape == image.shape
    assert Discriminator((4, 8))(image).shape == (2, 1)


def test_the_discriminator_is_chained_as_srgans():
    convolutions = [m for m in Discriminator().modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.stride[0]) for c in convolutions] == [
        (n, s) for n in (64, 128, 256, 512) for s in (1, 2)
    ]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in Discriminator().modules())


def test_what_is_far_does_not_matter(network):
    image = torch.rand(1, 1, 41, 41)
    other = image.clone()
    other[..., 20, 20] += 5
    with torch.no_grad():
        changed = torch.nonzero((network(image) - network(other)).abs()[0, 0] > 0)
    assert int((changed - 20).abs().max()) <= network.radius == 10


def test_folding_keeps_the_function_and_the_network(network):
    image = torch.rand(2, 1, 23, 31)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    quick = folded(network)
    assert network.training
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.modules())
    with torch.no_grad():
        torch.testing.assert_close(quick(image), network.eval()(image), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_frozen_normalisation_keeps_its_statistics(network):
    image = torch.rand(2, 1, 16, 16) * 3
    with torch.no_grad():
        expected = network(image)
        network.frozen = True
        network.train()
        torch.testing.assert_close(network(image), expected)
    assert network.body.training


def test_a_network_that_is_not_stepped_changes_no_buffer(network):
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.train()
    with not_stepped(network):
        network(torch.rand(2, 1, 16, 16) * 7)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_weights_tell_their_network(network):
    assert DRNN.form_of(network.state_dict()) == {"channels": 6, "blocks": 2}
    assert DRNN.form_of(DRNN(3, 0).state_dict()) == {"channels": 3, "blocks": 0}
    state = network.state_dict()
    for broken in ({}, {"tail.weight": torch.zeros(3)}, {**state, "more": torch.zeros(1)}):
        with pytest.raises(ValueError, match=r"convolution|residual blocks"):
            DRNN.form_of(broken)


def test_the_discriminator_sees_brightness_unless_centred():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 24, 24)
    seeing = Discriminator((4, 8))
    blind = Discriminator((4, 8), centred=True)
    blind.load_state_dict(seeing.state_dict())
    with torch.no_grad():
        assert (seeing(image) - seeing(image + 0.2)).abs().min() > 1e-3
        torch.testing.assert_close(blind(image), blind(image + 0.2), atol=1e-5, rtol=1e-5)


def test_under_autocast_the_last_sum_is_float32(network):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(torch.rand(1, 1, 16, 16)).dtype == torch.float32
        assert folded(network)(torch.rand(1, 1, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize("memory_gb", [4, 1e-9, 2e-5])
def test_bands_give_what_one_pass_gives(network, memory_gb):
    frames = torch.rand(1, 2, 57, 30)
    frames[..., :9, :] = 0  # a margin: the box begins below
    frames[..., -4:] = 0
    result = FrameInferer(memory_gb)(frames, network)
    with torch.no_grad():
        for i in range(2):
            expected = network(frames[:, i : i + 1, 9:, :26])[0, 0]
            torch.testing.assert_close(result[0, i, 9:, :26], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(result[..., :9, :], frames[..., :9, :])


def test_an_empty_frame_stays(network):
    assert torch.equal(FrameInferer()(torch.zeros(1, 1, 8, 8), network), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(("channels", "blocks"), [(0, 1), (4, -1)])
def test_impossible_networks(channels, blocks):
    with pytest.raises(ValueError, match="at least one channel"):
        DRNN(channels, blocks)


def test_the_generator_can_be_scripted():
    network, image = DRNN(4, 1).eval(), torch.rand(1, 1, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image))
