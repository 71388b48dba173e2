# SPDX-License-Identifier: Apache-2.0
"""What weights were trained on: measured, kept with them through every loader, and scans outside named."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import CheckpointLoader
from scipy import ndimage
from torch import nn

from common.engine.domain import CheckDomaind, domain_of, joined, measure, outside, training_domain
from common.io.weights import load_domain, load_flat, load_into, save_atomically, with_domain


def brain(seed: int = 0, spacing=(1, 1, 1), noise: float = 1.0) -> MetaTensor:
    """A head-like scan: bright and darker tissue in an ellipsoid, with Gaussian noise in percent, any units."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.8
    tissue = ndimage.gaussian_filter(random.standard_normal((40, 40, 40)), 3)
    levels = np.where(tissue > np.quantile(tissue, 0.3), 0.85, 0.45)
    image = (levels + noise / 100 * random.standard_normal(levels.shape)) * inside
    return MetaTensor(
        torch.as_tensor(500 * image[None], dtype=torch.float32), affine=torch.diag(torch.tensor([*spacing, 1.0]))
    )


def inverted(image: MetaTensor) -> MetaTensor:
    """The same with dark and bright turned around in its foreground."""
    return MetaTensor((550 - image) * (image != 0), affine=image.affine)


@pytest.fixture
def domain():
    """Of three ordinary scans."""
    return domain_of(measure(brain(seed, noise=noise)) for seed, noise in enumerate((0.8, 1.0, 1.4)))


def test_an_ordinary_scan_lies_inside_and_each_change_is_named(domain):
    assert outside(measure(brain(7)), domain) == []
    for image, words in (
        (brain(7, spacing=(1, 1, 5)), "voxels of 5 mm"),
        (brain(7, noise=9), "noise level"),
        (inverted(brain(7)), "contrast"),
    ):
        found = outside(measure(image), domain)
        assert any(words in one for one in found), found
    assert len(outside(measure(brain(7, spacing=(1, 1, 5))), domain)) == 1


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 120, 5, 1), (1, 9, 9, 9)])
def test_odd_scans_are_measured_too(shape):
    image = MetaTensor(torch.zeros(shape), affine=torch.eye(4))
    image.flatten()[-1] = 1
    assert all(np.isfinite(values).all() for values in measure(image).values())


def test_units_are_no_contrast(domain):
    assert outside(measure(brain(7) * 3 + 20), domain) == []


def test_sequences_are_compared_with_their_like(domain):
    scans = {"t1n": brain(1), "t2w": inverted(brain(1))}
    both = domain_of(measure(scan, name) for name, scan in scans.items())
    assert outside(measure(brain(7), "t1n"), both) == []
    assert any("t2w" in words for words in outside(measure(brain(7), "t2w"), both))  # swapped


def test_joined_domains_know_both_and_the_same_once_more_adds_nothing(domain):
    thick = domain_of([measure(brain(3, spacing=(1, 1, 5)))])
    both = joined(domain, thick)
    assert both["spacing"] == [1, 5] and len(both["contrast"]) == 4
    assert outside(measure(brain(7, spacing=(1, 1, 5))), both) == []
    assert joined(both, thick) == both
    assert joined({}, thick) == thick


def test_many_entries_are_measured_in_part():
    asked = []
    training_domain(lambda entry: asked.append(entry) or [measure(brain())], [{"number": i} for i in range(200)])
    assert 10 < len(asked) < 40 and asked[0] == {"number": 0} and asked[-1] == {"number": 199}


def test_the_file_loads_strictly_everywhere_and_keeps_its_domain(tmp_path, domain):
    network, path = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)), tmp_path / "model.pt"
    save_atomically(with_domain(network.state_dict(), domain), path)
    assert load_domain(path) == domain
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    assert load_flat(path).keys() == network.state_dict().keys()
    load_into(network, path)
    engine = Engine(lambda engine, batch: None)
    CheckpointLoader(str(path), {"model": network}).attach(engine)
    engine.run([0], 1)
    save_atomically({"model": with_domain(network.state_dict(), domain)}, path)
    assert load_domain(path) == domain


def test_weights_without_numbers_draw_no_warning(tmp_path, caplog, domain):
    path, scan = tmp_path / "model.pt", brain(7, spacing=(9, 9, 9), noise=30)
    scan.meta["filename_or_obj"] = "scan.nii.gz"
    save_atomically(nn.Conv3d(1, 1, 1).state_dict(), path)
    check = CheckDomaind("image", str(path))
    with caplog.at_level(logging.WARNING):
        assert check({"image": scan})["image"] is scan
        assert not caplog.records
        save_atomically(with_domain(load_flat(path), domain), path)
        CheckDomaind("image", str(path))({"image": scan})
    (record,) = caplog.records
    assert "scan.nii.gz" in record.getMessage() and "\n" not in record.getMessage()
