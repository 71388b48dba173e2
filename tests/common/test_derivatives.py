# SPDX-License-Identifier: Apache-2.0
"""Results as a BIDS derivative dataset: names, and what lies beside them."""

import json

import nibabel as nib
import numpy as np
import pytest

from common.errors import InputError
from common.io.derivatives import Derivatives

FACTS = {"bundle": "rslm_denoise", "version": "0.2.0"}


@pytest.mark.parametrize(
    ("source", "kind", "sequence", "place"),
    [
        ("sub-01_T1w.nii.gz", "", None, "sub-01/anat/sub-01_desc-denoised_T1w.nii.gz"),
        ("x/sub-01_ses-b_FLAIR.nii", "std", None, "sub-01/ses-b/anat/sub-01_ses-b_desc-denoisedStd_FLAIR.nii.gz"),
        ("sub-01_run-2_res-2_desc-brain_T2w.nii.gz", "", None, "sub-01/anat/sub-01_run-2_desc-denoised_T2w.nii.gz"),
        ("sub-01_T1w.NII.GZ", "", None, "sub-01/anat/sub-01_desc-denoised_T1w.nii.gz"),
        ("sub-01", "", "ce-gadolinium_T1w", "sub-01/anat/sub-01_ce-gadolinium_desc-denoised_T1w.nii.gz"),
    ],
)
def test_a_results_place(tmp_path, source, kind, sequence, place):
    root = tmp_path / "derivatives" / "restoration-bundles"
    assert Derivatives(tmp_path, "denoised").place(source, kind, sequence) == root / place


@pytest.mark.parametrize(
    "source", ["t1.nii.gz", "sub-01.nii.gz", "sub-01_brain_T1w.nii.gz", "sub-01_T1w.png", "sub-01_T1w"]
)
def test_other_names_are_refused(tmp_path, source):
    with pytest.raises(InputError, match=f"{source}: its name is not of BIDS, such as sub-01_T1w.nii.gz"):
        Derivatives(tmp_path, "denoised").place(source)


def scan(folder, margin, **sidecar):
    array = np.zeros((8, 8, 8), np.float32)
    inside = slice(margin, 8 - margin)
    array[inside, inside, inside] = np.random.default_rng(0).random([8 - 2 * margin] * 3)
    path = folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    if sidecar:
        path.with_name("sub-01_T1w.json").write_text(json.dumps(sidecar), encoding="utf-8")
    return str(path)


def described(output_dir, source, facts=FACTS):
    made = Derivatives(output_dir, "denoised")
    result = made.place(source)
    made.describe(result, [source], facts, "not for diagnosis")
    told = [result.with_name("sub-01_desc-denoised_T1w.json"), made.root / "dataset_description.json"]
    return [json.loads(path.read_text(encoding="utf-8")) for path in told]


@pytest.mark.parametrize(
    ("margin", "sidecar", "stripped"),
    [(1, {}, True), (0, {}, False), (1, {"SkullStripped": False}, False), (0, {"SkullStripped": True}, True)],
)
def test_a_brain_is_told_from_a_head_unless_the_scans_sidecar_says_so(tmp_path, margin, sidecar, stripped):
    sidecar_of_result, _ = described(tmp_path / "out", scan(tmp_path / "in", margin, **sidecar))
    assert sidecar_of_result == {"Description": "not for diagnosis", "SkullStripped": stripped}


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "7", '["SkullStripped"]', '{"SkullStripped": "yes"}', '{"SpatialReference": NaN}', "[" * 99_999],
)
def test_a_sidecar_that_tells_nonsense_tells_nothing(tmp_path, text):
    source = scan(tmp_path / "in", 1, SkullStripped=False)
    (tmp_path / "in" / "sub-01" / "anat" / "sub-01_T1w.json").write_text(text, encoding="utf-8")
    sidecar, _ = described(tmp_path / "out", source)
    assert sidecar == {"Description": "not for diagnosis", "SkullStripped": True}


def test_a_scan_is_read_once_for_all_its_results(tmp_path, monkeypatch):
    source, load, loaded = scan(tmp_path / "in", 1), nib.load, []
    monkeypatch.setattr(nib, "load", lambda path: loaded.append(path) or load(path))
    made = Derivatives(tmp_path / "out", "denoised")
    for kind in ("", "std"):
        made.describe(made.place(source, kind), [source], FACTS, "not for diagnosis")
    assert loaded == [source]


@pytest.mark.parametrize("text", ["[]", "{", '{"GeneratedBy": 1}'])
def test_a_description_that_cannot_be_read_stays_and_is_named(tmp_path, text):
    source = scan(tmp_path / "in", 1)
    place = tmp_path / "derivatives" / "restoration-bundles" / "dataset_description.json"
    place.parent.mkdir(parents=True)
    place.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"{place}: no description of a BIDS dataset; mend it, or move it away"):
        described(tmp_path, source)
    assert place.read_text(encoding="utf-8") == text


def test_results_in_the_scans_dataset_name_them(tmp_path):
    source = scan(tmp_path, 1)
    sidecar, description = described(tmp_path, source)
    assert sidecar["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert description["DatasetLinks"] == {"raw": "../.."}
    _, elsewhere = described(tmp_path / "out", source)
    assert "DatasetLinks" not in elsewhere and str(tmp_path) not in json.dumps(elsewhere)


def test_bundles_share_a_description_and_leave_what_a_person_added(tmp_path):
    source = scan(tmp_path / "in", 1)
    _, description = described(tmp_path, source)
    place = tmp_path / "derivatives" / "restoration-bundles" / "dataset_description.json"
    place.write_text(json.dumps({**description, "Authors": ["A. Person"]}), encoding="utf-8")
    for version in ("0.2.0", "0.3.0"):
        _, description = described(tmp_path, source, {"bundle": "mri_sr3d", "version": version})
    made_by = [("mri_sr3d", "0.3.0"), ("mri_sr3d", "0.2.0"), ("rslm_denoise", "0.2.0")]
    assert [(one["Name"], one["Version"]) for one in description["GeneratedBy"]] == made_by
    assert description["Authors"] == ["A. Person"]
