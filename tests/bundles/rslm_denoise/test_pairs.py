# SPDX-License-Identifier: Apache-2.0
"""Noisy scans beside clean ones: how they are found, and training and evaluation on them."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import rslm_denoise_lib
from common.errors import InputError
from rslm_denoise_lib.data import NoisyVolumes, with_noisy
from rslm_denoise_lib.networks import Generator
from rslm_denoise_lib.noise import NoisyPatches, measured

CONFIGS = Path(rslm_denoise_lib.__file__).parents[1] / "configs"
SIZES = [[3, 3, 1], 3, [3, 3, 1]]
NETWORK = {"filters": 3, "filter_sizes": SIZES, "residual": True, "init": "identity"}
BUDGET = {"network": NETWORK, "objective": "relative", "epochs": 1, "patches": 4, "batch_size": 2, "patch_size": 12}
BUDGET |= {"learning_rate": 0.001, "fine_tuning_rate": 0.001, "val_volumes": 1, "val_crop": 16}
SHAPE = (22, 20, 18)


def write(path, voxels, shift=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(np.asarray(voxels, np.float32), affine), path)
    return str(path)


@pytest.fixture
def folders(tmp_path):
    """Three clean scans, in sub-folders of one name each, and their noisy ones."""
    for number in range(3):
        random = np.random.default_rng(number)
        clean = 300 + 100 * np.sin(0.3 * np.arange(22))[:, None, None] + 50 * random.random((1, 20, 18))
        clean[:3] = 0
        write(tmp_path / "clean" / f"s{number}" / "t1.nii.gz", clean)
        write(tmp_path / "noisy" / f"s{number}" / "t1.nii", np.abs(clean + 20 * random.standard_normal(SHAPE)))
    return tmp_path


def entries(folder):
    return [{"image": str(path), "subject": path.parent.name} for path in sorted((folder / "clean").rglob("*.nii.gz"))]


def test_scans_find_their_partner_by_place(folders):
    found = with_noisy(entries(folders), str(folders / "clean"), str(folders / "noisy"))
    assert [Path(entry["noisy"]).relative_to(folders).as_posix() for entry in found] == [
        f"noisy/s{number}/t1.nii" for number in range(3)
    ]
    assert with_noisy(entries(folders), None, None) == entries(folders)


def test_scans_find_their_partner_by_name_in_a_flat_folder(tmp_path):
    clean = write(tmp_path / "clean" / "a" / "a-t1.nii.gz", np.ones(SHAPE))
    noisy = write(tmp_path / "clean" / "noisy" / "a-t1.nii.gz", np.ones(SHAPE))
    both = [{"image": clean}, {"image": noisy}]  # the folder lies in that of the clean scans
    (found,) = with_noisy(both, str(tmp_path / "clean"), str(tmp_path / "clean" / "noisy"))
    assert (found["image"], found["noisy"]) == (clean, noisy)


def test_two_files_are_a_pair(tmp_path):
    clean, noisy = (write(tmp_path / name, np.ones(SHAPE)) for name in ("a.nii", "b.nii"))
    assert with_noisy([{"image": clean}], clean, noisy)[0]["noisy"] == noisy


def _no_partner(folder):
    (folder / "noisy" / "s1" / "t1.nii").unlink()
    (folder / "noisy" / "s0" / "t1.nii").rename(folder / "noisy" / "s0" / "other.nii")
    (folder / "noisy" / "s2" / "t1.nii").rename(folder / "noisy" / "s2" / "more.nii")


def _two_partners(folder):
    (folder / "noisy" / "s1" / "t1.nii").rename(folder / "noisy" / "t1.nii")


def _other_size(folder):
    write(folder / "noisy" / "s1" / "t1.nii", np.ones((22, 20, 9)))


def _other_place(folder):
    write(folder / "noisy" / "s1" / "t1.nii", np.ones(SHAPE), shift=3)


def _damaged(folder):
    (folder / "noisy" / "s1" / "t1.nii").write_bytes(b"no scan")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_partner, ["s0", "no noisy scan of the same name"]),
        (_two_partners, ["s1", "several noisy scans of the same name", "s0", "s2"]),
        (_other_size, ["noisy/s1/t1.nii", "another grid (22 x 20 x 9)", "clean/s1/t1.nii.gz", "(22 x 20 x 18)"]),
        (_other_place, ["noisy/s1/t1.nii", "another grid", "clean/s1/t1.nii.gz"]),
        (_damaged, ["noisy/s1/t1.nii"]),
    ],
)
def test_what_is_no_pair_is_named_in_one_line(folders, spoil, words):
    spoil(folders)
    with pytest.raises(InputError) as error:
        with_noisy(entries(folders), str(folders / "clean"), str(folders / "noisy"))
    assert "\n" not in str(error.value) and not [word for word in words if word not in str(error.value)]


def test_folders_that_cannot_be(folders):
    with pytest.raises(InputError, match="needs dataset_dir"):
        with_noisy(entries(folders), None, str(folders / "noisy"))
    with pytest.raises(InputError, match="all scans of dataset_dir lie in it"):
        with_noisy(entries(folders), str(folders / "clean"), str(folders / "clean"))


def test_noise_of_pairs_is_what_weights_are_said_to_know(folders):
    entry = with_noisy(entries(folders), str(folders / "clean"), str(folders / "noisy"))[0]
    (own,) = measured(entry, NoisyPatches())
    (clean,) = measured({"image": entry["image"]}, NoisyPatches(levels=0.01))
    assert own["noise"][0] > 1.2 * clean["noise"][0]


def test_training_and_evaluation_on_pairs(folders, run, capsys):
    places = {"dataset_dir": folders / "clean", "paired": folders / "noisy", "device": "cpu"}
    places["output_dir"] = folders / "runs"
    settings = {"budgets": {"short": BUDGET}, "budget": "short", "from_scratch": "true", **places}
    workflow = run("train", run_name="training", coarser=1.2, ckpt_dir=folders / "models", **settings)
    assert "1 volumes with noisy scans of their own" in capsys.readouterr().out
    batch = workflow.parser.get_parsed_content("train::patches").batch(range(4))
    assert batch["image"].shape == (4, 1, 12, 12, 12) and not torch.equal(batch["image"], batch["label"][:, :1])
    torch.save(Generator(3, SIZES, init="identity", residual=True).state_dict(), folders / "identity.pt")
    run("train", "evaluate", run_name="evaluation", weights=folders / "identity.pt", **places)
    with (folders / "runs" / "evaluation" / "scores.csv").open(newline="", encoding="utf-8") as file:
        scores = list(csv.DictReader(file))
    assert [line["setting"] for line in scores] == ["paired"] * 3
    for line in scores:
        assert 10 < float(line["psnr_slices"]) < 40 and 0 < float(line["ssim_slices"]) < 1
        assert float(line["psnr_foreground"]) == pytest.approx(float(line["baseline_psnr_foreground"]), abs=0.5)
        assert float(line["nlm_psnr_foreground"]) > float(line["baseline_psnr_foreground"])  # told no level


def test_other_noise_is_trained_and_evaluated_by_keys(folders, run, capsys):
    keys = {"dataset_dir": folders / "clean", "output_dir": folders / "runs", "device": "cpu"}
    keys |= {"noise": "noncentral_chi", "coils": 4, "noise_map": 2, "test_levels": [5]}
    settings = {"budgets": {"short": BUDGET}, "budget": "short", "from_scratch": "true", **keys}
    workflow = run("train", run_name="training", ckpt_dir=folders / "models", **settings)
    assert "noncentral chi noise of 4 coils, at most 2 times 5 %" in capsys.readouterr().out
    for part in ("train::degradation", "validate::dataset"):
        noise = workflow.parser.get_parsed_content(part).noise
        assert (noise.kind, noise.coils, noise.peak) == ("noncentral_chi", 4, 2)
    dataset = workflow.parser.get_parsed_content("validate::dataset")
    assert isinstance(dataset, NoisyVolumes) and float((dataset[0]["image"] - dataset[0]["label"]).mean()) > 0.02
