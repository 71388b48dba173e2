# SPDX-License-Identifier: Apache-2.0
"""Generators and critic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.io.weights import fits
from common.losses.adversarial import gradient_penalty
from lesion_msgan_lib.networks import Critic, MultiScaleGenerator, SRResNet, fold, interpolate


def small(kind=MultiScaleGenerator, **kwargs):
    torch.manual_seed(0)
    return kind(filters=4, blocks=2, **kwargs)


def lively(network):
    """Heads and statistics as after a training."""
    with torch.no_grad():
        for head in (network.head_x2, network.head_x4):
            if head is not None:
                head.weight.normal_(std=0.1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("size", [(24, 24), (7, 9), (1, 5)])
def test_two_images_in_training_and_one_afterwards(size):
    network = small()
    image = torch.randn(2, 1, *size)
    x2, x4 = network.train()(image)
    assert x2.shape == (2, 1, 2 * size[0], 2 * size[1]) and x4.shape == (2, 1, 4 * size[0], 4 * size[1])
    out = network.eval()(image)
    assert isinstance(out, torch.Tensor) and out.shape == x4.shape


def test_untrained_networks_are_bicubic_interpolation():
    image = torch.randn(1, 1, 8, 9)
    torch.testing.assert_close(small().eval()(image), interpolate(image))
    torch.testing.assert_close(small().train()(image)[0], interpolate(image, 2))
    plain = small(skip=False).eval()(image)
    assert (plain - interpolate(image)).abs().max() > 0.1


def test_the_paper_s_networks_and_their_cost():
    multi, single = MultiScaleGenerator().eval(), SRResNet().eval()
    assert len(multi.blocks) == len(single.blocks) == 16 and len(multi.middle) == 6
    assert sum(p.numel() for p in multi.parameters()) == pytest.approx(1.97e6, rel=0.01)
    assert multi.multiplications / single.multiplications == pytest.approx(1.92, rel=0.05)  # 7.75 s / 4.04 s
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in multi.modules())


@pytest.mark.parametrize("network", [small(), small(SRResNet), small(SRResNet, x2_head=True)])
def test_multiplications_are_counted_right(network):
    counts = []
    hooks = [
        m.register_forward_hook(lambda layer, _, out: counts.append(layer.weight[0].numel() * out.numel()))
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]
    for mode in (True, False):
        counts.clear()
        network.train(mode)(torch.zeros(1, 1, 5, 6))
        assert sum(counts) == 30 * network.multiplications
    for hook in hooks:
        hook.remove()


def test_x2_term_reaches_the_trunk_and_x4_all():
    network = lively(small()).train()
    x2, _ = network(torch.randn(1, 1, 6, 6))
    x2.square().sum().backward()
    assert network.blocks[0].first.weight.grad.abs().sum() > 0
    assert network.head_x4.weight.grad is None and network.middle[0].first.weight.grad is None
    network.zero_grad(set_to_none=True)
    network(torch.randn(1, 1, 6, 6))[1].square().sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None and not name.startswith("head_x2")]
    assert missing == []


@pytest.mark.parametrize("network", [small(), small(SRResNet), small(skip=False)])
def test_folded_network_computes_the_same(network):
    lively(network).eval()
    image = torch.randn(2, 1, 9, 10)
    with torch.no_grad():
        before = network(image)
        after = fold(network)(image)
        again = fold(network)(image)
    torch.testing.assert_close(after, before, atol=1e-3 * float(before.abs().max()), rtol=0)
    assert torch.equal(again, after)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    counts = []
    for layer in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        layer.register_forward_hook(lambda layer, _, out: counts.append(layer.weight[0].numel() * out.numel()))
    network(torch.zeros(1, 1, 5, 6))
    assert sum(counts) == 30 * network.multiplications


@pytest.mark.parametrize(
    "network",
    [
        *(MultiScaleGenerator(4, 2, 1), MultiScaleGenerator(6, 1, 3, skip=False), SRResNet(4, 3)),
        *(SRResNet(4, 1, x2_head=True), SRResNet(5, 2, middle_blocks=1, skip=False)),
    ],
)
def test_weights_tell_their_form(network):
    state = network.state_dict()
    made = type(network)(**type(network).form_of(state))
    assert fits(state, made) and made.skip == network.skip
    assert fits(state, SRResNet(**SRResNet.form_of(state)))  # the family's one class builds any of them


@pytest.mark.parametrize(("kind", "state"), [(SRResNet, {}), (SRResNet, {"leave.weight": torch.zeros(3)})])
def test_weights_of_something_else_have_no_form(kind, state):
    with pytest.raises(ValueError, match="not the weights"):
        kind.form_of(state)


def test_an_srresnet_is_no_multi_scale_generator():
    with pytest.raises(ValueError, match="no x2 head"):
        MultiScaleGenerator.form_of(SRResNet(4, 1).state_dict())


def test_autocast_leaves_the_heads_in_float32():
    network, seen = lively(small()).train(), {}
    network.head_x4.register_forward_hook(lambda _, given, out: seen.update(x4=out.dtype, given=given[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x2, x4 = network(torch.randn(1, 1, 6, 6))
    assert seen == {"x4": torch.float32, "given": torch.bfloat16}  # the body is in bfloat16
    assert x2.dtype == x4.dtype == torch.float32


@pytest.mark.parametrize("kind", [SRResNet, MultiScaleGenerator])
def test_weights_with_and_without_skip_are_not_taken_for_each_other_s(kind):
    added, plain = small(kind), small(kind, skip=False)
    assert added.skip is True and plain.skip is False
    assert not fits(added.state_dict(), plain) and not fits(plain.state_dict(), added)
    assert all(tensor.is_floating_point() for name, tensor in plain.state_dict().items() if "tracked" not in name)
    assert fits(plain.state_dict(), small(kind, skip=False)) and fits(added.state_dict(), small(kind, skip="true"))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", [SRResNet, MultiScaleGenerator])
def test_radius_and_memory(kind, folded):
    network = lively(small(kind)).eval()
    network = fold(network) if folded else network
    edge = 2 * network.radius + 5
    image = torch.randn(1, 1, edge, edge, requires_grad=True)
    middle = slice(4 * (edge // 2), 4 * (edge // 2) + 4)
    network(image)[..., middle, middle].sum().backward()
    rows = torch.nonzero(image.grad[0, 0].any(dim=1)).flatten()
    reach = max(edge // 2 - int(rows[0]), int(rows[-1]) - edge // 2)
    assert network.radius - 1 <= reach <= network.radius  # from the inner pixels of a coarse one a bit less far

    held = []
    for layer in (m for m in network.modules() if not list(m.children()) and not getattr(m, "inplace", False)):
        layer.register_forward_hook(lambda _, given, out: held.append(given[0].numel() + out.numel()))
    network(torch.zeros(1, 1, 5, 6))
    assert 0.7 * network.values_per_pixel < max(held) / 30 <= network.values_per_pixel


@pytest.mark.parametrize("skip", [True, False])
def test_generators_can_be_scripted(skip):
    network = lively(small(skip=skip)).eval()
    image = torch.randn(1, 1, 6, 7)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_critic():
    critic = Critic(16, filters=(4, 4, 8, 8), units=6)
    assert critic(torch.randn(3, 1, 16, 16)).shape == (3, 1)
    assert isinstance(critic.head[-1], nn.Linear)  # unbounded
    assert not any(isinstance(m, nn.BatchNorm2d) for m in critic.modules())
    penalty = gradient_penalty(critic, torch.randn(3, 1, 16, 16), torch.randn(3, 1, 16, 16))
    assert penalty > 0 and penalty.requires_grad
    with pytest.raises(ValueError, match="judges images of 16"):
        critic(torch.randn(1, 1, 12, 16))
    normalised = Critic(16, filters=(4, 4, 8), units=6, batch_norm=True)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in normalised.modules()) == 2


def test_srgan_s_critic():
    with torch.device("meta"):
        critic = Critic()
    filters = [m.out_channels for m in critic.modules() if isinstance(m, nn.Conv2d)]
    assert filters == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [m.out_features for m in critic.modules() if isinstance(m, nn.Linear)] == [1024, 1]
    assert critic.head[1].in_features == 512 * 6 * 6


def test_a_network_folded_for_the_x2_grid_gives_the_first_image_of_its_training_alone():
    network, image = lively(small(skip=True)).eval(), torch.randn(1, 1, 10, 9)
    with torch.no_grad():
        features = network.enter(image)
        features = network.to_x2(network.leave_norm(network.leave(network.blocks(features))) + features)
        expected = network.head_x2(features) + interpolate(image, 2)
        cost = network.multiplications
        made = fold(network, 2)(image)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)
    assert network.multiplications < cost / 2 and network.radius < small().radius
    with pytest.raises(InputError, match="x2 grid"):
        fold(small(SRResNet), 2)
