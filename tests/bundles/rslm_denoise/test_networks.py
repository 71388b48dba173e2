# SPDX-License-Identifier: Apache-2.0
"""Generator and critic of RSLM-DNN-3D."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.console import multiplications
from common.inferers import ForegroundInferer
from rslm_denoise_lib.networks import STAGES, Critic, Generator, grow

SMALL = ((3, 3, 1), 3, 5, 3, (3, 3, 1))


def test_the_paper_s_generator():
    network = Generator()
    convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv3d)]
    sizes = [(3, 3, 1), *[(5, 5, 5)] * 3, *[(7, 7, 7)] * 3, (3, 3, 3), (3, 3, 1)]
    assert [layer.kernel_size for layer in convolutions] == sizes
    assert [layer.out_channels for layer in convolutions] == [32] * 8 + [1]
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.47e6, rel=0.01)
    assert multiplications(network) == pytest.approx(1.47e6, rel=0.01)
    assert isinstance(network.layers[-1], nn.ReLU)


@pytest.mark.parametrize("seed", range(4))
def test_untrained_output_is_not_dead(seed):
    torch.manual_seed(seed)
    out = Generator(4, SMALL)(torch.rand(1, 1, 9, 8, 7))
    assert out.shape == (1, 1, 9, 8, 7)
    assert (out > 0).any()


def test_identity_start_hands_the_image_on():
    image = torch.rand(1, 1, 7, 8, 9)
    torch.testing.assert_close(Generator(4, SMALL, init="identity")(image), image)


def test_grown_weights_compute_the_same():
    torch.manual_seed(1)
    small, large = Generator(4, ((3, 3, 1), 3, 3, (3, 3, 1))), Generator(6, ((3, 3, 1), 5, 3, 7, 3, (3, 3, 1)))
    large.load_state_dict(grow(small.state_dict(), large))
    image = torch.rand(1, 1, 12, 11, 10)
    torch.testing.assert_close(large(image), small(image))
    large(image).sum().backward()
    # the new filters can learn: those that they feed have gradients
    last = [layer for layer in large.layers if isinstance(layer, nn.Conv3d)][-1]
    assert (last.weight.grad[:, 4:] != 0).any()
    assert grow(large.state_dict(), small) is None
    assert grow({"other.weight": torch.zeros(3, 3)}, large) is None


@pytest.mark.parametrize("memory", [4.0, 1e-6])
def test_inference_is_one_pass_inside_the_foreground_s_box(memory):
    torch.manual_seed(0)
    network = Generator(4, SMALL).eval()
    image = torch.zeros(1, 1, 30, 17, 19)
    image[:, :, 4:25, 3:14, 5:17] = 0.5 + 0.5 * torch.rand(1, 1, 21, 11, 12)
    with torch.inference_mode():
        whole = network.combine(network(image), image)
    result = ForegroundInferer(memory_gb=memory)(image, network)
    box = (slice(None), slice(None), slice(4, 25), slice(3, 14), slice(5, 17))
    torch.testing.assert_close(result[box], whole[box], rtol=0, atol=1e-5)
    assert (result[:, :, :4] == 0).all()
    assert result.max() <= image.max()


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("patch", [12, (16, 13, 5)])
def test_critic_scores_patches_of_its_size(spatial_dims, patch):
    critic = Critic(patch, spatial_dims)
    shape = (patch,) * 3 if isinstance(patch, int) else patch
    scores = critic(torch.rand(2, 1, *shape))
    assert scores.shape == (2, 1)
    with pytest.raises(ValueError, match="judges patches"):
        critic(torch.rand(2, 1, 8, 8, 8))


def test_the_paper_s_critic():
    critic = Critic(32)
    convolutions = [m for m in critic.modules() if isinstance(m, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256]
    assert [layer.out_features for layer in critic.modules() if isinstance(layer, nn.Linear)] == [1024, 1]
    assert isinstance(critic.head[-1], nn.Linear)  # unbounded
    volume = Critic(64, 3)
    assert sum(m.weight.numel() for m in volume.modules() if isinstance(m, nn.Linear)) < 3e6


@pytest.mark.parametrize("kwargs", [{"filter_sizes": (3, 4)}, {"filter_sizes": (3,)}, {"init": "zeros"}])
def test_settings_that_cannot_work(kwargs):
    with pytest.raises(ValueError, match=r"filter sizes|init must"):
        Generator(**kwargs)
    with pytest.raises(ValueError, match="spatial_dims"):
        Critic(8, 4)
    assert len(STAGES) == 9
