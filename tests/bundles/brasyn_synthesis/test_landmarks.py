# SPDX-License-Identifier: Apache-2.0
"""Landmarks and the weights that they belong to."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from brasyn_synthesis_lib.data import SEQUENCES, training_cases
from brasyn_synthesis_lib.landmarks import Landmarks, bind, check_bound, fit, landmarks_path, prepare, read
from brasyn_synthesis_lib.networks import Generator
from common.inputs import InputError
from common.sample_data import write_brain_cases
from common.transforms.intensity import PERCENTILES


def some(target="t1c", top=110.0):
    marks = [100.0 * p / 99 - 100 / 99 for p in PERCENTILES]
    return Landmarks(target, {name: {"landmarks": marks, "top": top} for name in SEQUENCES}, 3)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brains")
    write_brain_cases(folder, 2, (28, 30, 24), progress=False)
    return training_cases(folder)


def test_learned_landmarks_rise_and_know_the_brightest(cases):
    landmarks = fit(cases, "t2w")
    for name in SEQUENCES:
        marks = landmarks.of(name)
        assert marks[0] == 0 and marks[-1] == pytest.approx(100) and marks == sorted(marks)
        assert landmarks.sequences[name]["top"] > 99
    assert landmarks.scale == landmarks.sequences["t2w"]["top"]
    assert landmarks.of("t1n") != landmarks.of("t2w")


def with_voxels(entry, folder, name, change):
    """The case with one sequence's voxels changed, and that file."""
    image = nib.load(entry[name])
    path = folder / f"bad-{name}.nii.gz"
    nib.save(nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine), path)
    return {**entry, name: str(path)}, path


def one_nan(voxels):
    voxels[tuple(n // 2 for n in voxels.shape)] = np.nan
    return voxels


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (one_nan, "1 voxel is NaN or infinite"),
        (lambda voxels: 0 * voxels + 5, "constant image: every voxel is 5"),
        (lambda voxels: np.float32(voxels > np.median(voxels)), "the foreground of an image is constant"),
    ],
)
def test_voxels_to_learn_from_that_cannot_work_are_named_with_their_file(cases, tmp_path, change, text):
    bad, path = with_voxels(cases[1], tmp_path, "t2w", change)
    with pytest.raises(InputError, match=text) as error:
        fit([cases[0], bad], "t1c")
    assert error.value.path == str(path)


def test_a_file_gives_back_what_was_saved(tmp_path):
    some().save(landmarks_path(tmp_path / "model.pt"))
    assert (tmp_path / "model.landmarks.json").is_file()
    assert read(tmp_path / "model.landmarks.json", "t1c") == some()
    assert some().digest != some(top=111).digest != some("t2w").digest


def test_weights_know_their_landmarks():
    network = Generator(9, 2, 2)
    bind(network, some())
    check_bound(network, some().digest)
    bind(network, some())
    other = Generator(9, 2, 2)
    other.load_state_dict(network.state_dict())
    with pytest.raises(InputError, match="do not belong together"):
        bind(other, some(top=111))
    for weights in (other, other.state_dict()):
        with pytest.raises(InputError, match="do not belong together"):
            check_bound(weights, some("t2w").digest)


def test_a_run_takes_those_of_its_starting_weights(cases, tmp_path):
    run, weights = tmp_path / "run", tmp_path / "model.pt"
    run.mkdir()
    network = Generator(9, 2, 2)
    new = prepare(weights, True, False, cases, "t1c", run)  # no weights yet
    assert new == fit(cases, "t1c") == read(run / "best.landmarks.json", "t1c")
    torch.save(network.state_dict(), weights)
    some().save(landmarks_path(weights))
    assert prepare(weights, "true", "true", cases, "t1c", run) == new  # goes on
    assert prepare(weights, "true", False, cases, "t1c", tmp_path / "fresh") == new
    assert prepare(weights, False, False, cases, "t1c", tmp_path / "fine") == some()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(target="t2w"), "belong to the target t2w, not to t1c"),
        (lambda d: d["sequences"].pop("t1n"), "not a file of landmarks"),
        (lambda d: d["sequences"]["t1n"]["landmarks"].pop(), "other percentiles"),
        (lambda d: d.update(percentiles=list(range(11))), "other percentiles"),
        (lambda d: d.update(more=1), "not a file of landmarks"),
    ],
)
def test_files_that_cannot_work(tmp_path, change, text):
    path = tmp_path / "x.landmarks.json"
    some().save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=text):
        read(path, "t1c")
    with pytest.raises(InputError, match="no such landmarks file"):
        read(tmp_path / "none.json", "t1c")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not a file of landmarks"):
        read(path, "t1c")
