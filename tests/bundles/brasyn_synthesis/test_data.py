# SPDX-License-Identifier: Apache-2.0
"""Cases by their names: which sequence is missing, and what cannot work."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brasyn_synthesis_lib.data import (
    checked_target,
    inference_cases,
    inputs_of,
    read_cases,
    sample_case,
    training_cases,
    weights_of,
)
from brasyn_synthesis_lib.transforms import LoadSequencesd
from common.data.datasets import split_entries
from common.data.sample_data import write_brain_cases
from common.errors import InputError

SHAPE = (6, 7, 5)


def save(path, shape=SHAPE, shift=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random(shape, dtype=np.float32), affine), path)
    return path


def case(folder, names=("t1n", "t1c", "t2w", "t2f"), stem="BraTS-0001"):
    for name in names:
        save(folder / f"{stem}{'-' if stem else ''}{name}.nii.gz")
    return folder


def test_targets_their_inputs_and_weights():
    assert checked_target("T1CE") == "t1c" and checked_target("flair") == "t2f"
    assert inputs_of("t1c") == ["t1n", "t2w", "t2f"] and inputs_of("t2f") == ["t1n", "t1c", "t2w"]
    assert weights_of("m", "t1c").endswith("model.pt") and weights_of("m", "flair").endswith("t2f.pt")
    for target in ("t3", None, 5):
        with pytest.raises(InputError, match="target must be one of"):
            checked_target(target)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("t1n", "t1c", "t2w"), "t2f"),
        (("t1", "t1ce", "flair"), "t2w"),
        (("t1", "t2", "flair"), "t1c"),
        (("T1CE", "T2", "FLAIR"), "t1n"),
    ],
)
def test_the_missing_sequence_is_found(tmp_path, names, missing):
    case(tmp_path / "one", names)
    (entry,) = inference_cases(tmp_path / "one", None)["entries"]
    assert entry["image"]["target"] == missing
    assert list(entry["image"]["files"]) == inputs_of(missing)
    assert entry["case"].endswith("BraTS-0001")


def test_a_folder_of_cases_and_bare_names(tmp_path):
    case(tmp_path / "a", ("t1n", "t1c", "t2w"), stem="")
    case(tmp_path / "b", ("t1n", "t1c", "t2f"), stem="b")
    found = inference_cases(tmp_path, None)
    assert [e["image"]["target"] for e in found["entries"]] == ["t2f", "t2w"]
    assert found["entries"][0]["case"].endswith("a")


def test_target_makes_one_of_a_complete_case(tmp_path):
    case(tmp_path)
    (entry,) = inference_cases(tmp_path, "t2w")["entries"]
    assert entry["image"]["target"] == "t2w" and "t2w" not in entry["image"]["files"]


@pytest.mark.parametrize(
    ("names", "target", "text"),
    [
        (("t1n", "t1c"), None, "2 sequences are missing (t2w, t2f)"),
        (("t1n", "t1c", "t2w", "t2f"), None, "no sequence is missing"),
        (("t1n", "t1c", "t2w"), "t1c", "but t2f is not there"),
    ],
)
def test_cases_that_cannot_work_are_told(tmp_path, names, target, text):
    case(tmp_path, names)
    found = inference_cases(tmp_path, target)
    assert not found["entries"] and text in found["failures"][0][1]


def test_other_grids_and_damaged_files_are_told(tmp_path):
    case(tmp_path / "shape", ("t1n", "t2w"))
    save(tmp_path / "shape" / "BraTS-0001-t2f.nii.gz", (6, 7, 6))
    case(tmp_path / "place", ("t1n", "t2w"))
    save(tmp_path / "place" / "BraTS-0001-t2f.nii.gz", shift=2)
    case(tmp_path / "cut", ("t1n", "t2w", "t2f"))
    path = tmp_path / "cut" / "BraTS-0001-t2w.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    failures = dict(inference_cases(tmp_path, None)["failures"])
    assert len(failures) == 3
    assert any("another grid (6 x 7 x 6) than t1n (6 x 7 x 5)" in reason for reason in failures.values())


def with_a_twin(folder, stem):
    """A complete case with a second T1 under the old name."""
    save(case(folder, stem=stem) / f"{stem}-t1.nii.gz")


def test_a_sequence_twice_in_a_case_costs_that_case_alone(tmp_path, capsys):
    case(tmp_path / "a", ("t1n", "t1c", "t2w"), stem="a")
    with_a_twin(tmp_path / "b", "b")
    case(tmp_path / "c", ("t1n", "t2w", "t2f"), stem="c")
    found = inference_cases(tmp_path, None)
    assert [entry["image"]["target"] for entry in found["entries"]] == ["t2f", "t1c"]
    told = "t1n is there twice, as b-t1.nii.gz and b-t1n.nii.gz"
    assert found["failures"] == [(str(tmp_path / "b" / "b"), told)]
    for name in ("a", "c"):
        case(tmp_path / name, stem=name)
    assert [entry["subject"] for entry in training_cases(tmp_path)] == ["a", "c"]
    assert capsys.readouterr().out == f"left out {tmp_path / 'b' / 'b'}: {told}\n"


def test_a_folder_of_nothing_but_twins(tmp_path):
    with_a_twin(tmp_path / "a", "a")
    found = inference_cases(tmp_path, "t2w")
    assert not found["entries"] and "twice" in found["failures"][0][1]
    with pytest.raises(InputError, match="no complete case"):
        training_cases(tmp_path)
    assert read_cases(["a/x-t1.nii", "a/x-t2.nii"]) == ({"a/x": {"t1n": "a/x-t1.nii", "t2w": "a/x-t2.nii"}}, [])


def test_a_4d_file_needs_a_target(tmp_path):
    path = save(tmp_path / "scan.nii.gz", (*SHAPE, 3))
    (entry,) = inference_cases(path, "t1c")["entries"]
    assert entry["image"] == {"files": {"stack": str(path)}, "target": "t1c", "name": str(path)}
    assert "give --target" in inference_cases(path, None)["failures"][0][1]
    wrong = save(tmp_path / "two.nii.gz", (*SHAPE, 2))
    assert "three sequences as volumes" in inference_cases(wrong, "t1c")["failures"][0][1]


def patched(path, offset, content):
    """An uncompressed 4D file with some bytes of its header replaced."""
    raw = bytearray(save(path, (*SHAPE, 3)).read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)
    return path


def test_headers_of_4d_files_are_checked_like_all_others(tmp_path):
    spacing = patched(tmp_path / "spacing.nii", 80, struct.pack("<f", 0.0))  # pixdim[1]
    time = patched(tmp_path / "time.nii", 92, struct.pack("<f", 0.0))  # pixdim[4] says nothing about voxels
    cut = save(tmp_path / "cut.nii", (*SHAPE, 3))
    cut.write_bytes(cut.read_bytes()[:-40])
    waves = np.ones((*SHAPE, 3), np.complex64)
    nib.save(nib.Nifti1Image(waves, np.eye(4)), tmp_path / "complex.nii.gz")
    five = save(tmp_path / "five.nii", (*SHAPE, 1, 3))
    three = save(tmp_path / "three.nii", SHAPE)
    for path, text in (
        (spacing, "voxel spacing 0 x 1 x 1 mm is not positive"),
        (cut, "the file is truncated"),
        (tmp_path / "complex.nii.gz", "complex64 voxels; one number per voxel is needed"),
        (five, "5D image (6 x 7 x 5 x 1 x 3) where a 4D one is meant"),
        (three, "4D with the three sequences as volumes, this is 6 x 7 x 5"),
    ):
        ((told, reason),) = inference_cases(path, "t1c")["failures"]
        assert told == str(path) and text in reason
    assert inference_cases(time, "t1c")["entries"]
    found = inference_cases(tmp_path, "t1c")  # in a folder they cost nobody else
    assert [Path(entry["case"]).name for entry in found["entries"]] == ["time.nii"]
    assert sorted(Path(path).name for path, _ in found["failures"]) == ["complex.nii.gz", "cut.nii", "spacing.nii"]


def test_explicit_paths(tmp_path):
    files = {name: save(tmp_path / f"{name}-scan.nii.gz") for name in ("t1n", "t2w", "t2f")}
    (entry,) = inference_cases(None, None, explicit={**files, "t1c": None})["entries"]
    assert entry["image"]["target"] == "t1c"


def test_explicit_paths_with_bare_names_take_the_folders(tmp_path):
    for patient in ("p1", "p2"):
        files = {name: save(tmp_path / patient / f"{name}.nii.gz") for name in ("t1n", "t2w", "t2f")}
        (entry,) = inference_cases(None, None, explicit=files)["entries"]
        assert entry["image"]["name"] == str(tmp_path / patient / patient)
    files = {name: save(tmp_path / f"{name}.of-mine.nii.gz") for name in ("t1n", "t2w", "t2f")}
    (entry,) = inference_cases(None, None, explicit=files)["entries"]
    assert entry["image"]["name"] == str(tmp_path / "t1n.of-mine")


def test_training_takes_complete_cases(tmp_path, capsys):
    case(tmp_path / "a")
    case(tmp_path / "b", ("t1", "t1ce", "t2", "flair", "seg"), stem="b")
    case(tmp_path / "c", ("t1n", "t1c", "t2w"), stem="c")
    entries = training_cases(tmp_path)
    assert [entry["subject"] for entry in entries] == ["BraTS-0001", "b"]
    assert "seg" in entries[1] and "seg" not in entries[0]
    assert "has no t2f" in capsys.readouterr().out
    with pytest.raises(InputError, match="no complete case"):
        training_cases(tmp_path / "c")


def test_time_points_of_a_patient_do_not_lie_on_both_sides_of_a_split(tmp_path):
    stems = [f"BraTS-GLI-{patient:05d}-{time:03d}" for patient in range(4) for time in range(2)]
    for stem in stems:
        case(tmp_path / stem, stem=stem)
    entries = training_cases(tmp_path)
    assert [entry["case"] for entry in entries] == stems
    for seed in range(5):
        both = split_entries(entries, 0.25, seed)
        train, validate = ({entry["case"][:-4] for entry in both[part]} for part in ("train", "validate"))
        assert len(train) == 3 and len(validate) == 1 and not train & validate


def test_no_name_of_a_sequence(tmp_path):
    save(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="named as a sequence"):
        inference_cases(tmp_path, None)


def test_sample_case_lacks_one_sequence(tmp_path, monkeypatch):
    folder = tmp_path / "brains"
    write_brain_cases(folder, 1, (24, 24, 24), progress=False)
    monkeypatch.setattr("brasyn_synthesis_lib.data.sample_brains", lambda: folder)
    (entry,) = inference_cases(sample_case(), None)["entries"]
    assert entry["image"]["target"] == "t1c"


def test_one_file_as_two_sequences_is_refused(tmp_path):
    t1n = save(tmp_path / "t1n.nii.gz")
    (tmp_path / "t2w.nii.gz").symlink_to(t1n)
    files = {"t1n": t1n, "t2w": tmp_path / "t2w.nii.gz", "t2f": save(tmp_path / "other.nii.gz")}
    ((path, reason),) = inference_cases(None, None, explicit=files)["failures"]
    assert (path, reason) == (str(tmp_path / "t2w.nii.gz"), "t2w is the same file as t1n")


def test_a_copy_as_another_sequence_is_refused_when_it_is_loaded(tmp_path):
    case(tmp_path / "c", ("t1n", "t2w", "t2f"))  # `save` writes the same voxels
    (entry,) = inference_cases(tmp_path, None)["entries"]
    with pytest.raises(InputError, match="t1n and t2w hold the same image"):
        LoadSequencesd()(entry)


def test_a_4d_file_in_a_case_is_told_once(tmp_path):
    case(tmp_path / "c", ("t1n", "t2f"))
    save(tmp_path / "c" / "BraTS-0001-t2w.nii.gz", (*SHAPE, 3))
    found = inference_cases(tmp_path, "t1c")
    assert found["entries"] == []
    ((path, reason),) = found["failures"]
    assert path.endswith("t2w.nii.gz") and "4D image" in reason


def test_one_bad_header_costs_its_case_alone(tmp_path):
    for name in ("a", "b"):
        case(tmp_path / name, ("t1n", "t2w", "t2f"), name)
    path = tmp_path / "a" / "a-t2w.nii.gz"
    path.unlink()
    raw = bytearray(save(path.with_suffix("")).read_bytes())
    raw[108:112] = struct.pack("<f", 100)  # vox_offset
    path.with_suffix("").write_bytes(raw)
    found = inference_cases(tmp_path, None)
    assert [Path(entry["case"]).name for entry in found["entries"]] == ["b"]
    ((_, reason),) = found["failures"]
    assert "vox_offset is 100" in reason


def test_a_case_under_two_names_is_taken_once(tmp_path, capsys):
    case(tmp_path / "c")
    (tmp_path / "d").symlink_to(tmp_path / "c")
    (tmp_path / "e").mkdir()
    for path in (tmp_path / "c").iterdir():
        (tmp_path / "e" / path.name.replace("0001", "0002")).symlink_to(path)
    assert [entry["case"] for entry in training_cases(tmp_path)] == ["BraTS-0001"]
    assert "the same files as" in capsys.readouterr().out
