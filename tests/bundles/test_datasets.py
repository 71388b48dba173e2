# SPDX-License-Identifier: Apache-2.0
"""Datasets as others lay them out, through the configurations of the bundles that read scans."""

import os
import shutil

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
