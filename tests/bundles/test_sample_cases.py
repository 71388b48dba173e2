# SPDX-License-Identifier: Apache-2.0
"""What inference shows without data is the sample brain that the same bundle's training holds out."""

from __future__ import annotations

import importlib
import json

import nibabel as nib
import numpy as np
import pytest

from common.data.datasets import split_entries
from common.data.sample_data import write_brain_cases
from tools.package import ROOT

SAMPLES = {
    "mri_sr3d": ("data", "sample_scan"),
    "rslm_denoise": ("data", "sample_scan"),
    "brasyn_synthesis": ("data", "sample_case"),
    "lesion_msgan": ("cases", "sample_case"),
}


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """As many cases as the sample data has, each at a place of its own by which results of it are known."""
    folder = tmp_path_factory.mktemp("sample") / "brains"
    for number, case in enumerate(write_brain_cases(folder, 4, (48, 52, 48), progress=False)):
        for path in case.glob("*.nii.gz"):
            image = nib.load(path)
            moved = image.affine + np.array([[0, 0, 0, 1000 * number]] * 3 + [[0, 0, 0, 0]])
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), path)
    return folder


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_case_is_the_brain_that_training_holds_out(name, brains, monkeypatch):
    module, function = SAMPLES[name]
    module = importlib.import_module(f"{name}_lib.{module}")
    monkeypatch.setattr(module, "sample_brains", lambda: brains)
    sample = getattr(module, function)()
    if name == "brasyn_synthesis":  # a folder
        sample += f"/{sample.split('/')[-1]}-t1n.nii.gz"
    place = nib.load(sample).affine[:3, 3] - nib.load(brains / "sample-000" / "sample-000-t1n.nii.gz").affine[:3, 3]
    config = json.loads((ROOT / "bundles" / name / "configs" / "train.json").read_text(encoding="utf-8"))
    entries = [{"subject": path.name} for path in sorted(brains.iterdir())]
    (held_out,) = split_entries(entries, config["val_fraction"], config["seed"])["validate"]
    assert f"sample-{round(place.mean() / 1000):03d}" == held_out["subject"]
