# SPDX-License-Identifier: Apache-2.0
"""Despeckling filters: their formulas on small arrays, and what their papers say that they do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from common.data.sample_data.ultrasound import PROBES, make_frame
from tools.rivals.diffusion import dpad, dpad_coefficient, frost, lee, local_variation, srad
from tools.rivals.obnlm import obnlm, pearson_distance
from tools.rivals.us_despeckle import filters
from us_despeckle_lib.metrics import ssnr

OWN = (lee, frost, srad, dpad, obnlm)


@pytest.fixture(scope="module")
def step():
    """Two tissues side by side under fully developed speckle, log-compressed: 40 dB apart in 60."""
    random = np.random.default_rng(0)
    level = np.where(np.arange(80) < 40, 0.25, 0.75) * np.ones((64, 1))
    rayleigh = np.hypot(*random.normal(size=(2, 64, 80))) / np.sqrt(2)
    return np.clip(level + np.log(rayleigh) / np.log(1000), 0, 1)


def test_every_filter_smooths_tissue():
    image = make_frame(1, PROBES["low"], 96)["image"] / 255.0
    known = filters()
    assert {"median", "lee", "frost", "srad", "dpad", "obnlm", "tv", "bilateral", "curvature"} <= set(known)
    for name, _, job in known.values():
        if job is not None:
            result = np.asarray(job(image))
            assert result.shape == image.shape
            assert ssnr(result[50:80, 30:60]) > 1.15 * ssnr(image[50:80, 30:60]), name
            assert abs(result.mean() - image.mean()) < 0.06, name


@pytest.mark.parametrize("job", OWN)
def test_a_flat_picture_and_its_size_stay(job):
    np.testing.assert_allclose(job(np.full((20, 23), 0.4)), 0.4, atol=1e-6)


@pytest.mark.parametrize("job", OWN)
def test_a_black_margin_does_not_switch_a_filter_off(job):
    tissue = make_frame(1, PROBES["low"], 96)["image"] / 255.0
    framed = np.zeros((160, 160))  # two thirds of it black
    framed[32:128, 32:128] = tissue
    inside = job(framed)[82:112, 62:92]
    assert ssnr(inside) > 1.15 * ssnr(tissue[50:80, 30:60])


@pytest.mark.parametrize(("job", "gain"), [(dpad, 3), (obnlm, 2.5), (srad, 2), (frost, 2)])
def test_speckle_goes_and_the_edge_stays(step, job, gain):
    result = job(step)
    for tissue in (np.s_[8:56, 6:30], np.s_[8:56, 50:74]):
        assert ssnr(result[tissue]) > gain * ssnr(step[tissue])
    contrast = [np.median(x[:, 44:50]) - np.median(x[:, 30:36]) for x in (result, step)]
    assert contrast[0] > 0.85 * contrast[1]  # within ten pixels of the edge


def test_dpad_keeps_more_detail_than_srad_at_equal_smoothing(step):
    """What the paper claims: for the same smoothness of tissue the edge is at least as steep."""
    tissue = np.s_[8:56, 50:74]
    smooth = {job: job(step, iterations=40) for job in (srad, dpad)}
    assert ssnr(smooth[dpad][tissue]) > ssnr(smooth[srad][tissue])
    steep = {job: np.median(image[:, 41] - image[:, 38]) for job, image in smooth.items()}
    assert steep[dpad] > 0.9 * steep[srad]


def test_local_variation_by_hand():
    image = np.zeros((3, 3))
    image[1, 1] = 9.0
    assert local_variation(image, 3)[1, 1] == pytest.approx(9.0)  # mean 1, squares 9, variance 8 * 9 / 8


def test_diffusion_is_one_minus_the_gain_of_kuans_filter():
    noise, variation = 0.3, np.array([0.1, 0.3, 0.6, 3.0, 1e9])
    kuan = (1 - noise / variation) / (1 + noise)
    np.testing.assert_allclose(dpad_coefficient(variation, noise), np.clip(1 - kuan, 0, 1))
    assert dpad_coefficient(variation, noise)[:2] == pytest.approx(1)


def test_frost_is_a_mean_where_damping_is_none():
    image = np.random.default_rng(0).random((9, 9))
    mean = np.log(np.exp(image[3:6, 3:6] * np.log(1000)).mean()) / np.log(1000)
    assert frost(image, 3, damping=0)[4, 4] == pytest.approx(mean)


def test_pearson_distance_grows_with_the_square_and_falls_with_the_level():
    assert pearson_distance(np.array([110.0, 220.0]), np.array([100.0, 200.0])) == pytest.approx([1, 2])


def test_blockwise_means_by_a_plain_loop():
    image = np.random.default_rng(1).random((7, 8)) * 0.2 + 0.4
    search, radius, h, step = 2, 1, 0.8, 2
    reach = search + radius
    u = np.pad(image * 255 + 100, reach, mode="symmetric")

    def block(i, j):
        return u[i - radius : i + radius + 1, j - radius : j + radius + 1]

    own = _own_distance(u, 2 * radius + 1)
    rows, columns = image.shape
    total, count = np.zeros_like(u), np.zeros_like(u)
    for i in sorted({*range(0, rows, step), rows - 1}):
        for j in sorted({*range(0, columns, step), columns - 1}):
            centre, made, weights = block(i + reach, j + reach), 0, 0
            for a in range(-search, search + 1):
                for b in range(-search, search + 1):
                    other = block(i + reach + a, j + reach + b)
                    if 0.9 < other.mean() / centre.mean() < 1 / 0.9:
                        weight = np.exp(-pearson_distance(centre, other).mean() / (own * h**2))
                        made, weights = made + weight * other, weights + weight
            place = np.s_[i + reach - radius : i + reach + radius + 1, j + reach - radius : j + reach + radius + 1]
            total[place] += made / weights
            count[place] += 1
    expected = ((total / np.maximum(count, 1) - 100) / 255)[reach : reach + rows, reach : reach + columns]
    np.testing.assert_allclose(obnlm(image, search, radius, h, step), expected, atol=1e-5)


def _own_distance(u, edge):
    mean = uniform_filter(u, edge)
    return 2 * np.median((uniform_filter(u * u, edge) - mean**2) / mean)


def test_blocks_that_leave_gaps_are_refused():
    with pytest.raises(ValueError, match="leave gaps"):
        obnlm(np.zeros((20, 20)), radius=1, step=4)
