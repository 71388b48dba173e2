# SPDX-License-Identifier: Apache-2.0
"""The grid of results is checked against the one that was asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mri_sr3d_lib
from mri_sr3d_lib.networks import ReCNN
from tools.verify import grid

GRID_FAULTS = {
    "sizes": ("low_resolution_size", lambda n, step: round(n / step) + 1, "instead of (14, 12, 15)"),
    "corner": ("grid_affine", lambda affine, steps: affine @ np.diag([*steps, 1]), "no target: a corner lies 0.96 mm"),
}


@pytest.fixture
def small_sr3d(tmp_path, change, monkeypatch):
    """The bundle of which inference is asked for a grid, with a small network."""
    source = Path(mri_sr3d_lib.__file__).parents[1]
    shutil.copytree(source, tmp_path / "mri_sr3d", ignore=shutil.ignore_patterns("runs", "eval", "__pycache__"))
    change(tmp_path / "mri_sr3d/configs/inference.json", "network_def", "num_layers", to=2)
    change(tmp_path / "mri_sr3d/configs/inference.json", "network_def", "filters", to=4)
    torch.save(ReCNN(num_layers=2, filters=4).state_dict(), tmp_path / "mri_sr3d/models/model.pt")
    monkeypatch.chdir(tmp_path / "mri_sr3d")


def test_results_lie_on_the_grid_that_was_asked_for(small_sr3d):
    assert grid.check_grid("mri_sr3d") == []


@pytest.mark.parametrize("fault", GRID_FAULTS)
def test_another_grid_than_asked_for_is_told(small_sr3d, fault, monkeypatch):
    name, wrong, reason = GRID_FAULTS[fault]
    monkeypatch.setattr(mri_sr3d_lib.transforms, name, wrong)
    told = grid.check_grid("mri_sr3d")
    assert any(reason in line for line in told), told


def test_why_no_result_came_is_told(small_sr3d, monkeypatch):
    monkeypatch.setattr(grid, "REQUESTS", (({"scale": [0.5, 0.5, 0.5]}, (7, 6, 2), (2.0, 2.0, 6.0)),))
    (line,) = grid.check_grid("mri_sr3d")
    assert line.startswith("scale [0.5, 0.5, 0.5]: no axis gets finer")
