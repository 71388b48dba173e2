# SPDX-License-Identifier: Apache-2.0
"""Results that explain the scan they were made from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.transforms.degradation import apply_per_axis, degrade
from common.transforms.geometry import grid_affine
from mri_sr3d_lib.consistency import DataConsistencyd, acquisition, make_consistent
from mri_sr3d_lib.transforms import ToTargetGridd

TILTED = np.array([[0.0, -1.1, 0, 5], [0.9, 0, 0, -3], [0, 0, 1.0, 7], [0, 0, 0, 1]])


def smooth(*size):
    """A volume in [0, 1] without fine detail."""
    image = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, 4), size, mode="trilinear")[0]
    return image * 0.8 + 0.1


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 1, 4), (2.5, 1.3, 1)])
def test_the_closed_form_minimises_what_it_says(factors):
    truth = torch.rand(9, 8, 12, dtype=torch.float64)
    low, image = degrade(truth, factors)
    matrices = [
        acquisition(n, r, f, (f - 1) / 2, f / 2.3548)[0]
        for n, r, f in zip(truth.shape, low.shape, factors, strict=True)
    ]
    found = make_consistent(image, low, matrices, 0.1).requires_grad_()
    cost = (apply_per_axis(found, matrices) - low).square().sum() + 0.1 * (found - image).square().sum()
    (slope,) = torch.autograd.grad(cost, found)
    assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 1, 3), (2, 1, 2.5)])
@pytest.mark.parametrize("window", [None, (slice(6, 20), slice(5, 21), slice(7, 19))], ids=["whole", "part"])
def test_the_truth_explains_its_acquisition_and_a_result_comes_nearer_to_it(factors, window):
    torch.manual_seed(0)
    truth = smooth(25, 24, 26)
    low, interpolated = degrade(truth, factors)
    part = (slice(None), *(window or (slice(None),) * 3))
    affine = TILTED.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start or 0 for side in part[1:]]
    entry = {
        "image": MetaTensor(interpolated[part], affine=torch.as_tensor(affine)),
        "acquired": MetaTensor(low, affine=torch.as_tensor(grid_affine(TILTED, factors))),
    }
    step = DataConsistencyd("pred", 1e-3)
    kept = step({**entry, "pred": truth[part]})["pred"]
    assert torch.allclose(kept, truth[part], atol=1e-4 if window is None else 0.01)  # profiles reach out of a part
    wrong = truth[part] + 0.05 * torch.randn_like(truth[part])
    found = step({**entry, "pred": wrong})["pred"]
    assert (found - truth[part]).square().mean() < 0.97 * (wrong - truth[part]).square().mean()
    assert step({**entry, "pred": wrong})["pred"].shape == wrong.shape


def test_none_leaves_results_as_they_are_and_noise_lets_them_be():
    torch.manual_seed(0)
    truth = smooth(16, 16, 16)
    low, interpolated = degrade(truth, (2, 2, 2))
    pred = truth + 0.05 * torch.randn_like(truth)
    grid, affine = torch.eye(4), torch.as_tensor(grid_affine(np.eye(4), (2, 2, 2)))

    def change(weight, noise):
        acquired = MetaTensor(low + noise * torch.randn_like(low), affine=affine)
        entry = {"image": MetaTensor(interpolated, affine=grid), "acquired": acquired, "pred": pred}
        return float((DataConsistencyd("pred", weight)(entry)["pred"] - pred).square().mean().sqrt())

    assert change(None, 0) == 0
    assert change(0.03, 0.2) < 0.2 * change(0.03, 0.02)


def test_no_result_is_darker_than_background_and_scan():
    low = MetaTensor(
        torch.tensor([0.0, 0, 1, 1]).expand(1, 4, 4, 4), affine=torch.as_tensor(grid_affine(np.eye(4), (1, 1, 2)))
    )
    image = MetaTensor(torch.full((1, 4, 4, 8), 0.5), affine=torch.eye(4))
    assert DataConsistencyd("pred", 1e-3)({"image": image, "acquired": low, "pred": image})["pred"].min() == 0


def test_a_scan_keeps_its_voxels_beside_the_finer_grid():
    scan = MetaTensor(smooth(10, 12, 5), affine=torch.diag(torch.tensor([1.0, 0.5, 4, 1])))
    entry = ToTargetGridd("image", spacing=1)({"image": scan})
    assert entry["image"].shape == (1, 10, 6, 20) and entry["acquired"].shape == (1, 10, 6, 5)
    assert np.allclose(np.abs(np.diag(entry["acquired"].affine))[:3], [1, 1, 4])
    entry["pred"] = entry["image"].clone()
    made = DataConsistencyd("pred", 1e-4)(entry)["pred"]
    again = degrade(made.as_tensor(), (1, 1, 4))[0]
    assert (again - entry["acquired"]).abs().max() < 0.01
