# SPDX-License-Identifier: Apache-2.0
"""Generator and discriminator of the synthesis bundle."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from brasyn_synthesis_lib.inferers import multiplications_per_pixel
from brasyn_synthesis_lib.networks import Discriminator, EnlargedConv, Generator


def test_the_paper_s_generator():
    network = Generator(width=64, depth=8, full_width=0, linear_skip=False)
    downs = [level[0] for level in network.down]
    assert [layer.out_channels for layer in downs] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert all(layer.stride == (2, 2) and layer.kernel_size == (3, 3) for layer in downs)
    assert all(isinstance(level[-1], nn.Mish) for level in [*network.down, *network.up])
    assert not any(isinstance(module, nn.ConvTranspose2d | _NormBase) for module in network.modules())
    kernels = sorted(tuple(p.shape[:2]) for p in network.parameters() if p.ndim == 4)
    assert len(kernels) == 16 and (1, 128) in kernels  # eight down, eight up, nothing at full resolution beside them
    seen = []
    for level in network.down:
        level.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[2:])))
    with torch.inference_mode():
        made = network.eval()(torch.rand(1, 9, 256, 256))
    assert seen[-1] == (1, 1) and made.shape == (1, 1, 256, 256)


@pytest.mark.parametrize("extra", [{}, {"full_width": 0}, {"linear_skip": False, "norm": "batch"}])
@pytest.mark.parametrize("size", [(64, 64), (50, 37), (7, 5), (1, 1)])
def test_any_size_goes_in_and_comes_out(size, extra):
    network = Generator(3, 2, 4, **extra).eval()
    assert network(torch.rand(2, 3, *size)).shape == (2, 1, *size)


FORMS = [
    {"width": 28, "depth": 4},
    {"width": 64, "depth": 8, "full_width": 0, "linear_skip": False},
    {"in_channels": 3, "width": 2, "depth": 1, "full_width": 5},
    {"width": 3, "depth": 3, "linear_skip": False, "norm": "instance"},
    {"width": 3, "depth": 3, "full_width": 0, "norm": "batch"},
]


@pytest.mark.parametrize("form", FORMS)
def test_weights_tell_the_form_of_their_network(form):
    with torch.device("meta"):
        state = Generator(**form).state_dict()
    found = Generator.form_of(state)
    assert {**found, **form} == found
    with torch.device("meta"):
        again = Generator(**found).state_dict()
    assert {name: v.shape for name, v in again.items()} == {name: v.shape for name, v in state.items()}


def test_weights_of_no_generator_are_refused():
    state = Generator(3, 2, 3).state_dict()
    without = {name: v for name, v in state.items() if name != "full.bias"}
    wider = {**state, "up.1.0.weight": torch.zeros(9, 8, 3, 3)}
    for wrong, name in ((without, "full.bias"), (wider, "up.1.0.weight"), ({}, "down.0.0.weight")):
        with pytest.raises(ValueError, match=name):
            Generator.form_of(wrong)


def test_norm_stands_between_convolution_and_activation_of_inner_levels():
    network = Generator(3, 2, 4, norm="instance")
    kinds = [[type(layer) for layer in level] for level in [*network.down, *network.up]]
    plain, normed = [nn.Conv2d, nn.Mish], [nn.Conv2d, nn.InstanceNorm2d, nn.Mish]
    enlarged = [EnlargedConv, nn.InstanceNorm2d, nn.Mish]
    assert kinds == [plain, normed, normed, plain, enlarged, enlarged, enlarged]


def test_output_is_float32_under_autocast():
    network = Generator(3, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_output_is_celu():
    network = Generator(3, 2, 3).eval()
    with torch.no_grad():
        network.last.bias.fill_(-50)
        assert network(torch.rand(1, 3, 8, 8)).min() > -1.001
        network.start_linear([0, 0, 2.0], 3.0)
        image = torch.rand(1, 3, 8, 8)
        torch.testing.assert_close(network(image), 2 * image[:, 2:] + 3)


def test_features_keep_their_size_through_all_levels():
    torch.manual_seed(0)
    network = Generator(depth=8).eval()
    spread = []
    for level in network.down:
        level.register_forward_hook(lambda _, __, out: spread.append(float(out.std())))
    with torch.inference_mode():
        network(torch.rand(2, 9, 256, 256))
    assert min(spread) > 0.05 and max(spread) < 5, spread


def test_full_resolution_reaches_single_pixels():
    torch.manual_seed(0)
    network = Generator(3, 2, 3).eval()
    network.start_linear([0.0, 0.0, 0.0], 0.0)
    with torch.no_grad():
        torch.nn.init.normal_(network.last.weight)
        network.full.weight.zero_()
        image = torch.rand(1, 3, 16, 16)
        dotted = image.clone()
        dotted[..., 7, 9] += 1
        changed = torch.nonzero((network(dotted) - network(image))[0, 0])
    assert changed.min(dim=0).values.tolist() == [5, 7] and changed.max(dim=0).values.tolist() == [9, 11]


def test_export_with_free_sizes():
    network = Generator(3, 2, 2).eval()
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            network, (torch.rand(2, 3, 40, 24),), dynamic_shapes=({0: free, 2: free, 3: free},)
        )
        for size in ((3, 3, 21, 38), (1, 3, 64, 17)):
            image = torch.rand(size)
            torch.testing.assert_close(program.module()(image), network(image), atol=1e-5, rtol=1e-4)


def test_linear_start_takes_the_middle_slices_and_can_learn():
    network = Generator(9, 2, 3)
    network.start_linear([1.0, -0.5, 0.25], 0.1)
    stack = torch.rand(4, 9, 16, 16)
    expected = F.celu(stack[:, [1]] - 0.5 * stack[:, [4]] + 0.25 * stack[:, [7]] + 0.1)
    made = network(stack)
    torch.testing.assert_close(made, expected)
    made.square().mean().backward()
    assert network.last.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(6, 7), (1, 1), (5, 2)])
def test_enlarged_convolution_is_that_of_the_enlarged_image(shape):
    layer = EnlargedConv(3, 4)
    image = torch.rand(2, 3, *shape, requires_grad=True)
    made = layer(image)
    torch.testing.assert_close(
        made, F.conv2d(F.interpolate(image, scale_factor=2), layer.weight, layer.bias, padding=1)
    )
    made.sum().backward()
    assert torch.isfinite(layer.weight.grad).all() and (layer.weight.grad != 0).any()


def test_multiplications_are_counted():
    layer = nn.Conv2d(5, 4, 3, padding=1)
    assert multiplications_per_pixel(layer, 5) == 5 * 4 * 9
    assert multiplications_per_pixel(Generator(), 9) == pytest.approx(16200, rel=0.02)


def test_the_paper_s_discriminator():
    network = Discriminator()
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 5 and layers[0].in_channels == 1
    assert all(layer.bias is not None for layer in layers)
    assert sum(isinstance(module, nn.InstanceNorm2d) for module in network.modules()) == 3
    assert not any(isinstance(module, _NormBase) for module in Discriminator(4, norm=None).modules())
    for _ in range(30):
        network(torch.rand(2, 1, 64, 64))
    for layer in layers:
        assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(1, abs=0.05)
    scores = network(torch.rand(2, 1, 64, 64))
    assert scores.shape[:2] == (2, 1) and scores.shape[2] > 1  # of patches


def test_settings_that_cannot_work():
    with pytest.raises(ValueError, match="positive numbers"):
        Generator(0)
    for network in (Generator, Discriminator):
        with pytest.raises(ValueError, match="norm must be one of"):
            network(norm="layer")
    with pytest.raises(ValueError, match="linear_skip"):
        Generator(3, 2, 2, linear_skip=False).start_linear([1, 0, 0], 0)
