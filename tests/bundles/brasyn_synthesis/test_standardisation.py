# SPDX-License-Identifier: Apache-2.0
"""Histogram standardisation and the weights that hold its numbers."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from brasyn_synthesis_lib.data import SEQUENCES, training_cases
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.standardisation import Standardisation, fit, prepare
from common.data.sample_data import write_brain_cases
from common.errors import InputError
from common.transforms.intensity import PERCENTILES


def some(target="t1c", top=110.0):
    marks = [round(100.0 * (p - 1) / 98, 4) for p in PERCENTILES]
    return Standardisation(target, dict.fromkeys(SEQUENCES, marks), dict.fromkeys(SEQUENCES, top))


def weights_with(standardisation, path):
    network = Generator(9, 2, 2)
    standardisation.write(network)
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brains")
    write_brain_cases(folder, 2, (28, 30, 24), progress=False)
    return training_cases(folder)


def test_learned_histograms_rise_and_know_the_brightest(cases):
    learned = fit(cases, "t2w")
    for name in SEQUENCES:
        marks = learned.landmarks[name]
        assert marks[0] == 0 and marks[-1] == pytest.approx(100) and marks == sorted(marks)
        assert learned.tops[name] > 99
    assert learned.scale == learned.tops["t2w"]
    assert learned.landmarks["t1n"] != learned.landmarks["t2w"]
    assert fit([*cases, {**cases[0], "variant": 1}], "t2w") == learned


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


def test_weights_give_back_what_was_written(cases, tmp_path):
    for numbers in (some(), some("t2f", 140.6089), fit(cases, "t1n")):
        path = weights_with(numbers, tmp_path / "model.pt")
        assert Standardisation.read(path, numbers.target) == numbers
        assert Standardisation.read(path, numbers.target).digest == numbers.digest
    assert len({some().digest, some(top=111).digest, some("t2w").digest}) == 3


def test_the_average_of_equal_weights_keeps_them():
    network = Generator(9, 2, 2)
    some("t2f").write(network)
    averaged = {name: sum(tensor.float() / 3 for _ in range(3)) for name, tensor in network.state_dict().items()}
    other = Generator(9, 2, 2)
    other.load_state_dict(averaged)
    assert Standardisation.of(other) == some("t2f")


def test_a_run_takes_that_of_its_starting_weights(cases, tmp_path):
    weights = weights_with(some(), tmp_path / "model.pt")
    network = Generator(9, 2, 2)
    new = prepare(network, weights, True, False, cases, "t1c", tmp_path)
    assert new == fit(cases, "t1c") == Standardisation.of(network)
    assert prepare(network, weights, False, False, cases, "t1c", tmp_path) == some() == Standardisation.of(network)
    weights_with(new, tmp_path / "last.pt")
    for from_scratch in (True, False):
        assert prepare(network, weights, from_scratch, True, cases, "t1c", tmp_path) == new  # goes on


def test_weights_that_cannot_work(tmp_path):
    path = weights_with(some(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="these weights make t1c, not t2w"):
        Standardisation.read(path, "t2w")
    torch.save(Generator(9, 2, 2).state_dict(), path)
    with pytest.raises(InputError, match="no numbers of a histogram standardisation"):
        Standardisation.read(path, "t1c")
    with pytest.raises(InputError, match="no such weights file"):
        Standardisation.read(tmp_path / "none.pt", "t1c")
