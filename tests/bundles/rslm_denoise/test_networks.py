# SPDX-License-Identifier: Apache-2.0
"""Generator and critic of RSLM-DNN-3D."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.inferers import ForegroundInferer
from common.utils.console import multiplications
from rslm_denoise_lib.networks import COMPACT, STAGES, Critic, Generator

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


def test_the_residual_form_adds_the_image():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 7, 8, 9)
    torch.testing.assert_close(Generator(4, SMALL, init="identity", residual=True)(image), image)
    network = Generator(4, SMALL, residual=True)
    torch.testing.assert_close(network(image), (image + network.layers(image)).clamp_min(0))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("sizes", [list(SMALL), [[3, 3, 1], 5]])
def test_a_state_dict_tells_its_network(sizes, residual):
    network = Generator(6, sizes, residual=residual)
    again = Generator(**Generator.form_of(network.state_dict()))
    again.load_state_dict(network.state_dict())
    image = torch.rand(1, 1, 6, 7, 8)
    torch.testing.assert_close(again(image), network(image))


def test_state_dicts_of_other_networks_are_refused():
    state = Generator(4, SMALL).state_dict()
    others = [
        {},
        {**state, "more.weight": torch.zeros(1, 1, 1, 1, 1)},
        {**state, "layers.0.weight": torch.zeros(4, 2, 3, 3, 1)},
        {name: tensor for name, tensor in state.items() if not name.startswith("layers.2")},
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 3)).state_dict(),
    ]
    for other in others:
        with pytest.raises(ValueError, match=r"no chain|do not have"):
            Generator.form_of(other)


@pytest.mark.parametrize("residual", [False, True])
def test_autocast_does_not_coarsen_grey_levels(residual):
    network = Generator(4, ((3, 3, 1), (3, 3, 1)), init="identity", residual=residual)
    image = 0.5 + torch.arange(600.0).reshape(1, 1, 10, 10, 6) / 1200
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(image), image)
        torch.testing.assert_close(ForegroundInferer()(image, network), image)


def test_the_compact_form_costs_at_most_400_thousand_multiplications():
    assert multiplications(Generator(32, COMPACT, residual=True)) < 4e5


@pytest.mark.parametrize("memory", [4.0, 1e-6])
@pytest.mark.parametrize("residual", [False, True])
def test_inference_is_one_pass_inside_the_foreground_s_box(memory, residual):
    torch.manual_seed(0)
    network = Generator(4, SMALL, residual=residual).eval()
    image = torch.zeros(1, 1, 30, 17, 19)
    image[:, :, 4:25, 3:14, 5:17] = 0.5 + 0.5 * torch.rand(1, 1, 21, 11, 12)
    with torch.inference_mode():
        whole = network(image).clamp_max(image.max())
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
