# SPDX-License-Identifier: Apache-2.0
"""Synthetic brain MR cases: four sequences and a tumour label map per subject, for trying things out.

Not for diagnosis, and no substitute for real data in any claim about image quality.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from common.data.sample_data.anatomy import Anatomy, load_template, make_anatomy
from common.data.sample_data.fields import smooth_field, step

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
LABELS = {"necrosis": 1, "oedema": 2, "rim": 3}  # BraTS 2023
DEFAULT_SHAPE = (160, 192, 160)

# Brightness relative to the brightest healthy tissue. T1 darkens and T2 brightens with water, T2-FLAIR (t2f) nulls free
# fluid, contrast agent (t1c) collects in vessels and in the rim.
CONTRAST = {
    #          t1n   t1c   t2w   t2f
    "csf": (0.28, 0.28, 1.00, 0.14),
    "grey": (0.64, 0.64, 0.52, 0.70),
    "white": (0.86, 0.84, 0.39, 0.54),
    "vessel": (0.45, 1.25, 0.22, 0.25),
    "necrosis": (0.40, 0.38, 0.92, 0.42),
    "oedema": (0.66, 0.64, 0.74, 0.98),
    "rim": (0.62, 1.25, 0.60, 0.84),
}


def make_brain_case(seed: int, shape: Sequence[int] = DEFAULT_SHAPE) -> dict[str, np.ndarray]:
    """Make one subject; the same seed and shape give the same voxels.

    Args:
        seed: any integer from 0.
        shape: voxels along right, anterior and superior at 1 mm, at least 16 each. The field of view is centred on the
            brain, so small shapes show its middle only; the tumour lies inside whatever the shape.

    Returns:
        ``t1n``, ``t1c``, ``t2w``, ``t2f``: float32 (X, Y, Z), whole numbers from 1 to about 2000 in the brain and
        exactly 0 around it; ``seg``: uint8 (X, Y, Z) with 1 necrotic core, 2 oedema, 3 enhancing rim;
        ``affine``: float64 (4, 4) from voxels to mm, RAS+.

    Raises:
        ImportError: nilearn is not installed.
        ValueError: ``shape`` is not three axes of at least 16 voxels, or ``seed`` is negative.
    """
    shape = check_shape(shape)
    rng = np.random.default_rng(seed)
    anatomy = make_anatomy(rng, shape)
    tumour, seg = _tumour(rng, anatomy)
    parts = {"csf": anatomy.csf, "grey": anatomy.grey, "white": anatomy.white, "vessel": anatomy.vessel, **tumour}
    # What tissue looks like close up is the same tissue in every sequence; only its brightness differs.
    texture = 0.02 * smooth_field(rng, shape, 1.6) + 0.025 * smooth_field(rng, shape, 5.0)
    case = {name: _acquire(rng, anatomy.brain, parts, texture, column) for column, name in enumerate(SEQUENCES)}
    template = load_template()
    affine = np.eye(4)
    affine[:3, 3] = template.origin + template.centre - (np.asarray(shape) - 1) / 2
    return {**case, "seg": seg, "affine": affine}


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return ``shape`` as a tuple, or raise ValueError unless it is three whole numbers of at least 16."""
    try:
        sizes = tuple(operator.index(n) for n in shape)
    except TypeError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 16:
        raise ValueError(f"shape must be three sizes of at least 16 voxels, such as [160,192,160], not {shape!r}")
    return sizes


def _tumour(rng: np.random.Generator, anatomy: Anatomy) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Grow a ring-enhancing tumour in white matter: soft masks by tissue name, and the label map (uint8)."""
    shape = anatomy.brain.shape
    size = float(np.clip(min(shape) / 90.0, 0.4, 1.0))  # small fields of view get small tumours
    outer = rng.uniform(10.0, 17.0) * size
    centre = _tumour_centre(rng, anatomy, outer)
    axes = [(np.arange(n) - c).astype(np.float32) for n, c in zip(shape, centre, strict=True)]
    radius = np.sqrt(sum(np.square(g) for g in np.meshgrid(*axes, indexing="ij", sparse=True)))
    ragged = size * (2.0 * smooth_field(rng, shape, 7.0) + 0.6 * smooth_field(rng, shape, 2.5))
    radius += ragged - ragged[centre]  # no shift at the centre: it stays the core's
    rim = np.clip(size * (3.0 + 1.2 * smooth_field(rng, shape, 6.0)), 1.2, 0.6 * outer)
    # Oedema spreads along white matter and leaves fluid spaces alone.
    reach = outer + size * rng.uniform(7.0, 14.0) * (0.35 + 1.1 * anatomy.white)

    core, solid = step(outer - rim - radius, 0.25), step(outer - radius, 0.25)
    swollen = step(reach - radius, 0.4) * (1.0 - anatomy.csf)
    seg = np.select([core > 0.5, solid > 0.5, swollen > 0.5], [LABELS[k] for k in ("necrosis", "rim", "oedema")], 0)
    seg = (seg * anatomy.brain).astype(np.uint8)
    # In the order in which they cover each other.
    return {"oedema": swollen, "rim": solid, "necrosis": core}, seg


def _tumour_centre(rng: np.random.Generator, anatomy: Anatomy, radius: float) -> tuple[int, int, int]:
    """Pick a white-matter voxel of the cerebrum at some distance from the brain's surface and the image border."""
    margins = [int(min(radius + 4, n // 3)) for n in anatomy.brain.shape]
    start = [*margins[:2], max(margins[2], anatomy.brain.shape[2] // 2 - 8)]  # below lie brain stem and cerebellum
    inner = tuple(slice(a, n - m) for a, n, m in zip(start, anatomy.brain.shape, margins, strict=True))
    suitable = anatomy.white[inner] * (anatomy.depth[inner] > 0.7 * radius)
    places = np.argwhere(suitable >= min(0.6, float(suitable.max())))
    return tuple(int(p) + a for p, a in zip(places[rng.integers(len(places))], start, strict=True))


def _acquire(
    rng: np.random.Generator, brain: np.ndarray, parts: dict[str, np.ndarray], texture: np.ndarray, column: int
) -> np.ndarray:
    """Image the tissues in one sequence: contrast, texture, point spread, bias field, Rician noise, skull-stripping."""
    value = {name: CONTRAST[name][column] * (1 + np.clip(rng.normal(0, 0.03), -0.06, 0.06)) for name in CONTRAST}
    image = sum(np.float32(value[name]) * parts[name] for name in ("csf", "grey", "white"))
    for name in ("oedema", "rim", "necrosis", "vessel"):
        image += parts[name] * (np.float32(value[name]) - image)
    image *= 1.0 + texture + 0.15 * parts["necrosis"] * texture / 0.04
    image = ndimage.gaussian_filter(image, rng.uniform(0.45, 0.55), truncate=3.0)
    bias = smooth_field(rng, image.shape, 70.0)
    image *= np.exp(0.05 * bias)
    sigma = np.float32(rng.uniform(0.008, 0.015))
    real, imaginary = (sigma * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    units = np.float32(rng.uniform(350.0, 900.0))
    image = np.rint(units * np.hypot(image + real, imaginary))
    # At least 1 in the brain: every sequence has the same foreground.
    return np.where(brain, np.maximum(image, 1.0), 0.0).astype(np.float32)
