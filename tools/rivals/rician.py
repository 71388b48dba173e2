# SPDX-License-Identifier: Apache-2.0
"""Variance-stabilising transform for Rician noise, so that a filter for Gaussian noise is a fair rival.

Foi, "Noise estimation and removal in MR imaging: the variance-stabilization approach", IEEE ISBI 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import ive

__all__ = ["denoise_stabilised", "moments", "restore", "stabilise"]

HIGHEST = 30.0  # signal in units of sigma, above which Rician noise is Gaussian with sigma
_SIGNAL = np.linspace(0, HIGHEST, 601)


def moments(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of Rician magnitudes with sigma 1 (Rice 1945)."""
    half = signal**2 / 4
    mean = np.sqrt(np.pi / 2) * ((1 + 2 * half) * ive(0, half) + 2 * half * ive(1, half))
    return mean, np.sqrt(2 + signal**2 - mean**2)


_MEAN, _SPREAD = moments(_SIGNAL)
# f(z) is the integral of 1 / spread over the mean
_STABLE = np.concatenate([[0], np.cumsum(np.diff(_MEAN) * 2 / (_SPREAD[1:] + _SPREAD[:-1]))])


def stabilise(image: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitudes with Rician noise to values whose noise has a standard deviation near 1.

    Departs from the paper: the transform is Anscombe's integral of 1 / spread, not the numerically optimised one; the
    noise of weak signals comes out a little below 1.

    Args:
        image: any shape, not negative.
        sigma: of the noise in each of the two channels, in the image's units.
    """
    z = np.asarray(image, np.float64) / sigma
    below = (z - _MEAN[0]) / _SPREAD[0]
    above = _STABLE[-1] + z - _MEAN[-1]
    inside = np.interp(z, _MEAN, _STABLE)
    return np.where(z < _MEAN[0], below, np.where(z > _MEAN[-1], above, inside))


@lru_cache(maxsize=1)
def _expected() -> np.ndarray:
    """Mean of the transformed magnitudes for each signal: what a filter's result stands for."""
    z = np.linspace(0, HIGHEST + 8, 4001)
    density = z * np.exp(-((z - _SIGNAL[:, None]) ** 2) / 2) * ive(0, z * _SIGNAL[:, None])
    return density @ stabilise(z, 1.0) / density.sum(axis=1)


def restore(stable: np.ndarray, sigma: float) -> np.ndarray:
    """The signal without noise from filtered values of ``stabilise``: the exact unbiased inverse.

    Values below what a signal of 0 gives on average become 0.
    """
    expected = _expected()
    inside = np.interp(stable, expected, _SIGNAL)
    return sigma * np.where(stable > expected[-1], stable - expected[-1] + HIGHEST, inside)


def denoise_stabilised(
    image: np.ndarray, sigma: float, gaussian: Callable[[np.ndarray, float], np.ndarray]
) -> np.ndarray:
    """A filter for Gaussian noise applied to Rician magnitudes.

    Args:
        image: magnitudes, any shape.
        sigma: of the noise in each channel.
        gaussian: called with an image and its noise's standard deviation.
    """
    stable = stabilise(image, sigma)
    low, high = stable.min(), stable.max()
    scale = max(high - low, 1e-12)  # filters expect a range of 1
    return restore(gaussian((stable - low) / scale, 1 / scale) * scale + low, sigma)
