# SPDX-License-Identifier: Apache-2.0
"""Check of the grid that a bundle's workflow returns, in the bundle's folder as the working directory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .inference import config, run_inference

__all__ = ["check_grid"]

SIZES, SPACING = (14, 12, 5), (1.0, 1.0, 3.0)
# what is asked for, and the sizes and spacing that have to come
REQUESTS: tuple[tuple[dict[str, Any], tuple[int, ...], tuple[float, ...]], ...] = (
    ({}, (14, 12, 15), (1.0, 1.0, 1.0)),  # isotropic at the finest spacing
    ({"spacing": [0.7, 0.8, 1.5]}, (20, 15, 10), (0.7, 0.8, 1.5)),
    ({"scale": [2, 1, 3]}, (28, 12, 15), (0.5, 1.0, 1.0)),
)
TOLERANCE = 1e-4  # mm at every corner


def check_grid(name: str) -> list[str] | None:
    """The inference workflow returns a small made scan on the grid asked for: shape, and every corner's place.

    For bundles whose inference takes a target `spacing`; the others' grids follow from the network's shapes.
    """
    if "spacing" not in config():
        return None
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder, "scan.nii.gz")
        voxels = np.random.default_rng(0).uniform(1, 100, SIZES).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, _affine(SPACING)), scan)
        for number, (asked, sizes, spacing) in enumerate(REQUESTS):
            told = ", ".join(f"{key} {value}" for key, value in asked.items()) or "no target"
            out = Path(folder, str(number))
            wrong += [
                f"{told}: {reason}" for reason in run_inference(scan, out, asked) or _compare(out, sizes, spacing)
            ]
    return wrong


def _affine(spacing: tuple[float, ...]) -> np.ndarray:
    """Oblique axes; the outer corner of the first voxel lies at the same place for any spacing."""
    turned, _ = np.linalg.qr([[1.0, 0.2, 0.1], [-0.2, 1.0, 0.3], [0.0, -0.3, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turned * np.asarray(spacing)
    affine[:3, 3] = np.array([-20.0, 10.0, 5.0]) + affine[:3, :3] @ np.full(3, 0.5)
    return affine


def _compare(out: Path, sizes: tuple[int, ...], spacing: tuple[float, ...]) -> list[str]:
    results = sorted(out.rglob("*.nii.gz"))
    if len(results) != 1:
        return [f"{len(results)} results instead of one"]
    result = nib.Nifti1Image.from_filename(results[0])
    if result.shape != sizes:
        return [f"gives {result.shape} voxels instead of {sizes}"]
    corners = np.stack(np.meshgrid(*([-0.5, n - 0.5] for n in sizes), [1.0], indexing="ij"), -1).reshape(-1, 4)
    off = float(np.abs(corners @ (result.affine - _affine(spacing)).T).max())
    return [f"a corner lies {off:.2g} mm off"] if off > TOLERANCE else []
