# SPDX-License-Identifier: Apache-2.0
"""Ways of down-sampling: field of view, mean, against outside references, and the choice among them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.measure import block_reduce

from common.errors import InputError
from lesion_msgan_lib.degradation import WAYS, RandDownsample, average_blocks, crop_kspace, ways_of


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(24, 32), (2, 20, 24), (1, 3, 24, 20)])
def test_shape_and_level(way, shape):
    low = WAYS[way](torch.full(shape, 7.0))
    torch.testing.assert_close(low, torch.full((*shape[:-2], shape[-2] // 4, shape[-1] // 4), 7.0))


@pytest.mark.parametrize("way", WAYS)
def test_the_field_of_view_stays(way):
    """What is symmetric about the middle stays so, and a spot's centre of mass stays where it was."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(40.0), indexing="ij")
    spot = torch.exp(-((y - 21.3) ** 2 + (x - 16.8) ** 2) / (2 * 4.0**2))
    low = WAYS[way](spot)
    centres = [(torch.arange(float(n)) + 0.5) * 4 - 0.5 for n in low.shape]
    assert float((low.sum(1) * centres[0]).sum() / low.sum()) == pytest.approx(21.3, abs=0.05)
    assert float((low.sum(0) * centres[1]).sum() / low.sum()) == pytest.approx(16.8, abs=0.05)
    torch.testing.assert_close(WAYS[way](spot.flip(0, 1)), low.flip(0, 1), atol=1e-5, rtol=0)


def test_blocks_are_averaged():
    image = np.random.default_rng(0).random((24, 20)).astype(np.float32)
    expected = block_reduce(image, (4, 4), np.mean)
    np.testing.assert_allclose(average_blocks(torch.from_numpy(image)).numpy(), expected, rtol=1e-5)


def test_cropped_kspace_keeps_coarse_waves_and_drops_fine_ones():
    x = torch.arange(40.0)
    centres = (torch.arange(10.0) + 0.5) * 4 - 0.5

    def wave(places, periods):
        return torch.cos(2 * math.pi * periods * (places + 0.3) / 40)[None].expand(len(places), -1)

    torch.testing.assert_close(crop_kspace(wave(x, 3)), wave(centres, 3), atol=1e-5, rtol=0)
    assert crop_kspace(wave(x, 9)).abs().max() < 1e-5
    assert average_blocks(wave(x, 9)).abs().max() > 0.1


def test_the_ways_differ_on_an_edge():
    edge = torch.zeros(32, 32)
    edge[:, 17:] = 100
    lows = [WAYS[way](edge) for way in WAYS]
    assert all((a - b).abs().max() > 3 for i, a in enumerate(lows) for b in lows[:i])


def test_a_way_is_drawn_from_those_named_and_repeats():
    image = torch.rand(16, 16)
    made = {way: WAYS[way](image) for way in WAYS}

    def several(ways, seed):
        transform = RandDownsample(ways).set_random_state(seed)
        found = []
        for _ in range(20):
            low = transform(image)
            found.append(next(way for way in WAYS if torch.equal(low, made[way])))
        return found

    assert set(several(None, 0)) == set(WAYS) and several(None, 5) == several(None, 5) != several(None, 6)
    assert set(several("['block', 'kspace']", 0)) == {"block", "kspace"}
    assert set(several("block", 0)) == {"block"}
    assert torch.equal(RandDownsample("block")(image, "kspace"), made["kspace"])


def test_an_unknown_way_is_named():
    with pytest.raises(InputError, match="degradation must be one or several of bicubic, block, kspace, got 'area'"):
        ways_of("['block', 'area']")
    assert ways_of("null") == list(WAYS)
