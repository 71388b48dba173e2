# SPDX-License-Identifier: Apache-2.0
"""A BIDS dataset as a folder of scans."""

import nibabel as nib
import numpy as np
import pytest

from brasyn_synthesis_lib.data import inference_cases, training_cases
from common.data.datasets import guide_paths, scan_entries, split_entries
from common.errors import InputError
from common.io import bids
from common.io.inputs import find_scans
from lesion_msgan_lib import cases as lesions

ALL = "**/*.nii*"
FILES = (
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", "sub-01/ses-a/anat/sub-01_ses-a_ce-gadolinium_run-1_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii.gz", "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_label-lesion_mask.nii.gz", "sub-01/ses-a/func/sub-01_ses-a_task-rest_sbref.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_acq-mprage_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz",
    "sub-02/fmap/sub-02_phasediff.nii.gz", "derivatives/pre/sub-01/ses-a/anat/sub-01_ses-a_desc-brain_T1w.nii.gz",
    "sourcedata/sub-01/sub-01_T1w.nii.gz", ".git/annex/sub-03_T1w.nii.gz",
)  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "ds"
    for number, name in enumerate(FILES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.arange(60, dtype=np.float32).reshape(5, 4, 3) + number
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}', encoding="utf-8")
    return root


def stems(paths):
    return [str(path).rsplit("/", 1)[1].split(".")[0] for path in paths]


def images(entries):
    return stems(entry["image"] for entry in entries)


@pytest.mark.parametrize(
    ("sequence", "found"),
    [
        ("T1w", ["sub-01_ses-a_T1w", "sub-01_ses-b_acq-mprage_T1w", "sub-02_T1w"]),
        ("t2w", ["sub-01_ses-a_T2w"]),
        ("FLAIR", ["sub-01_ses-a_FLAIR"]),
        ("ce-gadolinium_T1w", ["sub-01_ses-a_ce-gadolinium_run-1_T1w"]),
        ("acq-mprage_T1w", ["sub-01_ses-b_acq-mprage_T1w"]),
    ],
)
def test_a_sequence_is_chosen_by_its_suffix(dataset, sequence, found):
    assert images(scan_entries(dataset, ALL, sequence)) == found
    assert images(lesions.inference_cases(str(dataset), None, sequence, None)["entries"]) == found


def test_only_anatomical_scans_of_the_dataset_itself_are_read(dataset):
    anatomical = ["FLAIR", "T1w", "T2w", "ce-gadolinium_run-1_T1w"]
    expected = [*(f"sub-01_ses-a_{name}" for name in anatomical), "sub-01_ses-b_acq-mprage_T1w", "sub-02_T1w"]
    assert sorted(images(scan_entries(dataset, ALL, None))) == expected
    assert sorted(images(scan_entries(dataset / "sub-01", ALL, None))) == expected[:-1]
    (dataset / "dataset_description.json").unlink()  # of a part that was copied
    assert sorted(images(scan_entries(dataset, ALL, None))) == expected


def test_a_pattern_or_the_folder_itself_names_other_folders(dataset):
    assert stems(find_scans(dataset, "**/func/*.nii.gz")) == ["sub-01_ses-a_task-rest_sbref"]
    assert stems(find_scans(dataset, "derivatives/pre/**/*.nii.gz")) == ["sub-01_ses-a_desc-brain_T1w"]
    assert stems(find_scans(dataset / "derivatives" / "pre")) == ["sub-01_ses-a_desc-brain_T1w"]
    with pytest.raises(InputError, match="of a BIDS dataset anat/ is read; name other folders with --pattern"):
        find_scans(dataset, "**/*_phasediff.nii.gz")


def test_sessions_of_a_subject_stay_on_one_side_of_a_split(dataset):
    entries = scan_entries(dataset, ALL, "T1w")
    assert [entry["subject"] for entry in entries] == ["sub-01", "sub-01", "sub-02"]
    parts = split_entries(entries, 0.5, 0)
    assert {len(parts["train"]), len(parts["validate"])} == {1, 2}
    of_one = scan_entries(dataset / "sub-01", ALL, "T1w")  # not a subject for each session
    assert [entry["subject"] for entry in of_one] == ["sub-01", "sub-01"]


@pytest.mark.parametrize(
    ("inner", "subject"),
    [
        ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01"),
        ("T1w/sub-01_T1w.nii.gz", "sub-01"),
        ("berlin/sub-01/anat/sub-01_T1w.nii.gz", "berlin/sub-01"),
        ("ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01"),
        ("anna/t1.nii.gz", None),
    ],
)
def test_whose_a_scan_is(inner, subject):
    assert bids.subject_of(f"/data/sub-study/{inner}", "/data/sub-study") == subject


def test_guides_and_masks_have_the_images_entities(dataset):
    folder = dataset / "sub-01" / "ses-a" / "anat"
    given = [("sub-01_ses-a_T1w", "T1w", "T2w"), ("sub-01_ses-a_FLAIR", None, "label-lesion_mask")]
    for image, sequence, guide in given:
        found = guide_paths(str(folder / f"{image}.nii.gz"), [guide], sequence)
        assert found == [str(folder / f"sub-01_ses-a_{guide}.nii.gz")]
    (entry,) = lesions.training_entries(
        str(dataset), ALL, "T2w", "label-lesion_mask", "mask", val_fraction=0.5, seed=0
    )["train"]
    assert stems(entry["guide"]) == ["sub-01_ses-a_label-lesion_mask"]


def test_a_case_of_four_sequences_is_a_session(dataset, capsys):
    (case,) = training_cases(str(dataset))
    assert case["case"] == "sub-01_ses-a" and case["subject"] == "sub-01"
    assert stems(case[name] for name in ("t1n", "t1c", "t2w", "t2f", "seg")) == [
        f"sub-01_ses-a_{name}" for name in ("T1w", "ce-gadolinium_run-1_T1w", "T2w", "FLAIR", "label-lesion_mask")
    ]
    assert "sub-01_ses-b: has no t1c, t2w, t2f" in capsys.readouterr().out
    next(dataset.rglob("*ce-*")).unlink()
    made = [entry["image"] for entry in inference_cases(str(dataset), None)["entries"]]
    assert [(one["target"], one["name"].rsplit("/", 1)[1]) for one in made] == [("t1c", "sub-01_ses-a")]


def test_two_runs_of_a_sequence_are_told_apart_by_the_user(dataset):
    anat = dataset / "sub-01" / "ses-a" / "anat"
    (anat / "sub-01_ses-a_T2w.nii.gz").rename(anat / "sub-01_ses-a_run-1_T2w.nii.gz")
    (anat / "sub-01_ses-a_run-2_T2w.nii.gz").write_bytes((anat / "sub-01_ses-a_run-1_T2w.nii.gz").read_bytes())
    failures = dict(inference_cases(str(dataset), "t1c")["failures"])
    told = failures[str(anat / "sub-01_ses-a")]
    assert told == "t2w is there twice, as sub-01_ses-a_run-1_T2w.nii.gz and sub-01_ses-a_run-2_T2w.nii.gz"
