# SPDX-License-Identifier: Apache-2.0
"""Datasets as others lay them out, through the configurations of the bundles that read scans."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

SCANS = ("mri_sr3d", "rslm_denoise", "lesion_msgan", "brasyn_synthesis")
NAMES = {"t1n": "T1w", "t1c": "ce-gadolinium_T1w", "t2w": "T2w", "t2f": "FLAIR", "seg": "label-lesion_mask"}


@pytest.fixture(scope="module")
def dataset(tiny_brains, tmp_path_factory):
    """A BIDS dataset of two people, three sessions of the one, with a derivative that must not be read."""
    root = tmp_path_factory.mktemp("bids")
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.10.0"}', encoding="utf-8")
    sessions = ["sub-01/ses-1", "sub-01/ses-2", "sub-01/ses-3", "sub-02/ses-1"]
    for session, case in zip(sessions, sorted(tiny_brains.iterdir()), strict=True):
        for name, bids in NAMES.items():
            target = root / session / "anat" / f"{session.replace('/', '_')}_{bids}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(case / f"{case.name}-{name}.nii.gz", target)
            if name != "seg":  # the slabs begin and end in the brain
                Path(str(target).replace(".nii.gz", ".json")).write_text('{"SkullStripped": true}', encoding="utf-8")
    shutil.copytree(root / "sub-02", root / "derivatives" / "other" / "sub-09")
    return root


def entries(bundle, job, dataset, **keys):
    files = bundle.files("train") if job == "train" else bundle.files("train", "evaluate")
    parser = ConfigParser()
    parser.read_config(files)
    sequence = {} if bundle.name == "brasyn_synthesis" else {"sequence": "T2w"}
    masks = {"mask_name": "label-lesion_mask"} if bundle.name == "lesion_msgan" else {}
    parser.update({"dataset_dir": str(dataset), "val_fraction": 0.5, "budget": "short", **sequence, **masks, **keys})
    return parser.get_parsed_content("entries")


@pytest.mark.parametrize("name", SCANS)
def test_sessions_of_a_bids_dataset(name, tiny, dataset):
    parts = entries(tiny(name), "train", dataset, val_volumes=9)
    subjects = [{entry["subject"] for entry in parts[part]} for part in ("train", "validate")]
    assert sorted(map(sorted, subjects)) == [["sub-01"], ["sub-02"]]
    assert len(entries(tiny(name), "evaluate", dataset)["validate"]) == 4  # nothing of derivatives/


@pytest.mark.parametrize("name", SCANS)
def test_a_table_of_subjects(name, tiny, tiny_brains, tmp_path):
    cases = sorted(path.name for path in tiny_brains.iterdir())
    table = tmp_path / "people.csv"
    table.write_text("case,subject\n" + "".join(f"{case},{'anna' if i else 'bert'}\n" for i, case in enumerate(cases)))
    keys = {"subjects_table": str(table), "val_volumes": 9}
    if name != "brasyn_synthesis":
        keys["sequence"] = "t1c"
    if name == "lesion_msgan":
        keys["mask_name"] = "seg"
    parts = entries(tiny(name), "train", tiny_brains, **keys)
    subjects = [{entry["subject"] for entry in parts[part]} for part in ("train", "validate")]
    assert sorted(map(sorted, subjects)) == [["anna"], ["bert"]]
    del keys["val_volumes"]
    assert {entry["subject"] for entry in entries(tiny(name), "evaluate", tiny_brains, **keys)["validate"]} == {
        "anna", "bert",
    }  # fmt: skip


RESULTS = {
    "mri_sr3d": ["desc-superres_T2w", "desc-superresStd_T2w"],
    "rslm_denoise": ["desc-denoised_T2w", "desc-denoisedStd_T2w"],
    "lesion_msgan": [f"desc-superresLesion{kind}_T2w" for kind in ("", "Region", "Std")],
    "brasyn_synthesis": ["ce-gadolinium_desc-synthesized_T1w", "ce-gadolinium_desc-synthesizedStd_T1w"],
}


def infer(bundle, dataset, output_dir, run_files):
    own = {
        "mri_sr3d": {"sequence": "T2w", "scale": [2, 2, 2]},
        "rslm_denoise": {"sequence": "T2w"},
        "lesion_msgan": {"sequence": "T2w", "mask": "label-lesion_mask"},
        "brasyn_synthesis": {"target": "t1c"},
    }[bundle.name]
    keys = bundle.keys("inference", output_dir, dataset_dir=str(dataset), bids=True, save_std=True, device="cpu", **own)
    run_files(bundle.files("inference"), kind="infer", **keys)


@pytest.fixture(scope="module")
def derivatives(tiny, dataset, tmp_path_factory, run_files):
    """What all of them make of a dataset of one session, in that dataset."""
    folder = tmp_path_factory.mktemp("dataset")
    shutil.copy(dataset / "dataset_description.json", folder)
    shutil.copytree(dataset / "sub-02", folder / "sub-02")
    for name in SCANS:
        infer(tiny(name), folder, folder, run_files)
    return folder / "derivatives" / "restoration-bundles"


@pytest.mark.parametrize("name", SCANS)
def test_results_are_bids_derivatives(name, derivatives):
    anat = derivatives / "sub-02" / "ses-1" / "anat"
    wanted = ("T1w", "T2w", "FLAIR") if name == "brasyn_synthesis" else ("T2w",)
    for result in RESULTS[name]:
        told = json.loads((anat / f"sub-02_ses-1_{result}.json").read_text(encoding="utf-8"))
        assert (anat / f"sub-02_ses-1_{result}.nii.gz").is_file()
        assert told["SkullStripped"] is True and "not for diagnosis" in told["Description"]
        assert told["Sources"] == [f"bids:raw:sub-02/ses-1/anat/sub-02_ses-1_{suffix}.nii.gz" for suffix in wanted]


def test_the_dataset_of_results_tells_what_made_it(derivatives):
    told = json.loads((derivatives / "dataset_description.json").read_text(encoding="utf-8"))
    assert sorted(one["Name"] for one in told["GeneratedBy"]) == sorted(SCANS)
    assert told["DatasetType"] == "derivative" and told["DatasetLinks"] == {"raw": "../.."}
    images = [path.name for path in derivatives.rglob("*.nii.gz")]
    assert len(images) == sum(map(len, RESULTS.values())) and (derivatives / "report.html").is_file()


def test_the_bids_validator_finds_no_error(derivatives):
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([validator, "--format", "json", str(derivatives)], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert [issue for issue in found["issues"]["issues"] if issue["severity"] == "error"] == []
    assert found["summary"]["subjects"] == ["02"] and found["summary"]["totalFiles"] > 2 * 9
