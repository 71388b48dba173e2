# SPDX-License-Identifier: Apache-2.0
"""A region super-resolved and pasted."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch import nn

from common.inferers import OrientationInferer, RegionInferer, paste
from common.inferers.region import LEAST_TILE, SCRATCH, tile_edges


class Bicubic(nn.Module):
    """Interpolates, so a region is what the picture is already, where it has its context."""

    def forward(self, image):
        return F.interpolate(image, scale_factor=4, mode="bicubic", align_corners=False)


class Brighter(nn.Module):
    def forward(self, image):
        return Bicubic()(image) + 1


def marked(image, region):
    return MetaTensor(image, meta={"region": torch.tensor(region)})


def interpolated(image):
    return Bicubic()(image)


def test_pasting_what_is_there_changes_nothing_at_all():
    picture = torch.randn(3, 1, 20, 24)
    for top, left, before, after in itertools.product((0, 3), (0, 9), (0, 1, 5), (0, 4)):
        pasted = picture.clone()
        paste(
            pasted, picture[..., top : top + 12, left : left + 13].clone(), (top, left), ((before, after), (after, 2))
        )
        assert torch.equal(pasted, picture)


def test_a_pasted_patch_is_blended_in_at_its_edges_only():
    picture, patch = torch.zeros(1, 12, 12), torch.ones(1, 8, 10)
    paste(picture, patch, (2, 1), ((3, 2), (0, 1)))
    assert (picture[:, 5:8, 1:10] == 1).all()
    torch.testing.assert_close(picture[0, 2:5, 4], torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(picture[0, 8:10, 4], torch.tensor([2 / 3, 1 / 3]))
    assert (picture[:, :2] == 0).all() and (picture[:, 10:] == 0).all() and picture[0, 6, 10] == 0.5


@pytest.mark.parametrize("region", [((0, 8), (0, 8)), ((5, 13), (3, 11)), ((12, 20), (9, 17)), ((0, 20), (0, 17))])
def test_an_untouched_region_returns_the_interpolated_picture(region):
    image = torch.randn(1, 1, 20, 17)
    inferer = RegionInferer(halo=4, feather=4)
    # bicubic interpolation needs two pixels of context, and the feather ends two pixels inside of it
    torch.testing.assert_close(inferer(marked(image, region), Bicubic()), interpolated(image), rtol=0, atol=1e-6)


def test_all_of_the_region_is_the_network_s_and_nothing_far_from_it():
    image = torch.randn(1, 1, 20, 20)
    out = RegionInferer(halo=3, feather=6)(marked(image, ((6, 10), (8, 15))), Brighter())
    gain = (out - interpolated(image))[0, 0]
    torch.testing.assert_close(gain[24:40, 32:60], torch.ones(16, 28), rtol=0, atol=1e-5)
    assert (gain[:18] == 0).all() and (gain[46:] == 0).all() and (gain[:, :26] == 0).all() and (gain[:, 66:] == 0).all()
    assert 0 < gain[20, 40] < 1


@pytest.mark.parametrize("region", [((0, 0), (0, 0)), ((4, 8), (3, 3))])
def test_of_an_empty_region_all_is_interpolated(region):
    image = torch.randn(1, 1, 12, 14)
    torch.testing.assert_close(RegionInferer()(marked(image, region), Brighter()), interpolated(image))


def test_volumes_are_done_slice_by_slice():
    torch.manual_seed(0)
    volume = torch.randn(1, 1, 12, 14, 5)
    region = ((2, 8), (4, 10), (1, 4))
    out = RegionInferer(batch_size=2)(marked(volume, region), Brighter())
    assert out.shape == (1, 1, 48, 56, 5)
    for k in range(5):
        alone = marked(volume[..., k], region[:2])
        expected = RegionInferer()(alone, Brighter()) if 1 <= k < 4 else interpolated(volume[..., k])
        torch.testing.assert_close(out[..., k], expected, rtol=0, atol=1e-6)


class Reaching(nn.Module):
    """Sees ten pixels in each direction and pads with zeros; remembers what it was given."""

    radius = 10
    values_per_pixel = 1000

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 9, padding=4), nn.Tanh(), nn.Conv2d(2, 1, 9, padding=4))
        self.given = []

    def forward(self, image):
        self.given.append(image.numel())
        return Bicubic()(self.layers(image))

    def gigabytes(self, pixels):
        return (pixels + 0.5) * SCRATCH * 4 * self.values_per_pixel / 2**30


@pytest.mark.parametrize("pixels", [3 * 60 * 50, 2.5 * 60 * 50, 60 * 50, 2999, 2000, 1600, 10])
def test_memory_changes_nothing_but_how_much_is_done_at_a_time(pixels):
    volume = torch.randn(1, 1, 64, 50, 3)
    region = ((0, 52), (3, 50), (0, 3))  # read with context: 60 x 50
    network = Reaching()
    expected = RegionInferer(memory_gb=network.gigabytes(1e6))(marked(volume, region), network)
    assert network.given == [3 * 60 * 50]
    network.given = []
    made = RegionInferer(memory_gb=network.gigabytes(pixels))(marked(volume, region), network)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
    assert max(network.given) <= max(pixels, (LEAST_TILE + 2 * network.radius) ** 2)
    assert len(network.given) == {9000: 1, 7500: 2, 3000: 3}.get(pixels, len(network.given))
    assert len(network.given) > 3 or pixels >= 3000


def test_tiles_keep_their_bound_and_compute_little_twice():
    for height, width, radius, share in itertools.product(
        (7, 40, 333), (16, 100, 512), (0, 3, 46), (0.01, 0.3, 0.9, 1)
    ):
        pixels = share * height * width
        rows, columns = tile_edges((height, width), radius, pixels)
        read = min(height, rows + 2 * radius) * min(width, columns + 2 * radius)
        assert read <= pixels or (rows, columns) == (min(height, LEAST_TILE), min(width, LEAST_TILE))
        assert (rows, columns) == (height, width) or share < 1
    assert sorted(tile_edges((512, 512), 46, 300 * 512)) == [171, 512]  # bands rather than squares
    assert tile_edges((512, 512), 46, 150 * 150)[1] < 100


def test_box_is_what_the_network_reads():
    volume = marked(torch.zeros(1, 1, 30, 30, 5), ((2, 8), (14, 20), (1, 4)))
    assert RegionInferer(halo=8).box(volume) == [slice(0, 16), slice(6, 28), slice(1, 4)]
    assert RegionInferer().box(torch.zeros(1, 1, 9, 7)) == [slice(0, 9), slice(0, 7)]
    with pytest.raises(ValueError, match="wider than the context"):
        RegionInferer(halo=1, feather=5)


class Slanted(nn.Module):
    """Adds what differs between orientations: 1 in the first row."""

    def forward(self, image):
        out = Bicubic()(image)
        out[..., 0, :] += 1
        return out


def test_orientations_are_averaged_inside_the_region_and_spread_nowhere_else():
    tiles = OrientationInferer(SimpleInferer(), "all", spread=True)
    image, region = torch.randn(1, 1, 20, 24, 3), ((5, 13), (3, 11), (1, 2))
    inferer = RegionInferer(halo=0, feather=0, tiles=tiles)
    mean, spread = inferer(marked(image, region), Slanted())[0]
    whole = torch.stack([interpolated(image[..., k])[0, 0] for k in range(3)], dim=-1)
    assert torch.equal(mean[..., 0], whole[..., 0]) and not spread[..., (0, 2)].any()
    square = spread[20:52, 12:44, 1]
    # two of eight orientations touch each side: 1/4 on the sides of the square, where sd is sqrt(1/4 * 3/4)
    torch.testing.assert_close(square[0, 5:-5], torch.full((22,), 0.75**0.5 / 2), atol=1e-4, rtol=0)
    assert spread.sum() > 0 and square[2:-2, 2:-2].max() < 1e-4
    assert inferer.work(marked(image, region), nn.Conv2d(1, 1, 1)) == 8 * 8 * 8
