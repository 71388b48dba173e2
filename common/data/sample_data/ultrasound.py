# SPDX-License-Identifier: Apache-2.0
"""Synthetic B-mode frames of two probes, for trying things out: scatterers through point spread functions.

Not for diagnosis, and no substitute for real data in any claim about image quality.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from common.data.sample_data.fields import smooth_field, step

__all__ = ["PROBES", "Probe", "make_frame"]

RANGE_DB = 60.0  # of the log compression
PARENCHYMA = 0.55  # grey level of tissue at 0 dB
NOISE_DB = -42.0  # electronic noise
DEFAULT_SIZE = 256
LEAST_SIZE = 96
FAN_ANGLE = np.deg2rad(32.0)  # half the opening
FAN_NEAR = 0.25  # radius of the probe's surface as a share of the frame


@dataclass(frozen=True)
class Probe:
    """What tells one probe's speckle from another's; standard deviations in pixels of a 256-pixel frame.

    Args:
        lateral, axial: of the point spread function's envelope; a larger aperture has a smaller lateral one.
        looks: envelopes averaged (spatial or frequency compounding).
        shared: share of the scatterers' signal that all looks have in common, which limits what averaging gains.
        focus: depth of the narrowest beam as a share of the frame; it widens by half towards the farther end.
    """

    lateral: float
    axial: float
    looks: int
    shared: float
    focus: float


# A narrower beam alone makes speckle smaller but leaves its signal-to-noise ratio unchanged; compounding raises that.
PROBES = {
    "low": Probe(lateral=2.6, axial=1.1, looks=1, shared=0.0, focus=0.4),
    "high": Probe(lateral=1.5, axial=1.0, looks=6, shared=0.1, focus=0.5),
}


def make_frame(seed: int, probe: Probe, size: int = DEFAULT_SIZE, fan: bool = False) -> dict[str, np.ndarray]:
    """A frame and its clean echogenicity; the same arguments give the same pixels.

    Args:
        seed: any integer from 0; chooses tissue and scatterers.
        probe: see ``PROBES``.
        size: edge length in pixels, at least 96.
        fan: a sector with black margins and a line of text, as a curved probe gives; else a full rectangle.

    Returns:
        ``image`` and ``clean``: uint8 ``(H, W)``, depth downwards; ``clean`` is the same log compression of the
        tissue's echogenicity without speckle and noise.

    Raises:
        ValueError: ``size`` below 96 or no whole number.
    """
    try:
        size = operator.index(size)
    except TypeError:
        size = 0
    if size < LEAST_SIZE:
        raise ValueError(f"size must be a whole number of at least {LEAST_SIZE} pixels")
    rng = np.random.default_rng(seed)
    level = _echogenicity(rng, size)  # dB
    envelope = _envelope(rng, 10 ** (level / 20), probe)
    noise = 10 ** (NOISE_DB / 20)
    mean = np.sqrt(np.pi / 4)  # of the envelope of unit power
    image = _grey(20 * np.log10(np.hypot(envelope, noise) / mean))
    clean = _grey(20 * np.log10(np.hypot(10 ** (level / 20), noise)))
    if fan:
        image, clean = _fan(image, rng), _fan(clean, None)
    return {"image": image, "clean": clean}


def _grey(decibel: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(decibel / RANGE_DB + PARENCHYMA, 0, 1)).astype(np.uint8)


def _envelope(rng: np.random.Generator, amplitude: np.ndarray, probe: Probe) -> np.ndarray:
    """Mean of the looks' envelopes; each look has unit power where the amplitude is 1."""

    def scatterers() -> np.ndarray:
        return rng.standard_normal((2, *amplitude.shape))

    common = scatterers()
    looks = []
    for _ in range(probe.looks):
        field = np.sqrt(probe.shared) * common + np.sqrt(1 - probe.shared) * scatterers()
        real, imaginary = (_beam(part * amplitude, probe) for part in field)
        looks.append(np.hypot(real, imaginary))
    return np.mean(looks, axis=0)


def _beam(field: np.ndarray, probe: Probe) -> np.ndarray:
    """Point spread function: Gaussian, lateral width by depth (a blend of three), power of white noise kept at 1/2."""
    scale = len(field) / DEFAULT_SIZE
    axial = probe.axial * scale
    field = ndimage.gaussian_filter1d(field, axial, axis=0, mode="reflect")
    depth = np.linspace(0, 1, len(field))[:, None]
    spread = np.abs(depth - probe.focus) / max(probe.focus, 1 - probe.focus)  # 0 in focus, 1 at the farther end
    result = np.zeros_like(field)
    for i, wider in enumerate((1.0, 1.25, 1.5)):
        weight = np.clip(1 - np.abs(2 * spread - i), 0, 1)
        lateral = probe.lateral * scale * wider
        gain = np.sqrt(4 * np.pi * axial * lateral / 2)  # a Gaussian's squares sum to 1 / (4 pi s_a s_l)
        result += weight * gain * ndimage.gaussian_filter1d(field, lateral, axis=1, mode="reflect")
    return result


def _echogenicity(rng: np.random.Generator, size: int) -> np.ndarray:
    """Tissue in dB relative to parenchyma: layers below the skin, vessels with walls, cysts, lesions."""
    rows, columns = np.mgrid[:size, :size] / (size - 1.0)
    level = 0.9 * smooth_field(rng, (size, size), size / 8)
    depth = rows + 0.012 * smooth_field(rng, (size, size), size / 6)
    for _ in range(rng.integers(1, 4)):  # lesions a few dB off
        inside = _ellipse(rng, rows, columns, (0.05, 0.10))
        level += step(inside, 0.12) * rng.choice([-7.0, -5.0, 5.0, 7.0])
    for _ in range(rng.integers(2, 5)):
        inside = _ellipse(rng, rows, columns, (0.015, 0.035), stretch=(1.0, 7.0))
        wall = step(inside + 0.45, 0.1) - step(inside, 0.1)
        level = level * (1 - step(inside, 0.1)) - 24 * step(inside, 0.1) + 5 * wall
    for _ in range(rng.integers(0, 3)):
        row, column, radius = rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.9), rng.uniform(0.03, 0.08)
        inside = step((radius - np.hypot(rows - row, columns - column)) / radius, 0.06)
        behind = step((radius - np.abs(columns - column)) / radius, 0.1) * (rows > row) * np.exp(-(rows - row) / 0.25)
        level = (level + 3.5 * behind) * (1 - inside) - 36 * inside
    skin, fascia = 0.03, rng.uniform(0.12, 0.18)
    fat = step((fascia - depth) / 0.01, 0.5)
    level = level * (1 - fat) - 5 * fat
    for line, height in ((skin / 2, 9.0), (fascia, 10.0), (fascia + rng.uniform(0.02, 0.05), 6.0)):
        level += height * np.exp(-(((depth - line) / 0.008) ** 2))
    return level - 2.5 * (rows - 0.45)  # what gain over depth leaves of the attenuation


def _ellipse(
    rng: np.random.Generator,
    rows: np.ndarray,
    columns: np.ndarray,
    radius: tuple[float, float],
    stretch: tuple[float, float] = (1.0, 1.8),
) -> np.ndarray:
    """1 minus the elliptic distance from a random centre below the layers: positive inside."""
    row, column, angle = rng.uniform(0.27, 0.92), rng.uniform(0.08, 0.92), rng.uniform(-0.6, 0.6)
    short = rng.uniform(*radius)
    long = short * rng.uniform(*stretch)
    down, across = rows - row, columns - column
    along = across * np.cos(angle) + down * np.sin(angle)
    away = down * np.cos(angle) - across * np.sin(angle)
    return 1 - np.hypot(along / long, away / short)


def _fan(image: np.ndarray, text: np.random.Generator | None) -> np.ndarray:
    """Scan conversion: columns become beams of a curved probe, on black, with text where ``text`` is given."""
    size = len(image)
    near, far = FAN_NEAR * size, 0.49 * size / np.sin(FAN_ANGLE)
    rows, columns = np.mgrid[:size, :size].astype(float)
    rows += near * np.cos(FAN_ANGLE) - 6  # below the arcs' centre
    columns -= (size - 1) / 2
    radius, angle = np.hypot(rows, columns), np.arctan2(columns, rows)
    along, beam = (radius - near) / (far - near), (angle / FAN_ANGLE + 1) / 2
    inside = (along >= 0) & (along <= 1) & (beam >= 0) & (beam <= 1)
    values = ndimage.map_coordinates(
        image.astype(np.float32), [along * (size - 1), beam * (size - 1)], order=1, mode="nearest"
    )
    picture = np.where(inside, np.rint(values), 0).astype(np.uint8)
    if text is None:
        return picture
    canvas = Image.fromarray(picture)
    ImageDraw.Draw(canvas).text((3, size - 14), f"SIM {text.integers(1000):03d} 4 MHz", fill=210)
    return np.asarray(canvas).copy()
