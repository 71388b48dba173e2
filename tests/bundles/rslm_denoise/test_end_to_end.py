# SPDX-License-Identifier: Apache-2.0
"""rslm_denoise from config to file, in this process, on tiny data and with few filters."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import rslm_denoise_lib
from common.console import multiplications
from common.trainers import AdversarialTrainer
from common.weights import load_flat
from rslm_denoise_lib.networks import Generator

BUNDLE = Path(rslm_denoise_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
BRAIN = (28, 30, 24)  # voxels
SIZES = [[3, 3, 1], 3, 5, 3, [3, 3, 1]]
SMALL = {"from_scratch": "true", "filters": 4, "filter_sizes": SIZES, "residual": False, "init": "identity"}
BUDGET = {"epochs": 2, "warmup": 1, "patches_per_volume": None, "patches": 12, "batch_size": 2, "patch_size": 12}
NETWORK = {"filters": 4, "filter_sizes": SIZES, "residual": True, "init": "identity"}
BUDGET |= {
    "network": NETWORK,
    "objective": "paper",
    "learning_rate": 0.001,
    "fine_tuning_rate": 0.001,
    "val_volumes": 1,
    "val_crop": 16,
}
OVERLAYS = ("cnn_l1", "wgan", "smgan_3d", "rslm_dnn_3d", "shipped_weights", "shipped_weights_paper")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.manual_seed(0)
    torch.save(Generator(4, SIZES, init="identity", residual=True).state_dict(), path)
    return path


@pytest.fixture
def train(brains, tmp_path, run):
    def start(*overlays, **keys):
        settings = {
            **{
                "dataset_dir": brains,
                "sequence": "t1c",
                "output_dir": tmp_path / "runs",
                "ckpt_dir": tmp_path / "models",
            },
            **{"device": "cpu", "budgets": {"short": BUDGET}, "train::trainer::critic_steps": 2, **keys},
        }
        return run("train", *overlays, **settings)

    return start


def test_train_validates_first_and_writes_everything(train, tmp_path, capsys):
    workflow = train(**SMALL)
    folder = tmp_path / "runs" / "short-1"
    for name in ("best.pt", "last.pt", "scores.csv", "terms.csv", "config.json", "panels", "tensorboard"):
        assert (folder / name).exists(), name
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["setting"]) for row in rows] == [(e, s) for e in "012" for s in ("3%", "9%")]
    assert float(rows[0]["baseline_psnr_foreground"]) == pytest.approx(30.5, abs=1.5)
    assert float(rows[1]["baseline_psnr_foreground"]) == pytest.approx(21, abs=1.5)
    assert "ncc_whole" in rows[0]
    out = capsys.readouterr().out
    for text in ("budget:", "expected:", "summary:", "noisy", "gain"):
        assert text in out
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert isinstance(trainer, AdversarialTrainer)
    assert not workflow.check_properties()  # what the Model Zoo wants to find
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["epoch"] == 2
    assert state["discriminator"]
    assert state["average"]
    with (folder / "terms.csv").open(encoding="utf-8") as file:
        names = {(row["epoch"], row["term"]) for row in csv.DictReader(file)}
    assert ("1", "loss_ms_ssim") in names
    assert ("1", "adversarial") not in names  # the warm-up
    assert ("2", "gradient_penalty") in names
    assert not (tmp_path / "models").exists()  # weights of another objective do not replace the bundle's own


def test_better_weights_become_the_bundle_s_own(train, tmp_path):
    train(objective="relative", **SMALL)
    assert (tmp_path / "models" / "model.pt").is_file()


def test_resumed_run_has_the_same_weights(train, tmp_path):
    train(run_name="straight", promote=False, **SMALL)
    stopped = {"train::trainer::max_epochs": 1}
    train(run_name="broken", promote=False, **SMALL, **stopped)
    train(run_name="broken", promote=False, resume="true", **SMALL)
    straight, resumed = (torch.load(tmp_path / "runs" / n / "last.pt") for n in ("straight", "broken"))
    for part in ("network", "discriminator", "average"):
        assert all(torch.equal(v, resumed[part][k]) for k, v in straight[part].items())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_trains(train, tmp_path, overlay):
    budget = {**BUDGET, "val_crop": 8, "warmup": 0}
    keys = {"filters": 2, "budget": "short", "budgets": {"short": budget}}
    objective = {"objective": "relative"} if overlay == "shipped_weights" else {}
    workflow = train(overlay, from_scratch="true", **keys, **objective)
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert trainer.stage(2) == ("generator" if overlay in ("cnn_l1", "shipped_weights") else "both")
    assert not (tmp_path / "models" / "model.pt").exists()


def test_evaluation_compares_four_methods_at_five_levels(brains, weights, tmp_path, run):
    keys = {"dataset_dir": brains, "sequence": "t1n", "output_dir": tmp_path, "weights": weights, "crop": 10}
    run("train", "evaluate", device="cpu", **keys)
    table = (tmp_path / "evaluation-1" / "scores.md").read_text(encoding="utf-8")
    for method in ("noisy", "gaussian", "nlm", "network"):
        assert table.count(f"| {method} ") == 20  # three cases and the mean, at five levels
    assert "mean ± sd of 3" in table
    assert "ncc_foreground" in table


def test_one_fixed_level(brains, weights, tmp_path, capsys, run):
    keys = {"dataset_dir": brains, "sequence": "t1n", "output_dir": tmp_path, "weights": weights, "crop": 8}
    run("train", "evaluate", device="cpu", noise_level="5", classical="false", **keys)
    with (tmp_path / "evaluation-1" / "scores.csv").open(encoding="utf-8") as file:
        assert {row["setting"] for row in csv.DictReader(file)} == {"5%"}
    assert " on 3 volume(s), noise 5 %; " in capsys.readouterr().out


def scan(path, shape=(20, 18, 14), shift=0.0):
    random = np.random.default_rng(0)
    axis = [np.arange(n) - n / 2 for n in shape]
    inside = sum((a / n * 2.6) ** 2 for a, n in zip(np.meshgrid(*axis, indexing="ij"), shape, strict=True)) < 1
    image = np.hypot(700.0 * inside + 40 * random.standard_normal(shape), 40 * random.standard_normal(shape)) + shift
    affine = np.array([[0, -1.1, 0, 5], [0.9, 0, 0.1, -7], [0, 0.1, 2.0, 3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), path)
    return image, affine


def test_inference_keeps_grid_and_units_and_saves_the_residual(weights, tmp_path, capsys, run):
    image, affine = scan(tmp_path / "one.nii.gz")
    keys = {"dataset_dir": tmp_path / "one.nii.gz", "output_dir": tmp_path / "out", "weights": weights}
    run("inference", device="cpu", save_residual="true", **keys)
    assert "noise level about" in capsys.readouterr().out
    result = nib.load(tmp_path / "out" / "one_denoised.nii.gz")
    np.testing.assert_allclose(result.affine, affine, atol=1e-4)
    restored = result.get_fdata()
    # these weights hand the image on
    np.testing.assert_allclose(restored, np.clip(image, np.percentile(image, 0.1), None), atol=1.0)
    residual = nib.load(tmp_path / "out" / "one_residual.nii.gz").get_fdata()
    np.testing.assert_allclose(residual + restored, image, atol=1e-2)
    facts = json.loads((tmp_path / "out" / "one_denoised.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert facts["bundle"] == "rslm_denoise"
    assert facts["input"] == "one.nii.gz"


def test_a_dicom_series_is_denoised_on_its_own_grid(weights, tmp_path, write_dicom, run):
    voxels = np.random.default_rng(0).integers(0, 900, (6, 20, 18)).astype(np.int16)
    write_dicom(tmp_path / "in" / "patient.1", voxels)
    run("inference", device="cpu", dataset_dir=tmp_path / "in", output_dir=tmp_path / "out", weights=weights)
    result = nib.load(tmp_path / "out" / "patient.1_denoised.nii.gz")
    assert result.shape == (18, 20, 6)
    np.testing.assert_allclose(result.affine[:3, 3], [9, -4, 0], atol=1e-4)  # LPS to RAS
    expected = voxels.transpose(2, 1, 0)
    inside = (expected > 20) & (expected < 880)  # the weights hand the image on, within its robust range
    np.testing.assert_allclose(result.get_fdata()[inside], expected[inside], atol=1.0)


def test_a_case_that_fails_does_not_stop_the_others(weights, tmp_path, run):
    folder = tmp_path / "in"
    folder.mkdir()
    scan(folder / "good.nii.gz")
    nib.save(nib.Nifti1Image(np.full((9, 9, 9), np.nan, np.float32), np.eye(4)), folder / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5, 3), np.float32), np.eye(4)), folder / "series.nii.gz")
    with pytest.raises((SystemExit, RuntimeError)):
        run("inference", device="cpu", dataset_dir=folder, output_dir=tmp_path / "out", weights=weights)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["good_denoised.nii.gz"]
    with pytest.raises((SystemExit, RuntimeError)):
        run("inference", device="cpu", dataset_dir=tmp_path / "none", output_dir=tmp_path, weights=weights)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"tau": 1.5}, "tau must be a number from 0 up to 1"),
        ({"noise_level": 0}, "noise_level must be"),
        ({"noise_level": "[1,-3]"}, "noise_level must be"),
        ({"patch_size": 29}, "larger than the volume"),
        ({"patch_size": "[12,12,26]"}, "24 slices are fewer than the patch's 26"),
        ({"patch_size": 2}, "patch_size must be"),
        ({"budget": "huge"}, "budget 'huge' is unknown"),
        ({"dataset_dir": "/nowhere"}, "no such file or folder"),
        ({"train::trainer::critic_steps": 40}, "one training step takes 41"),
    ],
)
def test_input_that_cannot_work_is_named_in_one_line(train, keys, text, line_of):
    with pytest.raises(Exception) as error:
        train(**{**SMALL, **keys})
    assert text in line_of(error)
    assert "\n" not in line_of(error)


def test_flips_are_averaged_and_their_spread_saved(tmp_path, run, line_of):
    image, _ = scan(tmp_path / "one.nii.gz")
    keys = {"dataset_dir": tmp_path / "one.nii.gz", "output_dir": tmp_path / "out", "weights": tmp_path / "random.pt"}
    torch.manual_seed(0)
    torch.save(Generator(4, SIZES, residual=True).state_dict(), tmp_path / "random.pt")
    with pytest.raises(Exception) as error:
        run("inference", device="cpu", save_std="true", **keys)
    assert "needs --tta true" in line_of(error)
    run("inference", device="cpu", tta="true", save_std="true", save_residual="true", **keys)
    mean, std, residual = (
        nib.load(tmp_path / "out" / f"one_{name}.nii.gz").get_fdata() for name in ("denoised", "std", "residual")
    )
    np.testing.assert_allclose(mean + residual, image, atol=0.05)
    assert (std >= 0).all() and 0 < std.mean() < np.ptp(image)
    facts = json.loads((tmp_path / "out" / "one_denoised.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert facts["settings"]["tta"] is True


def test_weights_that_contradict_a_key_are_named(train, weights, line_of):
    with pytest.raises(Exception) as error:
        train(filters=6, weights=weights)
    assert "holds a network with filters 4, not 6" in line_of(error)


@pytest.mark.parametrize(("budget", "filters", "layers"), [("paper", 32, 9), ("short", 32, 10), ("sample", 32, 10)])
def test_from_random_weights_the_budget_decides(budget, filters, layers):
    parser = ConfigParser()
    parser.read_config([CONFIGS / "train.json"])
    parser.update({"budget": budget, "from_scratch": "true"})
    form = Generator.form_of(parser.get_parsed_content("network_def").state_dict())
    assert (form["filters"], len(form["filter_sizes"]), form["residual"]) == (filters, layers, budget != "paper")


@pytest.mark.parametrize("name", ["model.pt", "paper_objective.pt"])
def test_shipped_weights_fit(name):
    path = BUNDLE / "models" / name
    if not path.is_file():
        pytest.skip("this checkout has no weights")
    network = Generator(**Generator.form_of(load_flat(path)))
    network.load_state_dict(load_flat(path))
    assert path.stat().st_size < 2e6
    assert multiplications(network) <= 4e5


def test_configurations_are_short():
    assert len((CONFIGS / "train.json").read_text(encoding="utf-8").splitlines()) <= 400
    assert all(len((CONFIGS / f"{name}.json").read_text(encoding="utf-8").splitlines()) <= 40 for name in OVERLAYS)
