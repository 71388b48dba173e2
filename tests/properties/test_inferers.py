# SPDX-License-Identifier: Apache-2.0
"""Slabs, tiles, bands and batches of slices give what one pass gives, whatever the shapes."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from torch import nn

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from common.inferers import ForegroundInferer, OrientationInferer, RegionInferer, SliceStackInferer, ViewsInferer
from common.inferers.region import LEAST_TILE, SCRATCH, tile_edges
from us_despeckle_lib.inferers import FrameInferer
from us_despeckle_lib.networks import DRNN

SEEDS = st.integers(0, 2**31 - 1)
MEMORY = st.one_of(st.just(4.0), st.floats(1e-7, 1e-4))


class Chain(nn.Module):
    """Convolutions as in the bundles' networks, with the input added."""

    def __init__(self, kernels, channels, dims, seed):
        super().__init__()
        torch.manual_seed(seed)
        kind, widths = (nn.Conv3d if dims == 3 else nn.Conv2d), [channels, *[3] * (len(kernels) - 1), 1]
        layers = []
        for i, kernel in enumerate(kernels):
            layers += [kind(widths[i], widths[i + 1], kernel, padding=[k // 2 for k in kernel]), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers[:-1])

    def combine(self, output, image):
        return image[:, :1] + output

    def forward(self, image):
        return self.combine(self.layers(image), image)


def painted(shape, box, seed):
    """Values in a box, 0 elsewhere."""
    image = torch.zeros(shape)
    inside = tuple(slice(min(b), max(b)) for b in box)
    part = image[(..., *inside)]
    image[(..., *inside)] = 0.1 + torch.rand(part.shape, generator=torch.Generator().manual_seed(seed))
    return image


@given(st.data(), st.sampled_from([2, 3]), st.integers(1, 2), MEMORY, SEEDS)
def test_slabs_equal_one_pass_on_the_foreground(data, dims, channels, memory, seed):
    shape = data.draw(st.tuples(*[st.integers(1, 26)] * dims))
    kernel = st.tuples(*[st.sampled_from([1, 3, 5])] * dims)
    network = Chain(data.draw(st.lists(kernel, min_size=1, max_size=4)), channels, dims, seed)
    box = [data.draw(st.tuples(st.integers(0, n), st.integers(0, n))) for n in shape]
    image = painted((2, channels, *shape), box, seed)
    with torch.no_grad():
        once = network(image)
    made = ForegroundInferer(memory)(image, network)
    for case, one, result in zip(image, once, made, strict=True):
        expected = case[:1].clone()
        inside = (slice(None), *ForegroundInferer().box(case[None]))
        expected[inside] = one[inside]
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


class Enlarging(nn.Module):
    values_per_pixel = 50.0
    radius = 3

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 16, 5, padding=2), nn.PixelShuffle(4)
        )

    def forward(self, image):
        return self.layers(image)


@given(st.data(), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 12), st.floats(1e-6, 1e-3), SEEDS)
def test_tiles_equal_one_pass_over_the_region(data, depth, halo, memory, seed):
    shape = data.draw(st.tuples(*[st.integers(1, 70)] * 2)) + (() if depth is None else (depth,))
    region = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    marked = MetaTensor(image, meta={"region": torch.tensor(region)})
    network, options = Enlarging(seed), {"halo": halo, "feather": data.draw(st.integers(0, 4 * halo))}
    once, tiled = (RegionInferer(**options, memory_gb=m)(marked, network) for m in (4.0, memory))
    assert once.shape == (1, 1, 4 * shape[0], 4 * shape[1], *shape[2:])
    torch.testing.assert_close(tiled, once, rtol=0, atol=2e-5)


@given(st.tuples(*[st.integers(1, 600)] * 2), st.integers(0, 60), st.floats(1, 4e5))
def test_tiles_cover_a_slice_and_fit_in_memory_where_one_can(shape, radius, pixels):
    edges = tile_edges(shape, radius, pixels)
    assert all(1 <= edge <= n for edge, n in zip(edges, shape, strict=True))
    read = [min(n, edge + 2 * radius) for edge, n in zip(edges, shape, strict=True)]
    least = tuple(min(n, LEAST_TILE) for n in shape)
    assert read[0] * read[1] <= pixels or edges == least
    assert SCRATCH >= 1


@given(st.data(), st.integers(0, 2), st.sampled_from([1, 3, 5]), st.integers(1, 7), st.integers(1, 8), SEEDS)
def test_batches_of_slices_equal_slices_one_by_one(data, axis, k, batch, multiple, seed):
    shape = data.draw(st.tuples(*[st.integers(1, 14)] * 3))
    box = [data.draw(st.tuples(st.integers(0, n), st.integers(0, n))) for n in shape]
    image = painted((1, 2, *shape), box, seed)
    weights = torch.rand(2 * k, generator=torch.Generator().manual_seed(seed)) - 0.3

    def network(stack):
        assert stack.shape[2] % multiple == 0 and stack.shape[3] % multiple == 0 and len(stack) <= batch
        return (stack * weights[:, None, None]).sum(dim=1, keepdim=True)

    made = SliceStackInferer(axis, k, batch, multiple)(image, network)
    planes = image[0].movedim(axis + 1, 1)
    padded = F.pad(planes, (0, 0, 0, 0, k // 2, k // 2))
    for i in range(shape[axis]):
        stack = padded[:, i : i + k].flatten(0, 1)
        expected = (stack * weights[:, None, None]).sum(dim=0)
        expected = expected if planes[:, i].any() else torch.zeros_like(expected)
        torch.testing.assert_close(made[0, 0].select(axis, i), expected, rtol=0, atol=1e-5)


@given(st.tuples(*[st.integers(1, 20)] * 3), st.floats(0.1, 10), st.sampled_from([1, 9]), st.integers(1, 8))
def test_nine_views_keep_a_constant_volume(shape, level, views, multiple):
    image = torch.full((1, 1, *shape), level)
    made = ViewsInferer(views, multiple=multiple, outputs=["mean", "sd", "straight"])(image, lambda x: x[:, 1:2])
    torch.testing.assert_close(made[:, [0]], image, rtol=1e-4, atol=0)
    torch.testing.assert_close(made[:, [2]], image)
    assert torch.isfinite(made).all() and made[:, 1].max() < 5e-3 * level


@given(st.tuples(*[st.integers(1, 60)] * 2), st.integers(1, 3), st.floats(1e-7, 1e-4), SEEDS)
def test_bands_of_a_frame_equal_one_pass(shape, frames, memory, seed):
    torch.manual_seed(seed)
    network, image = DRNN(3, 1).eval(), torch.rand(1, frames, *shape)
    torch.testing.assert_close(FrameInferer(memory)(image, network), FrameInferer()(image, network), rtol=0, atol=1e-5)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from(["flips", "all"]), SEEDS)
def test_turns_of_a_network_without_direction_change_nothing(shape, orientations, seed):
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    kernel = torch.full((1, 1, 3, 3, 3), 1 / 27)

    class Plain:
        def __call__(self, inputs, network):
            return network(inputs)

    made = OrientationInferer(Plain(), orientations)(image, lambda x: F.conv3d(x, kernel, padding=1))
    torch.testing.assert_close(made[:, :1], F.conv3d(image, kernel, padding=1), rtol=0, atol=1e-5)
