# SPDX-License-Identifier: Apache-2.0
"""Every bundle's training stores what its weights saw; inference and ``tools.domain`` use it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from common.io.weights import load_domain, load_flat
from tools.domain import store

MEASURES = {
    "mri_sr3d": {"spacing", "noise", "contrast"},
    "rslm_denoise": {"spacing", "noise", "contrast"},
    "us_despeckle": {"size", "speckle", "contrast"},
    "brasyn_synthesis": {"spacing", "noise", "contrast t1n", "contrast t2w", "contrast t2f"},
    "lesion_msgan": {"spacing", "noise", "contrast"},
}
INFERENCE = {
    "mri_sr3d": {"sequence": "t1c", "scale": [1, 1, 2]},
    "rslm_denoise": {"sequence": "t1c"},
    "us_despeckle": {},
    "brasyn_synthesis": {"target": "t1c", "views": 1},
    "lesion_msgan": {"sequence": "t1c", "detector": "foreground"},
}


def write_input(bundle, folder: Path, coarser: float = 1.0) -> None:
    """A case of the training data; ``coarser`` takes its voxels, or a frame's pixels, for that much larger ones."""
    if bundle.name == "us_despeckle":
        folder.mkdir()
        frame = Image.open(sorted((bundle.data / "low").glob("*.png"))[0])
        frame.resize([round(n * coarser) for n in frame.size]).save(folder / "frame.png")
        return
    case = sorted(path for path in bundle.data.iterdir() if path.is_dir())[0]
    (folder / case.name).mkdir(parents=True)
    shrink = 4 if bundle.name == "lesion_msgan" else 1  # a scan of low resolution
    for file in case.glob("*.nii.gz"):
        image = nib.load(file)
        data = np.asarray(image.dataobj)[::shrink, ::shrink]
        affine = image.affine @ np.diag([coarser * shrink, coarser * shrink, coarser, 1])
        nib.save(nib.Nifti1Image(data, affine), folder / case.name / file.name)


@pytest.mark.parametrize("name", list(MEASURES))
def test_a_training_stores_what_it_saw_and_inference_names_what_lies_outside(tiny, run_files, tmp_path, caplog, name):
    bundle = tiny(name)
    keys = bundle.keys("train", tmp_path / "runs", budget="short", run_name="one", device="cpu")
    run_files(bundle.files("train"), **keys)
    weights = tmp_path / "runs" / "one" / "best.pt"
    assert load_domain(weights).keys() == MEASURES[name]
    words = {}
    for coarser in (1.0, far := 4.0 if name == "us_despeckle" else 30.0):
        write_input(bundle, tmp_path / f"in{coarser}", coarser)
        keys = bundle.keys("inference", tmp_path / "out", dataset_dir=str(tmp_path / f"in{coarser}"), device="cpu")
        caplog.clear()
        run_files(bundle.files("inference"), "infer", **keys, **INFERENCE[name], weights=str(weights))
        words[coarser] = [r.getMessage() for r in caplog.records if "outside what the weights" in r.getMessage()]
    assert not any(("voxels of" in line or "pixels" in line) for line in words[1.0])
    assert len(words[far]) == (3 if name == "brasyn_synthesis" else 1)
    assert all("pixels" in line if name == "us_despeckle" else "mm (seen" in line for line in words[far])


def test_the_tool_refuses_a_misspelt_key_and_leaves_the_weights(tiny, tmp_path, line_of):
    weights = tmp_path / "model.pt"
    weights.write_bytes((tiny("mri_sr3d").models / "model.pt").read_bytes())
    with pytest.raises(RuntimeError) as error:
        store("mri_sr3d", str(weights), dataset_dirr="x")
    assert "there is no key dataset_dirr" in line_of(error)
    assert load_domain(weights) == {}


def test_the_tool_stores_the_same_with_weights_that_lack_it(tiny, tmp_path, capsys):
    bundle = tiny("rslm_denoise")
    weights = tmp_path / "model.pt"
    torch.save(load_flat(bundle.models / "model.pt"), weights)
    store("rslm_denoise", str(weights), dataset_dir=str(bundle.data), sequence="t1c", training_levels=[2, 4])
    domain = load_domain(weights)
    assert len(domain["contrast"]) == 4 and 1.5 < domain["noise"][0] < domain["noise"][1] < 6
    assert load_flat(weights).keys() == load_flat(bundle.models / "model.pt").keys()
    store("rslm_denoise", str(weights), add=True, dataset_dir=str(bundle.data), sequence="t2w")
    assert len(load_domain(weights)["contrast"]) == 8
    assert "model.pt" in capsys.readouterr().out
