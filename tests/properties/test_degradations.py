# SPDX-License-Identifier: Apache-2.0
"""Down-sampling, slice profile and Rician noise for all shapes, factors and types."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import assume, given
from hypothesis import strategies as st

from common.samplers import Patch, SliceProfile
from common.transforms.degradation import degrade, low_resolution_size, profile_matrix, profile_sigma
from rslm_denoise_lib.noise import Noise

FACTORS = st.one_of(st.integers(1, 8).map(float), st.floats(0.4, 8))
SHAPES = st.tuples(*[st.integers(1, 28)] * 3)
SIGMAS = st.one_of(st.none(), st.floats(0, 4))
SEEDS = st.integers(0, 2**31 - 1)


def volume(shape, seed, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(SHAPES, st.tuples(*[FACTORS] * 3), SIGMAS, st.floats(-1e4, 1e4), st.sampled_from([torch.float32, torch.float64]))
def test_a_constant_stays_constant_on_both_grids(shape, factors, sigma, level, dtype):
    low, back = degrade(torch.full((1, *shape), level, dtype=dtype), factors, sigma)
    assert low.shape[1:] == tuple(low_resolution_size(n, f) for n, f in zip(shape, factors, strict=True))
    assert back.shape[1:] == shape and low.dtype == back.dtype == dtype
    for image in (low, back):
        assert (image - level).abs().max() <= 1e-5 * abs(level) + 1e-12


@given(st.integers(1, 80), FACTORS, SIGMAS)
def test_the_coarse_axis_covers_the_fine_one(size, factor, sigma):
    matrix = profile_matrix(size, factor, profile_sigma(factor, sigma))
    count = len(matrix)
    assert (count - 1) * factor < size <= (count + 2e-3) * factor or count == 1
    assert np.isfinite(matrix).all() and np.allclose(matrix.sum(axis=1), 1)
    if factor > 1:  # splines of a finer axis have negative weights
        assert matrix.min() >= 0


@given(st.integers(2, 80), st.floats(1.01, 8), st.floats(0.05, 3))
def test_a_coarse_voxel_lies_where_its_centre_is(size, factor, sigma):
    matrix = profile_matrix(size, factor, sigma)
    for row, place in zip(matrix, (np.arange(len(matrix)) + 0.5) * factor - 0.5, strict=True):
        if 6 * sigma < place < size - 1 - 6 * sigma and sigma > 0.7:  # else the ends or the grid cut it
            assert abs(row @ np.arange(size) - place) < 1e-2


@given(SHAPES, st.tuples(*[st.integers(1, 5)] * 3), SIGMAS, SEEDS)
def test_mirrored_volumes_are_degraded_mirrored(shape, factors, sigma, seed):
    shape = tuple(n * f for n, f in zip(shape, factors, strict=True))
    assume(math.prod(shape) < 60_000)
    image = volume(shape, seed, torch.float64)
    for plain, mirrored in zip(
        degrade(image, factors, sigma), degrade(image.flip(0, 1, 2), factors, sigma), strict=True
    ):
        torch.testing.assert_close(mirrored.flip(0, 1, 2), plain, rtol=0, atol=1e-9)


@given(st.data(), SHAPES, st.tuples(*[FACTORS] * 3), SIGMAS, SEEDS)
def test_a_degraded_patch_is_the_degraded_volume_s(data, shape, factors, sigma, seed):
    size = tuple(data.draw(st.integers(1, n)) for n in shape)
    corner = tuple(data.draw(st.integers(0, n - s)) for n, s in zip(shape, size, strict=True))
    image = volume((1, *shape), seed)
    batch = SliceProfile([factors], sigma)([Patch(image, corner, np.random.default_rng(seed))], size)
    window = (slice(None), *(slice(c, c + s) for c, s in zip(corner, size, strict=True)))
    torch.testing.assert_close(batch["label"][0], image[window], rtol=0, atol=0)
    torch.testing.assert_close(batch["image"][0], degrade(image, factors, sigma)[1][window], rtol=0, atol=2e-5)


@given(SHAPES, st.floats(0.01, 100), SEEDS, st.sampled_from([torch.float32, torch.float64, torch.float16]))
def test_noise_is_a_magnitude_and_repeats_itself(shape, level, seed, dtype):
    image = volume((1, *shape), 0).to(dtype)
    before = image.clone()
    noisy = Noise()(image, level, seed)
    assert noisy.shape == image.shape and torch.isfinite(noisy).all() and noisy.min() >= 0
    assert torch.equal(noisy, Noise()(image, level, seed)) and torch.equal(image, before)


@given(st.floats(0, 1), st.floats(0.5, 50), SEEDS)
def test_noise_has_the_rice_distribution_s_second_moment(level, percent, seed):
    noisy, sigma = Noise()(torch.full((1, 40, 40, 40), level), percent, seed).double(), percent / 100
    expected = level**2 + 2 * sigma**2
    spread = math.sqrt(4 * level**2 * sigma**2 + 4 * sigma**4) / math.sqrt(noisy.numel())  # of the mean of squares
    assert abs(float((noisy**2).mean()) - expected) < 6 * spread + 1e-6
