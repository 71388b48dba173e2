# SPDX-License-Identifier: Apache-2.0
"""Folders in the usual layouts become entries; what is missing costs one line."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.data import datasets
from common.data.datasets import (
    TakePartd,
    check_entries,
    evaluation_entries,
    guide_paths,
    inference_entries,
    scan_entries,
    split_entries,
)
from common.errors import InputError

ALL = "**/*.nii*"


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(5, 4, 3), np.eye(4)), path)
    return str(root)


def brats(root, cases=3):
    sequences = ("t1n", "t2w", "t2f", "seg")
    return write(root, *[f"case-{i}/case-{i}-{s}.nii.gz" for i in range(cases) for s in sequences])


def names(entries):
    return [entry["image"].rsplit("/", 1)[1] for entry in entries]


def refused(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# scan_entries


def test_brats_cases_with_a_sequence_and_guides(tmp_path):
    entries = scan_entries(brats(tmp_path), ALL, "t1n", '["t2w","t2f"]')
    assert names(entries) == [f"case-{i}-t1n.nii.gz" for i in range(3)]
    assert [entry["subject"] for entry in entries] == ["case-0", "case-1", "case-2"]
    assert [p.rsplit("/", 1)[1] for p in entries[1]["guide"]] == ["case-1-t2w.nii.gz", "case-1-t2f.nii.gz"]


def test_label_maps_are_no_images(tmp_path):
    entries = scan_entries(brats(tmp_path, 1), ALL, None)
    assert names(entries) == ["case-0-t1n.nii.gz", "case-0-t2f.nii.gz", "case-0-t2w.nii.gz"]
    write(tmp_path / "b", "brain_mask.nii", "x_dseg.nii.gz", "a-label.nii", "segmented.nii", "seg.nii")
    assert names(scan_entries(tmp_path / "b", ALL, "null")) == ["segmented.nii"]


def test_a_flat_folder_has_a_subject_per_name(tmp_path):
    entries = scan_entries(write(tmp_path, "b.nii.gz", "a.nii", "c.nii.gz"), ALL, None, None)
    assert [entry["subject"] for entry in entries] == ["a", "b", "c"]
    assert all(entry["guide"] == [] for entry in entries)


def test_bids_files_of_a_subject_belong_together(tmp_path):
    nested = write(
        tmp_path / "n", "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz",
    )  # fmt: skip
    assert [e["subject"] for e in scan_entries(nested, ALL, "T1w")] == ["sub-01", "sub-01", "sub-02"]
    flat = write(tmp_path / "f", "sub-1_run-1_T1w.nii", "sub-1_run-2_T1w.nii", "sub-2_T1w.nii")
    assert [e["subject"] for e in scan_entries(flat, ALL, "T1w")] == ["sub-1", "sub-1", "sub-2"]


def test_equal_names_in_subject_folders_are_different_subjects_however_the_folder_is_written(tmp_path, monkeypatch):
    write(tmp_path / "data", "anna/t1.nii.gz", "bert/t1.nii.gz")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "./data/", "~/data", "data/../data", str(tmp_path / "data")):
        assert [e["subject"] for e in scan_entries(folder, ALL, None)] == ["anna", "bert"]


def test_time_points_of_a_brats_patient_belong_together(tmp_path):
    stems = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-MEN-RT-00001-000", "BraTS2021_00002", "x-00001-000"]
    patients = ["BraTS-GLI-00001", "BraTS-GLI-00001", "BraTS-MEN-RT-00001", "BraTS2021_00002", "x-00001-000"]
    nested = write(tmp_path / "n", *(f"{stem}/{stem}-t1n.nii.gz" for stem in stems))
    flat = write(tmp_path / "f", *(f"{stem}-t1n.nii.gz" for stem in stems))
    for folder in (nested, flat):
        assert sorted(e["subject"] for e in scan_entries(folder, ALL, "t1n")) == sorted(patients)


def test_one_file_is_taken_whatever_its_name(tmp_path):
    write(tmp_path, "a_seg.nii.gz")
    (entry,) = scan_entries(tmp_path / "a_seg.nii.gz", ALL, "t1n")
    assert entry["subject"] == "a_seg" and entry["image"] == str(tmp_path / "a_seg.nii.gz")


def test_without_a_folder_the_sample_brains_t1n_is_taken(tmp_path, monkeypatch):
    folder = brats(tmp_path)
    monkeypatch.setattr(datasets, "sample_brains", lambda: folder)
    assert names(scan_entries("null", ALL, None)) == [f"case-{i}-t1n.nii.gz" for i in range(3)]
    assert names(scan_entries(None, ALL, "t2w"))[0] == "case-0-t2w.nii.gz"
    validate = evaluation_entries(None, ALL, None, None, 0.4, 0)["validate"]
    assert names(validate) == names(split_entries(scan_entries(None, ALL, None), 0.4, 0)["validate"])
    assert len(validate) == 1


def test_all_images_of_ones_own_folder_are_evaluated(tmp_path):
    both = evaluation_entries(brats(tmp_path), ALL, "t1n", None, 0.4, 0)
    assert len(both["validate"]) == 3 and both["train"] == []


def test_a_file_that_cannot_work_is_left_out_with_a_line(tmp_path, capsys):
    write(tmp_path, "a.nii.gz", "b.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    assert names(scan_entries(tmp_path, ALL, None)) == ["b.nii.gz"]
    assert f"left out {tmp_path}/a.nii.gz: " in capsys.readouterr().out
    (tmp_path / "b.nii.gz").unlink()
    assert refused(scan_entries, tmp_path, ALL, None).startswith(f"none of the 1 files under {tmp_path} can be used")


def test_what_is_missing_is_said(tmp_path):
    assert refused(scan_entries, tmp_path, "*.nii", None).startswith(f"no file matches *.nii under {tmp_path}")
    write(tmp_path, "a-t2w.nii.gz")
    text = refused(scan_entries, tmp_path, ALL, "t1n")
    assert text.startswith(f"no file matches {ALL} under {tmp_path}; expected ") and "names ending in t1n" in text
    assert "no such file or folder" in refused(scan_entries, tmp_path / "gone", ALL, None)
    path = tmp_path / "a-t2w.nii.gz"
    text = f"{path}: guide sequence 't1n' not found, expected a-t1n.nii.gz beside it"
    assert refused(scan_entries, tmp_path, ALL, "t2w", ["t1n"]) == text


# guides


@pytest.mark.parametrize(
    ("image", "sequence", "guide"),
    [
        ("case-t1n.nii.gz", "t1n", "case-t2w.nii.gz"),
        ("case-t1n.nii.gz", None, "case-t2w.nii.gz"),
        ("sub-1_T1w.nii", None, "sub-1_t2w.nii"),
        ("t1.nii.gz", "t1", "t2w.nii.gz"),
        ("t1.nii.gz", None, "t2w.nii.gz"),
    ],
)
def test_a_guide_has_the_images_name_with_another_sequence(tmp_path, image, sequence, guide):
    write(tmp_path, image, guide)
    assert guide_paths(str(tmp_path / image), ["t2w"], sequence) == [str(tmp_path / guide)]
    assert guide_paths(str(tmp_path / image), "t2w", sequence) == [str(tmp_path / guide)]


def test_a_guide_may_be_a_path(tmp_path):
    write(tmp_path, "a.nii", "other/b.nii")
    guide = str(tmp_path / "other" / "b.nii")
    assert guide_paths(str(tmp_path / "a.nii"), [guide]) == [guide]


# inference


def test_inference_lists_cases_and_those_that_cannot_work(tmp_path):
    folder = brats(tmp_path)
    (tmp_path / "case-1" / "case-1-t2w.nii.gz").unlink()
    (tmp_path / "case-2" / "case-2-t1n.nii.gz").write_bytes(b"no image")
    cases = inference_entries(folder, ALL, "t1n", ["t2w"], None)
    assert names(cases["entries"]) == ["case-0-t1n.nii.gz"]
    assert cases["entries"][0]["guide"] == [f"{folder}/case-0/case-0-t2w.nii.gz"]
    assert [path.rsplit("/", 1)[1] for path, _ in cases["failures"]] == ["case-2-t1n.nii.gz", "case-1-t1n.nii.gz"]
    assert "guide sequence 't2w' not found" in cases["failures"][1][1]


def test_inference_takes_one_file_or_the_sample(tmp_path):
    write(tmp_path, "a_pred.nii.gz")
    path = str(tmp_path / "a_pred.nii.gz")
    assert inference_entries(path, ALL, "t1n", None, None)["entries"] == [{"image": path, "guide": []}]
    assert inference_entries("null", ALL, None, None, lambda: path)["entries"] == [{"image": path, "guide": []}]
    assert "no file matches" in refused(inference_entries, tmp_path, ALL, None, None, None)


# split


def entries(subjects, scans=1):
    return [{"image": f"{s}-{i}", "subject": f"s{s:02d}"} for s in range(subjects) for i in range(scans)]


def subjects_of(part):
    return {entry["subject"] for entry in part}


@pytest.mark.parametrize(("fraction", "held_out"), [(0.2, 2), (0.01, 1), (0.5, 5), (0.99, 9)])
def test_subjects_are_split_never_their_scans(fraction, held_out):
    split = split_entries(entries(10, scans=3), fraction, seed=1)
    assert len(subjects_of(split["validate"])) == held_out
    assert subjects_of(split["train"]).isdisjoint(subjects_of(split["validate"]))
    assert len(split["train"]) + len(split["validate"]) == 30


def test_the_seed_decides_who_validates_and_the_order_of_files_does_not():
    choices = [subjects_of(split_entries(entries(10), 0.2, seed)["validate"]) for seed in range(6)]
    assert len(set(map(frozenset, choices))) > 1
    assert subjects_of(split_entries(entries(10)[::-1], 0.2, 3)["validate"]) == choices[3]


def test_fewer_training_subjects_leave_the_validation_as_it_is():
    few, all_of_them = (split_entries(entries(10, 2), 0.2, 0, subjects=n) for n in ("3", None))
    assert len(subjects_of(few["train"])) == 3 and len(few["train"]) == 6
    assert few["validate"] == all_of_them["validate"]
    assert subjects_of(few["train"]) < subjects_of(all_of_them["train"])
    assert len(split_entries(entries(10, 2), 0.4, 0, most=3)["validate"]) == 3


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 2])
def test_an_impossible_fraction_is_refused(fraction):
    assert refused(split_entries, entries(3), fraction, 0).startswith("val_fraction must lie between 0 and 1")


@pytest.mark.parametrize(("fraction", "seed", "key"), [("x", 0, "val_fraction"), (0.2, "x", "seed"), (0.2, -1, "seed")])
def test_what_is_no_fraction_or_seed_is_refused_by_name(fraction, seed, key):
    assert refused(split_entries, entries(3), fraction, seed).startswith(f"{key} must be a")


def test_a_single_subject_is_split_into_slabs(capsys):
    split = split_entries(entries(1, scans=2), 0.2, 0)
    assert [entry["part"] for entry in split["train"]] == ["train"] * 2
    assert [entry["part"] for entry in split["validate"]] == ["held_out"] * 2
    assert "one subject only" in capsys.readouterr().out
    assert len(split_entries(entries(1, scans=2), 0.2, 0, most=1)["validate"]) == 1


# slabs


@pytest.mark.parametrize("length", [10, 11, 33])
def test_slabs_do_not_overlap_and_stay_in_place(length):
    image = torch.rand(1, 5, 4, length)
    affine = torch.tensor([[0, 2, 0, 5], [1.5, 0, 0, -3], [0, 0, -3, 8], [0, 0, 0, 1]], dtype=torch.float64)
    data = {"image": MetaTensor(image, affine=affine, meta={"filename_or_obj": "a"})}
    train, held_out = (TakePartd("image")({**data, "part": part})["image"] for part in ("train", "held_out"))
    assert torch.equal(torch.cat([train.as_tensor(), held_out.as_tensor()], dim=-1), image)
    assert held_out.shape[-1] == pytest.approx(0.3 * length, abs=0.5)
    start = train.shape[-1]
    for first, slab in ((0, train), (start, held_out)):
        point = torch.tensor([2.0, 1, 1, 1], dtype=torch.float64)
        whole = affine @ (point + torch.tensor([0, 0, first, 0]))
        torch.testing.assert_close(slab.affine @ point, whole)
        assert slab.meta["filename_or_obj"] == "a"
    assert torch.equal(data["image"].affine, affine)


def test_whole_volumes_pass_unchanged():
    image = torch.rand(1, 5, 4, 6)
    for data in ({"image": image}, {"image": image, "part": "whole"}):
        assert TakePartd("image")(data)["image"] is image
    assert refused(TakePartd("image"), {"image": image, "part": "half"}).startswith("part must be one of")


def test_entries_made_by_others_are_checked():
    entry = {"image": "a.nii.gz", "label": "a-label.nii.gz"}
    check_entries([entry], [entry])
    with pytest.raises(InputError, match="no image to train on"):
        check_entries([], [entry])
    with pytest.raises(InputError, match="no image to validate on"):
        check_entries([entry], [])
    with pytest.raises(InputError, match=r"a\.nii\.gz: training also needs t2w of the same case"):
        check_entries([entry], [entry], ("image", "t2w"))


@pytest.mark.parametrize("name", ["m.nii.gz", "M.NII", "m.png", "masks/m"])
def test_a_guide_that_is_a_path_to_nothing_is_told_as_it_was_given(tmp_path, name):
    write(tmp_path, "a-t1.nii.gz")
    with pytest.raises(InputError) as error:
        guide_paths(str(tmp_path / "a-t1.nii.gz"), [name])
    assert error.value.reason == f"guide sequence '{name}' not found: no such file"


def test_a_file_under_two_names_is_one_subject(tmp_path):
    write(tmp_path, "sub-1/a.nii.gz", "sub-2/a.nii.gz")
    (tmp_path / "sub-3").symlink_to(tmp_path / "sub-1")
    (tmp_path / "sub-4").mkdir()
    (tmp_path / "sub-4" / "b.nii.gz").symlink_to(tmp_path / "sub-2" / "a.nii.gz")
    for name in ("loop", "sub-1/loop", "sub-2/loop"):
        (tmp_path / name).symlink_to(tmp_path)
    entries = scan_entries(tmp_path, "**/*.nii*", None)
    assert [entry["subject"] for entry in entries] == ["sub-1", "sub-2"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no json", "not a split file"),
        ("[" * 99_999, "not a split file"),
        ('{"train": [], "validate": ["a"]}', "names no subject to train"),
        ("[1]", "expected {"),
        ('{"train": ["a"]}', "expected {"),
        ('{"train": ["a"], "validate": ["b"], "more": []}', "expected {"),
        ('{"train": "a", "validate": ["b"]}', "expected lists of subjects"),
        ('{"train": [1], "validate": ["b"]}', "expected lists of subjects"),
        ('{"train": ["a", "b"], "validate": ["b"]}', "b stands in more than one place"),
        ('{"train": ["a"], "validate": ["z"]}', "the data have no subject z; there are a, b, c"),
    ],
)
def test_a_split_file_that_cannot_work_is_one_line(tmp_path, content, told):
    path = tmp_path / "split.json"
    path.write_text(content, encoding="utf-8")
    entries = [{"subject": name} for name in "abc"]
    with pytest.raises(InputError) as caught:
        split_entries(entries, 0.5, 0, split=str(path))
    assert told in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_split_file_decides(tmp_path):
    path = tmp_path / "split.json"
    path.write_text('{"train": ["c", "a"], "validate": ["b"], "test": ["d"]}', encoding="utf-8")
    found = split_entries([{"subject": name} for name in "abcd"], 0.5, 0, split=str(path))
    assert {part: [e["subject"] for e in of] for part, of in found.items()} == {"train": ["a", "c"], "validate": ["b"]}
