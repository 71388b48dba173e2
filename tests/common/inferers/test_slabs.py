# SPDX-License-Identifier: Apache-2.0
"""Slabs and boxes change memory and time, never the result."""

import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.inferers import Inferer
from torch import nn

from common.inferers import ForegroundInferer, LayerSlabs

TINY = 1e-9  # GiB: as many slabs as there can be


class Chain(nn.Module):
    """A chain of convolutions of any filter sizes that adds channel 0 at the end."""

    def __init__(self, sizes, dims=3, channels=1, width=5, act=nn.ReLU):
        super().__init__()
        convolution = nn.Conv3d if dims == 3 else nn.Conv2d
        widths = [channels, *[width + i for i in range(len(sizes) - 1)], 1]
        layers = []
        for i, size in enumerate(sizes):
            layers += [convolution(widths[i], widths[i + 1], size, padding=size // 2), act()]
        self.layers = nn.Sequential(*layers[:-1])

    def combine(self, output, image):
        return output + image[:, :1]

    def forward(self, image):
        return self.combine(self.layers(image), image)


def network(*sizes, **options):
    torch.manual_seed(sum(sizes))
    return Chain(sizes, **options).eval()


def brain(shape=(29, 22, 25), box=((9, 19), (7, 15), (8, 18)), batch=1, channels=1):
    """Zero around a random box of foreground, background exactly 0 in all channels."""
    torch.manual_seed(1)
    image = torch.zeros(batch, channels, *shape)
    window = tuple(slice(*side) for side in box)
    image[(..., *window)] = 0.1 + torch.rand(batch, channels, *[stop - start for start, stop in box])
    return image, window


@pytest.fixture
def pushes(monkeypatch):
    """Counts the slabs."""
    counted = []
    push = LayerSlabs._push
    monkeypatch.setattr(LayerSlabs, "_push", lambda *args: counted.append(1) or push(*args))
    return counted


def equal(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


# LayerSlabs


def memory_for(image, net, slabs):
    """GiB with which ``LayerSlabs`` needs so many slabs."""
    for exponent in range(400):
        memory = 1.0 * 0.93**exponent
        chain_length = LayerSlabs(net.layers, memory)
        if _count(chain_length, image) == slabs:
            return memory
    raise AssertionError(f"no memory gives {slabs} slabs")


def _count(slabs, image):
    from common.inferers.slabs import _Layer

    convolutions = [m for m in slabs.layers if isinstance(m, nn.Conv2d | nn.Conv3d)]
    chain = [_Layer(m, [False] * 3, torch.contiguous_format) for m in convolutions]
    return len(range(0, image.shape[2], slabs._slab(image, chain)))


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (9, 1, 5), (5,), (1, 3, 1), (3, 7)])
@pytest.mark.parametrize("shape", [(61, 9, 12), (40, 11, 7)])
def test_any_number_of_slabs_equals_one_pass(sizes, shape, pushes):
    net, image = network(*sizes), torch.randn(1, 1, *shape)
    with torch.no_grad():
        expected = net.layers(image)
        for slabs in (1, 2, 3):
            pushes.clear()
            equal(LayerSlabs(net.layers, memory_for(image, net, slabs))(image), expected)
            assert len(pushes) == slabs
        equal(LayerSlabs(net.layers, TINY)(image), expected)


@pytest.mark.parametrize("cropped", [False, True])
def test_a_chain_much_deeper_than_a_slab_equals_one_pass(cropped, pushes):
    net, image = network(*[3] * 9), torch.randn(1, 1, 31, 20, 21)  # the last layers first wake up in later slabs
    with torch.no_grad():
        expected = net.layers(image)
        if cropped:
            expected = expected[..., 9:-9, 9:-9, 9:-9]
        equal(LayerSlabs(net.layers, TINY)(image, [cropped] * 3), expected)
    assert len(pushes) == 8


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last_3d])
def test_slabs_are_joined_in_the_memory_format_of_the_weights(form, monkeypatch):
    net, image = network(3, 3, 3).to(memory_format=form), torch.randn(1, 1, 20, 9, 10)
    given, convolve = [], torch.nn.functional.conv3d
    monkeypatch.setattr(torch.nn.functional, "conv3d", lambda x, *a, **k: given.append(x) or convolve(x, *a, **k))
    with torch.no_grad():
        expected = net.layers(image)
        given.clear()
        equal(LayerSlabs(net.layers, TINY)(image), expected)
    assert len(given) > 6 and all(x.is_contiguous(memory_format=form) for x in given)


def test_planes_that_are_barely_there_are_enough():
    net = network(3, 5, 3)
    for length in range(1, 8):
        image = torch.randn(2, 1, length, 5, 6)
        with torch.no_grad():
            equal(LayerSlabs(net.layers, TINY)(image), net.layers(image))


def test_a_single_plane_per_slab_works_for_pointwise_networks(pushes):
    net, image = network(1, 1), torch.randn(1, 1, 7, 5, 6)
    with torch.no_grad():
        equal(LayerSlabs(net.layers, TINY)(image), net.layers(image))
    assert len(pushes) == 7


@pytest.mark.parametrize("act", [nn.LeakyReLU, nn.PReLU, nn.Identity])
def test_images_in_two_dimensions_and_other_activations(act):
    net, image = network(9, 1, 5, dims=2, act=act), torch.randn(2, 1, 53, 17)
    with torch.no_grad():
        equal(LayerSlabs(net.layers, TINY)(image), net.layers(image))


@pytest.mark.parametrize("memory", [4.0, TINY])
@pytest.mark.parametrize("cropped", [(True, True, True), (True, False, True), (False, True, False)])
def test_a_halo_is_used_up_where_the_image_was_cut_out(memory, cropped):
    net = network(3, 5, 3)
    radius = LayerSlabs(net.layers).radius
    assert radius == [4, 4, 4]
    whole = torch.randn(1, 1, 35, 22, 27)
    cut = [slice(3, n - 2) if crop else slice(None) for n, crop in zip(whole.shape[2:], cropped, strict=True)]
    inner = [slice(3 + 4, n - 2 - 4) if crop else slice(None) for n, crop in zip(whole.shape[2:], cropped, strict=True)]
    with torch.no_grad():
        expected = net.layers(whole)[(..., *inner)]
        equal(LayerSlabs(net.layers, memory)(whole[(..., *cut)], cropped), expected)


def test_a_layer_that_looks_at_the_whole_image_is_refused():
    with pytest.raises(TypeError, match="InstanceNorm3d"):
        LayerSlabs(nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2)))


def test_progress_is_shown_over_several_slabs(capsys):
    net, image = network(3, 3), torch.randn(1, 1, 40, 5, 6)
    with torch.no_grad():
        equal(LayerSlabs(net.layers, TINY, progress=True)(image), net.layers(image))
    assert "slabs" in capsys.readouterr().err


# ForegroundInferer

BOXES = {
    "in the middle": ((11, 18), (8, 13), (10, 15)),
    "at a border": ((0, 12), (8, 22), (10, 15)),
    "at one side only": ((20, 29), (8, 13), (0, 9)),
    "everywhere": ((0, 29), (0, 22), (0, 25)),
    "one voxel": ((14, 15), (11, 12), (12, 13)),
    "near a border": ((2, 27), (1, 20), (3, 24)),
}


@pytest.mark.parametrize("memory", [4.0, 2e-5, TINY])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("sizes", [(3, 3, 3), (9, 1, 5)], ids=str)
def test_inside_the_box_it_equals_one_pass_and_outside_the_input(sizes, box, memory):
    image, window = brain(box=box)
    net = network(*sizes)
    expected = image.clone()
    with torch.no_grad():
        expected[(..., *window)] = net(image)[(..., *window)]
    result = ForegroundInferer(memory)(image, net)
    equal(result, expected)
    outside = torch.ones_like(image, dtype=torch.bool)
    outside[(..., *window)] = False
    assert torch.equal(result[outside], image[outside])
    assert not torch.equal(result, image)


def test_faint_ringing_outside_the_box_is_kept_as_it_is():
    image, window = brain()
    image[0, 0, 0, 0, 0] = -0.01
    result = ForegroundInferer()(image, network(3, 3))
    assert result[0, 0, 0, 0, 0] == image[0, 0, 0, 0, 0]
    assert ForegroundInferer().box(image) == list(window)


def test_an_empty_image_comes_back():
    image = torch.zeros(1, 1, 9, 8, 7)
    assert torch.equal(ForegroundInferer()(image, network(3, 3)), image)


def test_each_image_of_a_batch_has_its_own_box():
    image, _ = brain(batch=2)
    image[1] = image[1].flip(1, 2, 3)
    net = network(3, 3, 3)
    both = ForegroundInferer(TINY)(image, net)
    for i in range(2):
        equal(both[i : i + 1], ForegroundInferer()(image[i : i + 1], net))


def test_guides_are_read_but_only_the_image_makes_the_box_and_the_result():
    image, window = brain(channels=3)
    image[:, 1:] += 0.5  # guides show more than the image does
    net = network(3, 5, channels=3)
    with torch.no_grad():
        expected = image[:, :1].clone()
        expected[(..., *window)] = net(image)[(..., *window)]
    for memory in (4.0, TINY):
        result = ForegroundInferer(memory)(image, net)
        assert result.shape == (1, 1, 29, 22, 25)
        equal(result, expected)


def test_everything_is_computed_without_a_box():
    image, _ = brain()
    net = network(3, 3, 3)
    with torch.no_grad():
        equal(ForegroundInferer(2e-5, foreground=False)(image, net), net(image))


def test_two_dimensions_work_too():
    net = network(5, 3, dims=2)
    image, window = brain(shape=(41, 27), box=((12, 31), (0, 9)))
    with torch.no_grad():
        expected = net(image)[(..., *window)]
    equal(ForegroundInferer(TINY)(image, net)[(..., *window)], expected)


def test_images_with_meta_data_give_the_same_voxels():
    image, _ = brain(batch=2)
    net = network(3, 3)
    batch = list_data_collate([MetaTensor(case, affine=torch.eye(4) * (i + 1)) for i, case in enumerate(image)])
    result = ForegroundInferer()(batch, net)
    equal(torch.as_tensor(result), ForegroundInferer()(image, net))


def test_the_result_is_a_normal_tensor_without_gradient():
    image, _ = brain()
    result = ForegroundInferer()(image, network(3, 3))
    assert not result.requires_grad and not result.is_inference()
    result += 1  # in place, as postprocessing may


def test_wrappers_for_several_devices_are_looked_through():
    image, _ = brain()
    net = network(3, 3)
    equal(ForegroundInferer()(image, nn.DataParallel(net)), ForegroundInferer()(image, net))
    assert isinstance(ForegroundInferer(), Inferer)


def test_the_given_image_is_left_alone():
    image, _ = brain()
    before = image.clone()
    ForegroundInferer(TINY)(image, network(3, 3))
    assert torch.equal(image, before)


def test_first_and_last_layer_keep_float32_under_autocast():
    layers = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU(), nn.Conv3d(4, 1, 1))
    for convolution in layers[::2]:
        nn.init.ones_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    image = 1 + torch.arange(1000.0).reshape(1, 1, 10, 10, 10) / 1000
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = LayerSlabs(layers)(image)
    torch.testing.assert_close(result, 4 * image)  # bfloat16 has steps of 1/128 here
