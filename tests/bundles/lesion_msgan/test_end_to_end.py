# SPDX-License-Identifier: Apache-2.0
"""lesion_msgan from config to file, in this process, on tiny data and with few filters."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

import lesion_msgan_lib
from common.engine.trainers import AdversarialTrainer
from common.io.weights import build, load_into
from lesion_msgan_lib.detection import LesionDetector
from lesion_msgan_lib.networks import MultiScaleGenerator

BUNDLE = Path(lesion_msgan_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
BRAIN = (48, 52, 24)  # voxels
BUDGET = {"network": {"filters": 4, "blocks": 1, "middle_blocks": 1}, "epochs": 1, "pretraining": 1}
BUDGET |= {"patches": 8, "batch_size": 2, "patch_size": 32, "learning_rate": 0.001, "fine_tuning_rate": 0.0005}
BUDGET |= {"critic_filters": [4, 4, 8], "critic_units": 8, "schedule": "cosine", "val_volumes": 1, "val_slices": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained network, which is bicubic interpolation."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(MultiScaleGenerator(4, 1, 1).state_dict(), path)
    return path


@pytest.fixture
def train(brains, tmp_path, run):
    def start(*overlays, **keys):
        settings = {
            **{"dataset_dir": brains, "sequence": "t1c", "output_dir": tmp_path / "runs"},
            **{"ckpt_dir": tmp_path / "models", "device": "cpu", "budgets": {"short": BUDGET}},
            **{"from_scratch": True, "degradation": "bicubic", "promote": True},
            **keys,
        }
        return run("train", *overlays, **settings)

    return start


@pytest.fixture
def infer(weights, tmp_path, run):
    def start(source, **keys):
        settings = {"output_dir": tmp_path / "out", "weights": weights, "detector_weights": tmp_path / "none.pt"}
        return run("inference", device="cpu", dataset_dir=source, **{**settings, **keys})

    return start


def test_train_validates_first_and_writes_everything(train, tmp_path, capsys):
    workflow = train()
    folder = tmp_path / "runs" / "short-1"
    for name in ("best.pt", "last.pt", "scores.csv", "terms.csv", "config.json", "report.html", "tensorboard"):
        assert (folder / name).exists(), name
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["setting"]) for row in rows] == [(e, "x4 bicubic") for e in "001122"]
    for name in ("psnr", "ssim", "gms"):  # the untrained network is the baseline
        assert float(rows[0][f"{name}_region"]) == pytest.approx(float(rows[0][f"baseline_{name}_region"]), abs=1e-4)
    out = capsys.readouterr().out
    for text in ("budget:", "2 slices of 1 volumes", "summary:", "bicubic", "gain", "slice(s)"):
        assert text in out
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert isinstance(trainer, AdversarialTrainer)
    assert not workflow.check_properties()  # what the Model Zoo wants to find
    with (folder / "terms.csv").open(encoding="utf-8") as file:
        names = {(row["epoch"], row["term"]) for row in csv.DictReader(file)}
    assert {("1", "loss_mse_x2"), ("1", "loss_mse_x4"), ("2", "gradient_penalty")} <= names
    assert not {("1", "adversarial"), ("1", "loss_vgg")} & names  # the pre-training; no weights for the VGG term
    assert (tmp_path / "models" / "model.pt").is_file()


def test_resumed_run_has_the_same_weights(train, tmp_path):
    train(run_name="straight", promote=False)
    train(run_name="broken", promote=False, **{"train::trainer::max_epochs": 1})
    train(run_name="broken", promote=False, resume="true")
    straight, resumed = (torch.load(tmp_path / "runs" / n / "last.pt") for n in ("straight", "broken"))
    for part in ("network", "discriminator"):
        assert all(torch.equal(v, resumed[part][k]) for k, v in straight[part].items())


def test_the_number_of_workers_changes_nothing(train, tmp_path):
    for number in (0, 2):
        train(run_name=f"workers{number}", promote=False, num_workers=number)
    none, two = (torch.load(tmp_path / "runs" / f"workers{n}" / "last.pt") for n in (0, 2))
    for part in ("network", "discriminator"):
        assert all(torch.equal(v, two[part][k]) for k, v in none[part].items())
    subjects = json.loads((tmp_path / "runs" / "workers2" / "split.json").read_text(encoding="utf-8"))
    assert len(subjects["train"]) == 2 and len(subjects["validate"]) == 1  # --split takes it


def test_the_detector_trains_is_scored_and_finds_a_region(brains, infer, tmp_path, run):
    budget = {"epochs": 1, "patches": 16, "batch_size": 4, "patch_size": 32, "learning_rate": 0.01}
    budget |= {"val_volumes": 1, "val_step": 4}
    keys = {"dataset_dir": brains, "sequence": "t1c", "output_dir": tmp_path / "runs", "device": "cpu"}
    keys |= {"ckpt_dir": tmp_path / "models", "budgets": {"short": budget, "shipped": budget}}
    run("train_detector", from_scratch=True, promote=True, **keys)
    folder = tmp_path / "runs" / "detector-short-1"
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert {"dice", "covered", "baseline_dice", "baseline_covered"} <= row.keys()
    assert float(row["baseline_covered"]) > 0.95
    weights = tmp_path / "models" / "detector" / "model.pt"
    load_into(build(LesionDetector, weights, {}), weights)
    infer(save_scan(tmp_path / "one.nii.gz")[0], detector_weights=weights, detector="network")
    facts = json.loads((tmp_path / "out" / "one_sr.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert "network" in facts["region_from"]
    for file, network in (("model.pt", MultiScaleGenerator(4, 1, 1)),):
        torch.save(network.state_dict(), tmp_path / "models" / file)
    run("train", "evaluate", detector="network", run_name="both", slices=2, **keys, **{"budgets::short": BUDGET})
    rows = (tmp_path / "runs" / "both" / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 3 * 2 * 3  # volumes, slices, ways
    run("train", detector="network", run_name="on_found", **keys, **{"budgets::short": BUDGET})
    assert (tmp_path / "runs" / "on_found" / "best.pt").is_file()
    run("train_detector", "evaluate_detector", run_name="scored", **keys)
    table = (tmp_path / "runs" / "scored" / "report.html").read_text(encoding="utf-8")
    assert all(text in table for text in ("Covered", "network", "foreground"))
    before = weights.read_bytes()
    run("train_detector", "shipped_detector", run_name="shipped", detector="mask", **keys)
    assert (tmp_path / "runs" / "shipped" / "best.pt").is_file() and weights.read_bytes() == before


def save_scan(path, shape=(20, 22, 6), spot=(8, 12, 9, 13), dtype=np.float32):
    random = np.random.default_rng(0)
    image = 500 + 50 * random.standard_normal(shape)
    image[:2] = 0
    affine = np.array([[0, -1.1, 0, 5], [0.9, 0, 0.1, -7], [0, 0.1, 2.0, 3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(image.astype(dtype), affine), path)
    mask = np.zeros(shape, np.uint8)
    mask[spot[0] : spot[1], spot[2] : spot[3]] = 1
    name = path.name.replace(".nii.gz", "")
    nib.save(nib.Nifti1Image(mask, affine), path.with_name(f"{name}-seg.nii.gz"))
    return path, image.astype(np.float32), affine


def bicubic(image):
    """``(H, W, D)`` four times as fine in the plane."""
    slices = torch.as_tensor(image).movedim(-1, 0)[:, None]
    return F.interpolate(slices, scale_factor=4, mode="bicubic", align_corners=False)[:, 0].movedim(0, -1).numpy()


def test_a_volume_comes_back_with_units_and_affine(infer, tmp_path):
    path, image, affine = save_scan(tmp_path / "one.nii.gz")
    infer(path, mask=tmp_path / "one-seg.nii.gz")
    whole, part = (nib.load(tmp_path / "out" / f"one_{name}.nii.gz") for name in ("sr", "sr_region"))
    assert whole.shape == (80, 88, 6)
    # the untrained network interpolates; away from the image's border it does so in the region alone too
    np.testing.assert_allclose(whole.get_fdata(), bicubic(image), atol=0.05)
    corner = np.array([-0.5, -0.5, -0.5])
    np.testing.assert_allclose(
        whole.affine[:3, :3] @ corner + whole.affine[:3, 3], affine[:3, :3] @ corner + affine[:3, 3], atol=1e-4
    )
    spacing = np.linalg.norm(whole.affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing[:2] * 4, [0.9, np.hypot(1.1, 0.1)], atol=1e-4)
    assert part.shape == (32, 32, 6)
    start = np.linalg.inv(whole.affine)[:3] @ np.append(part.affine[:3, 3], 1)
    first = np.rint(start).astype(int)
    np.testing.assert_allclose(start, first, atol=1e-4)
    window = tuple(slice(a, a + n) for a, n in zip(first, part.shape, strict=True))
    np.testing.assert_array_equal(part.get_fdata(), whole.get_fdata()[window])
    facts = json.loads((tmp_path / "out" / "one_sr.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert facts["bundle"] == "lesion_msgan" and facts["region_from"] == "mask" and facts["input"] == "one.nii.gz"
    assert [[4 * a, 4 * b] for a, b in facts["region"][:2]] == [[int(s.start), int(s.stop)] for s in window[:2]]
    assert b"not for diagnosis" in whole.header["descrip"].tobytes()


def test_the_x2_image_has_half_the_grid_and_the_same_corner(infer, tmp_path):
    path, image, affine = save_scan(tmp_path / "one.nii.gz")
    infer(path, mask=tmp_path / "one-seg.nii.gz", factor=2)
    whole, part = (nib.load(tmp_path / "out" / f"one_{name}.nii.gz") for name in ("sr", "sr_region"))
    assert whole.shape == (40, 44, 6) and part.shape == (16, 16, 6)
    slices = torch.as_tensor(image).movedim(-1, 0)[:, None]
    expected = F.interpolate(slices, scale_factor=2, mode="bicubic", align_corners=False)[:, 0].movedim(0, -1)
    np.testing.assert_allclose(whole.get_fdata(), expected.numpy(), atol=0.05)  # of an untrained network
    corner = np.array([-0.5, -0.5, -0.5])
    np.testing.assert_allclose(
        whole.affine[:3, :3] @ corner + whole.affine[:3, 3], affine[:3, :3] @ corner + affine[:3, 3], atol=1e-4
    )


def test_the_spread_over_the_orientations_lies_in_the_region_in_the_scans_units(infer, tmp_path):
    path, _, _ = save_scan(tmp_path / "one.nii.gz")
    torch.manual_seed(0)
    network = MultiScaleGenerator(4, 1, 1)
    with torch.no_grad():
        network.head_x4.weight.normal_(std=0.05)  # depends on the orientation
    torch.save(network.state_dict(), tmp_path / "lively.pt")
    keys = {"mask": tmp_path / "one-seg.nii.gz", "weights": tmp_path / "lively.pt"}
    infer(path, save_std=True, **keys)
    whole, spread, part = (nib.load(tmp_path / "out" / f"one_{n}.nii.gz") for n in ("sr", "sr_std", "sr_region"))
    assert spread.shape == whole.shape and np.allclose(spread.affine, whole.affine)
    start = np.rint(np.linalg.inv(whole.affine)[:3] @ np.append(part.affine[:3, 3], 1)).astype(int)
    inside = np.zeros(whole.shape, bool)
    inside[tuple(slice(max(0, a - 8), a + n + 8) for a, n in zip(start, part.shape, strict=True))] = True
    std = spread.get_fdata()
    assert std[inside].mean() > 0.1 and not std[~inside].any()
    assert '"uncertainty"' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_folder_with_masks_beside_the_scans_and_one_slice(infer, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    save_scan(folder / "a-t1c.nii.gz")
    (folder / "a-t1c-seg.nii.gz").rename(folder / "a-seg.nii.gz")
    flat = np.random.default_rng(1).random((17, 19), np.float32) * 900
    nib.save(nib.Nifti1Image(flat, np.diag([2, 3, 1, 1.0])), folder / "b-t1c.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((17, 19), np.uint8), np.diag([2, 3, 1, 1.0])), folder / "b-seg.nii.gz")
    infer(folder, mask="seg")
    names = sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz"))
    assert names == [f"{n}-t1c_{kind}.nii.gz" for n in "ab" for kind in ("sr", "sr_region")]
    result = nib.load(tmp_path / "out" / "b-t1c_sr.nii.gz")
    assert result.shape[:2] == (68, 76) and result.header.get_zooms()[:2] == pytest.approx((0.5, 0.75))
    np.testing.assert_allclose(result.get_fdata().reshape(68, 76), bicubic(flat[..., None])[..., 0], atol=0.05)
    facts = json.loads((tmp_path / "out" / "b-t1c_sr.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert facts["region_from"] == "foreground, no lesion found by mask"
    assert "no lesion found" in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "kind"), [("L", np.uint8), ("RGB", np.uint8), ("I;16", np.uint16)])
def test_pictures_come_back_as_pictures(infer, tmp_path, mode, kind):
    random = np.random.default_rng(0)
    low = 200 if kind == np.uint8 else 40000
    grey = np.zeros((18, 25), kind)
    grey[3:15, 4:22] = random.integers(low // 2, low, (12, 18))
    picture = Image.fromarray(grey) if mode != "RGB" else Image.fromarray(np.stack([grey] * 3, axis=-1))
    assert picture.mode == mode
    picture.save(tmp_path / "slice.png")
    spot = np.zeros((18, 25), np.uint8)
    spot[5:8, 14:20] = 255
    Image.fromarray(spot).save(tmp_path / "mask.png")
    infer(tmp_path / "slice.png", mask=tmp_path / "mask.png")
    whole, part = (np.asarray(Image.open(tmp_path / "out" / f"slice_{name}.png")) for name in ("sr", "sr_region"))
    assert whole.dtype == kind and whole.shape == (72, 100) and part.shape == (40, 40)
    expected = np.clip(np.rint(bicubic(grey[..., None].astype(np.float32))[..., 0]), 0, None)
    assert np.abs(whole.astype(int) - expected).max() <= 1
    # rows 1.5 to 11.5 around the mask's middle, columns 12 to 22
    found = [(y, x) for y in range(0, 33, 4) for x in range(0, 61, 4) if (whole[y : y + 40, x : x + 40] == part).all()]
    assert found == [(4, 48)]
    facts = json.loads((tmp_path / "out" / "slice_sr.png.provenance.json").read_text(encoding="utf-8"))
    assert facts["region_from"] == "mask"


def test_without_a_folder_a_sample_case_is_done(infer, tmp_path, monkeypatch, brains):
    monkeypatch.setattr(lesion_msgan_lib.cases, "sample_brains", lambda: brains)
    infer("null")
    result = nib.load(tmp_path / "out" / "sample-t1c_sr.nii.gz")
    assert result.shape[:2] == (48, 52)
    facts = json.loads((tmp_path / "out" / "sample-t1c_sr.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert facts["region_from"] == "mask"


def test_a_dicom_series(infer, tmp_path, write_dicom):
    voxels = np.random.default_rng(0).integers(100, 900, (6, 20, 18)).astype(np.int16)
    write_dicom(tmp_path / "in" / "patient", voxels)
    infer(tmp_path / "in")
    assert nib.load(tmp_path / "out" / "patient_sr.nii.gz").shape == (72, 80, 6)


def test_a_case_that_fails_does_not_stop_the_others(infer, tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    save_scan(folder / "good.nii.gz")
    nib.save(nib.Nifti1Image(np.full((9, 9, 9), np.nan, np.float32), np.eye(4)), folder / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5, 3), np.float32), np.eye(4)), folder / "series.nii.gz")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "empty.png")  # a slice without brain
    (folder / "no.png").write_bytes(b"no picture")
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as stopped:
        infer(folder)
    assert stopped.value.code == 1
    summary = caplog.text.partition("1 of 5 cases done, 4 failed:")[2].splitlines()
    for name, reason in (
        ("nan.nii.gz", "729 voxels are NaN or infinite"),
        ("series.nii.gz", "4D image (5 x 5 x 5 x 3) where a 3D one is meant"),
        ("empty.png", "constant image: every voxel is 0"),
        ("no.png", "not a picture; PNG, JPEG, BMP can be read"),
    ):
        assert sum(f"{folder / name}: {reason}" in line for line in summary) == 1, name
    names = sorted(p.name for p in (tmp_path / "out").glob("*") if p.suffix != ".json")
    assert names == ["good_sr.nii.gz", "good_sr_region.nii.gz", "report.html"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"budget": "huge"}, "budget 'huge' is unknown"),
        ({"dataset_dir": "/nowhere"}, "no such file or folder"),
        ({"mask_name": "lesion"}, "guide sequence 'lesion' not found"),
        ({"detector": "null"}, "detector must be one of mask, any, network, foreground in training"),
        ({"detector": "network"}, "is not there; see train_detector.json"),
        ({"axis": "up"}, "axis must be sagittal or coronal or axial or 0 or 1 or 2"),
        ({"x2_weight": -1}, "x2_weight must be a number from 0"),
        ({"best_by": "eyes"}, "best_by must be psnr or ssim or gms"),
        ({"degradation": "stretch"}, "degradation must be one or several of bicubic, block, kspace"),
        ({"schedule": "linear"}, "schedule must be null or step or cosine"),
        ({"vgg_layer": "conv1_1"}, "vgg_layer must be conv5_4 or conv2_2"),
        ({"vgg_weights": "/nowhere.pt"}, "no such weights file"),
        ({"patch_size": 64}, "smaller than a patch_size of 64"),
    ],
)
def test_input_that_cannot_work_is_named_in_one_line(train, keys, text, line_of):
    with pytest.raises(Exception) as error:
        train(**keys)
    assert text in line_of(error)
    assert "\n" not in line_of(error)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"detector": "eyes"}, "detector must be null or mask or any or network or foreground"),
        ({"detector": "any"}, "detector must be one of mask, network, foreground"),
        ({"pattern": "*.mha"}, "no file matches *.mha"),
        ({"sequence": "t9"}, "names ending in t9"),
        ({"weights": "/nowhere.pt"}, "no such weights file"),
    ],
)
def test_inference_that_cannot_work_is_named_in_one_line(infer, tmp_path, keys, text, line_of):
    save_scan(tmp_path / "one-t1c.nii.gz")
    with pytest.raises(Exception) as error:
        infer(tmp_path, **keys)
    assert text in line_of(error)
