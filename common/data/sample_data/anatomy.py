# SPDX-License-Identifier: Apache-2.0
"""Individual brains out of the MNI152 tissue maps that nilearn carries.

The maps are averages over 152 people, so their cortex is blurred. Each subject gets its own affine and elastic
deformation, steeper tissue borders and its own folds, sulci and vessels: detail as fine as in a single person's scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from common.data.sample_data.fields import level_distance, smooth_field, step


class Template(NamedTuple):
    """MNI152 maps at 1 mm, RAS+; ``maps`` (4, X, Y, Z) float32: brain, grey, white (0 to 1) and depth in mm."""

    maps: np.ndarray
    centre: np.ndarray  # middle of the brain's bounding box in voxels, (3,)
    origin: np.ndarray  # MNI position of voxel (0, 0, 0) in mm, (3,)


class Anatomy(NamedTuple):
    """Tissue fractions (X, Y, Z) float32; ``csf + grey + white`` is 1 inside ``brain`` (bool) and 0 outside."""

    brain: np.ndarray
    csf: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    vessel: np.ndarray  # laid over the other three, 0 to 1
    depth: np.ndarray  # distance to the brain's surface in mm


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the maps from the installed nilearn package; nothing is downloaded.

    Raises:
        ImportError: nilearn is not installed.
    """
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError as error:
        raise ImportError("the sample brains need nilearn's MNI152 maps: pip install nilearn") from error
    loaders = load_mni152_template, load_mni152_gm_template, load_mni152_wm_template
    images = [load(resolution=1) for load in loaders]
    t1, grey, white = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    brain = t1 > 0
    corners = np.array([(where.min(), where.max()) for where in np.nonzero(brain)])
    depth = ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1, 1:-1].astype(np.float32)
    maps = np.stack([brain.astype(np.float32), grey * brain, white * brain, depth])
    return Template(maps, corners.mean(axis=1), images[0].affine[:3, 3])


def make_anatomy(rng: np.random.Generator, shape: Sequence[int]) -> Anatomy:
    """Draw one subject on a 1 mm grid of ``shape`` (X, Y, Z) centred on the brain."""
    brain, grey, white, depth = _deform(rng, shape)
    inside = brain > 0.5
    # A skull-stripping mask cuts through the fluid around the brain: little of it is left outside the sulci.
    csf = np.maximum(brain - grey - white, 0.0) * (1.0 - 0.7 * step(1.8 - depth, 0.3))
    # Individual borders: shift the odds of the tissues where the average is undecided, then steepen.
    shift = 0.4 * smooth_field(rng, shape, 3.0)
    grey, white, csf = (p**1.8 for p in (grey, white * np.exp(shift), csf))
    total = np.maximum(grey + white + csf, 1e-6)
    grey, csf = grey / total, csf / total

    ribbon, sulcus = _folds(rng, shape, depth)
    grey = grey + (1.0 - grey - csf) * ribbon
    csf = csf + (1.0 - csf) * sulcus
    grey = np.clip(grey, 0.0, 1.0 - csf) * inside
    csf = csf * inside
    return Anatomy(inside, csf, grey, inside - csf - grey, _vessels(rng, shape, depth) * inside, depth)


def _deform(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Warp the template's four maps to a new subject: (4, X, Y, Z), all but the first 0 outside the brain."""
    template = load_template()
    turn = Rotation.from_euler("xyz", np.clip(rng.normal(0, 4, 3), -8, 8), degrees=True).as_matrix()
    # Above 1: the MNI152 brain is larger than most people's, and it must fit the field of view.
    scale = rng.uniform(1.02, 1.10) * rng.uniform(0.98, 1.02, 3)
    matrix = (turn * scale).astype(np.float32)
    shift = template.centre + rng.uniform(-1.5, 1.5, 3)
    axes = [np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in shape]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    coordinates = np.empty((3, *shape), np.float32)
    for i in range(3):
        coordinates[i] = sum(matrix[i, j] * grid[j] for j in range(3)) + np.float32(shift[i])
        coordinates[i] += 2.2 * smooth_field(rng, shape, 34.0) + 0.7 * smooth_field(rng, shape, 9.0)
    brain = ndimage.map_coordinates(template.maps[0], coordinates, order=1, prefilter=False)
    inside = brain > 0.5
    warped = np.zeros((4, *shape), np.float32)
    warped[0] = brain
    places = coordinates[:, inside]
    for source, target in zip(template.maps[1:], warped[1:], strict=True):
        target[inside] = ndimage.map_coordinates(source, places, order=1, prefilter=False)
    return warped


def _folds(rng: np.random.Generator, shape: Sequence[int], depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey ribbon and cerebrospinal fluid of individual sulci: sheets that run inwards from the surface."""
    # Sheets must stand upright on the surface, so the field varies along it and hardly with depth:
    # each voxel looks up the field at its outward projection from the centre.
    size = np.asarray(shape)
    centre = (size - 1) / 2
    field = smooth_field(rng, (100, 100, 100), 4.0)  # in steps of 2 mm
    axes = [(np.arange(n) - c).astype(np.float32) for n, c in zip(shape, centre, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt(sum(np.square(g) for g in grid)) + 1.0
    stretch = 0.5 * (radius / 70.0) ** -0.75
    coordinates = np.stack([g * stretch + 49.5 for g in grid])
    distance = level_distance(ndimage.map_coordinates(field, coordinates, order=1, mode="reflect", prefilter=False))
    reach = 9.0 + 5.0 * smooth_field(rng, shape, 12.0)
    sulcus = step(0.75 - distance, 0.2) * step(reach - depth, 0.7)
    ribbon = np.maximum(step(3.2 - distance, 0.35) * step(reach + 2.5 - depth, 0.5), step(2.5 - depth, 0.4))
    return ribbon, sulcus


def _vessels(rng: np.random.Generator, shape: Sequence[int], depth: np.ndarray) -> np.ndarray:
    """Thin winding tubes, where two random surfaces cross; thinner with depth, none in the middle of the brain."""
    across = np.hypot(*(level_distance(smooth_field(rng, shape, 9.0)) for _ in range(2)))
    return step(1.1 - 0.06 * depth - across, 0.2)
