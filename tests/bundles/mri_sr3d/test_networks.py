# SPDX-License-Identifier: Apache-2.0
"""The network is the paper's, on any size, and its weights tell its form."""

import math

import pytest
import torch
from torch import nn

from common.inferers import LayerSlabs
from mri_sr3d_lib.networks import ReCNN, form

SIZES = ((7, 10, 5), (9, 4, 11))


def convolutions(network):
    return [m for m in network.layers if isinstance(m, nn.Conv3d)]


def varied(**options):
    """A network whose biases are not 0, so that nothing hides behind them."""
    torch.manual_seed(0)
    network = ReCNN(**options)
    for module in convolutions(network):
        nn.init.normal_(module.bias, std=0.1)
    return network.eval()


# architecture


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 3, "filters": 4},
        {"num_layers": 3, "filters": (6, 3), "filter_sizes": (9, 1, 5), "residual": False},
        {"num_layers": 4, "filters": 5, "filter_sizes": 5, "guides": 2},
        {"num_layers": 1},
    ],
)
def test_the_output_has_the_images_size_and_one_channel(size, options):
    channels = 1 + options.get("guides", 0)
    assert ReCNN(**options)(torch.rand(2, channels, *size)).shape == (2, 1, *size)


def test_the_default_is_the_papers_20_layers_of_64_filters():
    network = ReCNN()
    layers = convolutions(network)
    assert len(layers) == 20 and {m.kernel_size for m in layers} == {(3, 3, 3)}
    assert [m.out_channels for m in layers] == [64] * 19 + [1]
    assert sum(isinstance(m, nn.ReLU) for m in network.layers) == 19
    assert isinstance(network.layers[-1], nn.Conv3d)  # the last layer is linear
    weights = sum(m.weight.numel() for m in layers)
    assert weights == 27 * (64 + 18 * 64 * 64 + 64)
    assert LayerSlabs(network.layers).radius == [20] * 3


def test_srcnn3d_has_its_papers_filters():
    layers = convolutions(ReCNN(3, (64, 32), (9, 1, 5), residual=False))
    shapes = [tuple(m.weight.shape[:3]) for m in layers]
    assert shapes == [(64, 1, 9), (32, 64, 1), (1, 32, 5)]


def test_the_skip_adds_the_interpolated_image_only():
    network = ReCNN(2, 3, guides=2)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    image = torch.rand(1, 3, *SIZES[0])
    assert torch.equal(network(image), image[:, :1])
    plain = ReCNN(2, 3, guides=2, residual=False)
    plain.load_state_dict(network.state_dict())
    assert not plain(image).any()


def test_layers_and_skip_together_are_the_network():
    network, image = varied(num_layers=3, filters=4, guides=1), torch.rand(1, 2, *SIZES[0])
    torch.testing.assert_close(network(image), network.layers(image) + image[:, :1])
    assert torch.equal(network.combine(network.layers(image), image), network(image))


def test_guides_matter():
    network, image = varied(num_layers=3, filters=4, guides=1), torch.rand(1, 2, *SIZES[0])
    other = image.clone()
    other[:, 1] = 0
    assert not torch.allclose(network(image), network(other))


def test_the_image_itself_is_left_alone():
    image = torch.randn(1, 1, *SIZES[0])  # below 0 too, where a ReLU in place would show
    before = image.clone()
    varied(num_layers=3, filters=4)(image)
    assert torch.equal(image, before)


def test_every_parameter_gets_a_finite_gradient():
    network = varied(num_layers=4, filters=6)
    truth = torch.rand(2, 1, *SIZES[0])
    nn.functional.mse_loss(network(1 - truth), truth).backward()
    for parameter in network.parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0


# initialisation


@pytest.mark.parametrize("guides", [0, 2])
@pytest.mark.parametrize("sizes", [3, (3, 5, 3)])
@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("he", lambda n, f: math.sqrt(2 / (n * f**3))),
        ("xavier", lambda n, f: math.sqrt(1 / (n * f**3))),
        ("normal_0.001", lambda n, f: 0.001),
        ("normal_0.01", lambda n, f: 0.01),
    ],
)
def test_weights_start_with_the_papers_spread(init, std, sizes, guides):
    torch.manual_seed(0)
    for module in convolutions(ReCNN(3, 24, sizes, guides=guides, init=init)):
        weight = module.weight.detach()
        expected = std(module.in_channels, module.kernel_size[0])
        accuracy = 5 / math.sqrt(weight.numel())
        assert float(weight.std()) == pytest.approx(expected, rel=accuracy)
        assert abs(float(weight.mean())) < accuracy * expected
        assert not module.bias.any()
        if init == "xavier":
            assert float(weight.abs().max()) <= math.sqrt(3) * expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_layers": 0}, "at least 1"),
        ({"filter_sizes": 4}, "odd"),
        ({"num_layers": 3, "filters": (4, 4, 4)}, "3 layers need 2 filter counts and 3 filter sizes, got 3 and 3"),
        ({"num_layers": 3, "filter_sizes": (3, 3)}, "got 2 and 2"),
        ({"init": "zeros"}, "init must be one of"),
    ],
)
def test_what_cannot_be_built_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        ReCNN(**options)


# export


@pytest.mark.parametrize("residual", [True, False])
def test_it_can_be_scripted(residual):
    network, image = varied(num_layers=3, filters=4, guides=1, residual=residual), torch.rand(1, 2, *SIZES[1])
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_it_can_be_exported_for_any_size():
    network, image = varied(num_layers=3, filters=4), torch.rand(1, 1, *SIZES[0])
    sizes = {axis: torch.export.Dim.DYNAMIC for axis in (2, 3, 4)}
    exported = torch.export.export(network, (image,), dynamic_shapes=(sizes,)).module()
    other = torch.rand(1, 1, *SIZES[1])
    torch.testing.assert_close(exported(other), network(other))


# weights tell their network


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 5, "filters": 6, "filter_sizes": 3, "guides": 0},
        {"num_layers": 3, "filters": [8, 4], "filter_sizes": [9, 1, 5], "guides": 0},
        {"num_layers": 1, "filters": [], "filter_sizes": 3, "guides": 2},
    ],
    ids=["chain", "SRCNN3D", "one layer"],
)
def test_the_form_of_a_state_dict_builds_the_network_that_it_fits(options):
    form = ReCNN.form_of(ReCNN(**options).state_dict())
    assert form == options
    ReCNN(**form).load_state_dict(ReCNN(**options).state_dict())


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"layers.0.conv.weight": torch.ones(1)},
        nn.Sequential(nn.Linear(2, 2)).state_dict(),
        {**ReCNN(2, 3).state_dict(), "layers.4.bias": torch.ones(1)},
        {"layers.0.weight": torch.ones(2, 2), "layers.0.bias": torch.ones(2)},
    ],
    ids=["empty", "another kind", "no layers", "a bias too many", "no convolution"],
)
def test_other_state_dicts_have_no_form(state):
    with pytest.raises(ValueError, match="chain of 3D convolutions"):
        ReCNN.form_of(state)


def test_guided_networks_have_ten_layers_at_most():
    assert form({"num_layers": 20, "filters": 64}, guides=1) == {"num_layers": 10, "filters": 64}
    assert form({"num_layers": 20, "filters": 64}, guides=0)["num_layers"] == 20
