# SPDX-License-Identifier: Apache-2.0
"""Region arithmetic, for every box size and position."""

from __future__ import annotations

import itertools

import pytest
import torch

from lesion_msgan_lib.regions import bounding_box, crop_corner_range, cut, foreground_region, square_region
from lesion_msgan_lib.slices import downsample, whole_pixels

SIDES = [(start, stop) for start in range(32) for stop in range(start + 1, 33)]


@pytest.mark.parametrize(("margin", "minimum"), [(0, 4), (0, 12), (2, 32), (1, 18)])
def test_every_box_size_and_position(margin, minimum):
    shape = (8, 10)  # low-resolution pixels, so 32 x 40 pixels
    least = -(-minimum // 4)
    others = [(0, 1), (3, 9), (13, 14), (17, 40), (39, 40)]
    for side, other in itertools.product(SIDES, others):
        region = square_region((side, other), shape, margin, minimum)
        edges = [stop - start for start, stop in region]
        wanted = max(least, *(-(-b // 4) - a // 4 + 2 * margin for a, b in (side, other)))
        for (start, stop), (a, b), length, edge in zip(region, (side, other), shape, edges, strict=True):
            assert 0 <= start < stop <= length
            assert start * 4 <= a and b <= stop * 4  # the lesion is inside, in whole low-resolution pixels
            assert edge == min(wanted, length)  # square, unless the image is smaller
            if a // 4 - margin >= 0 and -(-b // 4) + margin <= length:  # the margin too, away from the border
                assert start <= a // 4 - margin and -(-b // 4) + margin <= stop


def test_low_and_high_resolution_regions_match_exactly():
    high = torch.arange(36.0 * 44).reshape(36, 44) % 7
    low = high.reshape(9, 4, 11, 4).mean(dim=(1, 3))
    for start, stop in SIDES:
        region = square_region(((start, stop), (start + 3, stop + 5)), low.shape, 1, 8)
        small, large = cut(low, region), cut(high, region, 4)
        assert tuple(large.shape) == tuple(4 * n for n in small.shape)
        means = large.reshape(small.shape[0], 4, small.shape[1], 4).mean(dim=(1, 3))
        torch.testing.assert_close(means, small)  # the same place


def test_bounding_box():
    mask = torch.zeros(9, 8, 7)
    assert bounding_box(mask) is None
    mask[2:4, 5, 1:6] = 3
    assert bounding_box(mask) == ((2, 4), (5, 6), (1, 6))


def test_foreground_region_of_slices_volumes_and_nothing():
    low = torch.zeros(40, 50)
    low[10:21, 12:40] = torch.rand(11, 28) + 1
    assert foreground_region(low) == ((1, 29), (12, 40))
    volume = torch.zeros(40, 50, 6)
    volume[..., 2:5] = low[..., None]
    assert foreground_region(volume) == ((1, 29), (12, 40), (2, 5))
    assert foreground_region(torch.full((7, 9), 3.0)) == ((0, 7), (0, 9))


@pytest.mark.parametrize("side", [(0, 10), (2, 5), (3, 30), (20, 30), (0, 30)])
def test_crops_lie_in_the_region_or_around_it(side):
    first, last = crop_corner_range(side, 8, 30)
    assert 0 <= first <= last <= 22
    for start in range(first, last + 1):
        inside = start >= side[0] and start + 8 <= side[1]
        around = start <= side[0] and start + 8 >= side[1]
        assert inside or around


def test_whole_pixels_and_downsampling_keep_positions():
    assert whole_pixels(torch.zeros(2, 17, 23)).shape == (2, 16, 20)
    ramp = torch.arange(64.0).expand(32, 64)
    low = downsample(ramp)
    torch.testing.assert_close(low[4, 4:12], (torch.arange(4, 12.0) + 0.5) * 4 - 0.5, atol=1e-3, rtol=0)
    torch.testing.assert_close(downsample(torch.full((1, 8, 8), 5.0)), torch.full((1, 2, 2), 5.0))
    stripes = (torch.arange(64) % 2).float().expand(32, 64)  # the finest there are: they must not alias
    assert (downsample(stripes)[:, 2:-2] - 0.5).abs().max() < 0.02
