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
from monai.bundle import ConfigParser, ConfigWorkflow

import rslm_denoise_lib
from common.engine.trainers import AdversarialTrainer
from common.io.weights import load_flat
from common.utils.console import multiplications
from rslm_denoise_lib.networks import Generator

BUNDLE = Path(rslm_denoise_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
BRAIN = (28, 30, 24)  # voxels
SIZES = [[3, 3, 1], 3, 5, 3, [3, 3, 1]]
SMALL = {"from_scratch": "true", "filters": 4, "filter_sizes": SIZES, "residual": False, "init": "identity"}
BUDGET = {"epochs": 2, "patches": 4, "batch_size": 2, "patch_size": 12}
NETWORK = {"filters": 4, "filter_sizes": SIZES, "residual": True, "init": "identity"}
BUDGET |= {
    "network": NETWORK,
    "objective": "paper",
    "learning_rate": 0.001,
    "fine_tuning_rate": 0.001,
    "val_volumes": 1,
    "val_crop": 16,
}
PAPER = ("base", "cnn_l1", "wgan", "smgan_3d")
OBJECTIVES = {"shipped_weights": "relative", "shipped_weights_paper": "paper"}
SHIPPED = ("shipped_weights", "shipped_weights_paper")


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
            **{"device": "cpu", "budgets": {"short": BUDGET}, "critic_steps": 2, **keys},
        }
        return run("train", *overlays, **settings)

    return start


def test_train_validates_first_and_writes_everything(train, tmp_path, capsys):
    workflow = train(**SMALL, generator_warmup=1)
    folder = tmp_path / "runs" / "short-1"
    for name in (
        "best.pt",
        "last.pt",
        "scores.csv",
        "terms.csv",
        "split.json",
        "config.json",
        "report.html",
        "tensorboard",
    ):
        assert (folder / name).exists(), name
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["setting"]) for row in rows] == [(e, s) for e in "012" for s in ("3%", "9%")]
    assert float(rows[0]["baseline_psnr_foreground"]) == pytest.approx(30.5, abs=1.5)
    assert float(rows[1]["baseline_psnr_foreground"]) == pytest.approx(21, abs=1.5)
    assert "ncc_whole" in rows[0]
    out = capsys.readouterr().out
    for text in ("budget:", "training:", "held out:", "summary:", "noisy", "gain"):
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
    assert not (tmp_path / "models").exists()  # a run changes no tracked file unasked


def test_better_weights_become_the_bundle_s_own_where_that_is_wanted(train, tmp_path):
    train(objective="relative", promote="true", **SMALL)
    assert (tmp_path / "models" / "model.pt").is_file()


def test_the_record_of_a_run_repeats_it(brains, tmp_path, run):
    keys = {"dataset_dir": brains, "sequence": "t1c", "output_dir": tmp_path / "runs", "budgets__short": BUDGET}
    run("train", "paper/base", "paper/wgan", **keys, critic_steps=1, filters=2, run_name="first")
    folder = tmp_path / "runs" / "first"
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (record["adversarial_weight"], record["orient"], record["epochs"]) == (1, False, 2)
    (tmp_path / "again.json").write_text(json.dumps({**record, "run_name": "second"}), encoding="utf-8")
    places = {"dataset_dir": str(brains), "output_dir": str(tmp_path / "runs"), "split": str(folder / "split.json")}
    workflow = ConfigWorkflow(str(tmp_path / "again.json"), workflow_type="train", logging_file=False, **places)
    workflow.initialize()
    workflow.run()
    first, second = (load_flat(tmp_path / "runs" / name / "best.pt") for name in ("first", "second"))
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_resumed_run_has_the_same_weights(train, tmp_path):
    train(run_name="straight", promote=False, **SMALL)
    stopped = {"train::trainer::max_epochs": 1}
    train(run_name="broken", promote=False, **SMALL, **stopped)
    train(run_name="broken", promote=False, resume="true", num_workers=2, **SMALL)
    straight, resumed = (torch.load(tmp_path / "runs" / n / "last.pt") for n in ("straight", "broken"))
    for part in ("network", "discriminator", "average"):
        assert all(torch.equal(v, resumed[part][k]) for k, v in straight[part].items())


@pytest.mark.parametrize("objective", ["paper", "relative"])
def test_the_number_of_workers_changes_nothing(train, tmp_path, objective):
    for number in (0, 1, 2):
        train(run_name=f"workers{number}", num_workers=number, objective=objective, **SMALL)
    none, *others = (torch.load(tmp_path / "runs" / f"workers{n}" / "last.pt") for n in (0, 1, 2))
    for part in {"network", "discriminator", "average"} & none.keys():
        assert all(torch.equal(v, other[part][k]) for other in others for k, v in none[part].items()), part


@pytest.mark.parametrize("overlay", [*PAPER, *SHIPPED])
def test_every_overlay_trains(train, overlay):
    budgets = {"short": {**BUDGET, "val_crop": 8}}
    paper = overlay in PAPER
    keys = {"filters": 2, "from_scratch": "true", "budgets": budgets, "budget": "short"}
    overlays = ["paper/base"] * (paper and overlay != "base") + ["paper/" * paper + overlay]
    workflow = train(*overlays, **keys, **({} if paper else {"objective": OBJECTIVES[overlay]}))
    trainer = workflow.parser.get_parsed_content("train::trainer")
    alone = overlay in ("cnn_l1", "shipped_weights")
    assert trainer.stage(1) == ("generator" if alone else "both")
    assert trainer.state.iteration == 4, "generator steps, whatever the critic's"
    assert len(trainer.data_loader.loader) == (2 if alone else 6)


def test_the_paper_s_rows_have_none_of_our_additions():
    parser = ConfigParser()
    parser.read_config([CONFIGS / "train.json", CONFIGS / "paper" / "base.json"])
    parser.update({"budget": "paper", "device": "cpu"})
    parser.get_parsed_content("keys")
    wanted = {
        "ema": 0,
        "max_gradient_norm": None,
        "orient": False,
        "generator_warmup": 0,
        "keep": "last",
        "coarser": None,
    }
    wanted |= {
        "ms_ssim_weight": 0.89,
        "l1_weight": 0.11,
        "adversarial_weight": 0.001,
        "relative_weight": 0,
        "inverted": 0,
    }
    assert {key: parser[key] for key in wanted} == wanted
    degradation = parser.get_parsed_content("train::degradation")
    assert (degradation.gain, degradation.brightness, degradation.offset, degradation.masked) == ((1, 1), (1, 1), 0, 0)
    assert parser["lr_scheduler"]["_target_"].endswith("ConstantLR")
    form = Generator.form_of(parser.get_parsed_content("network_def").state_dict())
    assert form["filter_sizes"] == [[3, 3, 1], 5, 5, 5, 7, 7, 7, 3, [3, 3, 1]] and not form["residual"]


def test_evaluation_compares_four_methods_at_five_levels(brains, weights, tmp_path, capsys, run):
    keys = {"dataset_dir": brains, "sequence": "t1n", "output_dir": tmp_path, "weights": weights, "crop": 10}
    run("train", "evaluate", device="cpu", **keys)
    table = capsys.readouterr().out
    for method in ("noisy", "gaussian", "nlm", "network"):
        assert table.count(f"| {method} ") == 20  # three cases and the mean, at five levels
    assert "mean ± sd of 3" in table
    assert "ncc_foreground" in table


def test_one_fixed_level(brains, weights, tmp_path, capsys, run):
    keys = {"dataset_dir": brains, "sequence": "t1n", "output_dir": tmp_path, "weights": weights, "crop": 8}
    run("train", "evaluate", device="cpu", test_levels="5", compared="[]", **keys)
    with (tmp_path / "evaluation-1" / "scores.csv").open(encoding="utf-8") as file:
        assert {row["setting"] for row in csv.DictReader(file)} == {"5%"}
    assert "3 volumes, noise 5 %" in capsys.readouterr().out


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
        ({"tau": 1.5}, "there is no key tau"),
        ({"l1_weight": -1}, "l1_weight must be a number from 0"),
        ({"objective": "l2"}, "objective must be"),
        ({"training_levels": 0}, "training_levels must be"),
        ({"test_levels": "[1,-3]"}, "test_levels must be"),
        ({"patch_size": 29}, "28 x 30 x 24 voxels are less than a patch of 29 x 29 x 29"),
        ({"patch_size": "[12,12,26]"}, "28 x 30 x 24 voxels are less than a patch of 12 x 12 x 26"),
        ({"patch_size": 2}, "patch_size must be"),
        ({"filter_sizes": "[3,4]"}, "filter_sizes must be odd sizes"),
        ({"compared": "bm3d"}, "compared must be some of gaussian, nlm, bm4d"),
        ({"coarser": 0.5}, "coarser must be a number from 1"),
        ({"budget": "huge"}, "budget 'huge' is unknown"),
        ({"dataset_dir": "/nowhere"}, "no such file or folder"),
        ({"generator_steps": 40}, "there is no key generator_steps"),
    ],
)
def test_input_that_cannot_work_is_named_in_one_line(train, keys, text, line_of):
    with pytest.raises(Exception) as error:
        train(**{**SMALL, **keys})
    assert text in line_of(error)
    assert "\n" not in line_of(error)


def test_flips_are_averaged_and_their_spread_saved(tmp_path, run):
    image, _ = scan(tmp_path / "one.nii.gz")
    keys = {"dataset_dir": tmp_path / "one.nii.gz", "output_dir": tmp_path / "out", "weights": tmp_path / "random.pt"}
    torch.manual_seed(0)
    torch.save(Generator(4, SIZES, residual=True).state_dict(), tmp_path / "random.pt")
    run("inference", device="cpu", save_std="true", save_residual="true", **keys)
    mean, std, residual = (
        nib.load(tmp_path / "out" / f"one_{name}.nii.gz").get_fdata() for name in ("denoised", "std", "residual")
    )
    np.testing.assert_allclose(mean + residual, image, atol=0.05)
    assert (std >= 0).all() and 0 < std.mean() < np.ptp(image)
    facts = json.loads((tmp_path / "out" / "one_denoised.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert facts["settings"]["tta"] is False and facts["settings"]["save_std"] is True


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
