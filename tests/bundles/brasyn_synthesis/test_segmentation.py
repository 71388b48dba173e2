# SPDX-License-Identifier: Apache-2.0
"""Dice of a segmentation with the real and with the made sequence: by this bundle's segmenter and a foreign one."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import pytest
import torch

import brasyn_synthesis_lib
from brasyn_synthesis_lib.data import SEQUENCES, training_cases
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.segmentation import (
    NORMALISE,
    REGIONS,
    Segmenter,
    SegmenterPatches,
    TumourDice,
    regions_of,
    segmented_entries,
)
from brasyn_synthesis_lib.standardisation import fit
from common.errors import InputError

CONFIGS = Path(brasyn_synthesis_lib.__file__).parents[1] / "configs"
BRAIN = (28, 30, 24)  # voxels
BUDGET = {"epochs": 2, "patches": 4, "batch_size": 2, "patch_size": 16, "learning_rate": 0.01, "val_volumes": 1}
ZOO = ["T1c", "T1", "T2", "FLAIR"], ["Tumor core", "Whole tumor", "Enhancing tumor"]


def foreign_bundle(folder, seen, inputs=ZOO[0], outputs=ZOO[1], channels=4):
    """A bundle in the Model Zoo's form whose network takes for tumour, all regions, what is bright in one channel."""
    network = torch.nn.Conv3d(channels, len(outputs), 1)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[:, inputs.index(seen)] = 1
        network.bias.fill_(-0.5)  # standard deviations above the mean
    definition = {"_target_": "torch.nn.Conv3d", "in_channels": 4, "out_channels": "@regions", "kernel_size": 1}
    config = {"regions": len(outputs), "network_def": definition}
    formats = {"inputs": {"image": inputs}, "outputs": {"pred": outputs}}
    formats = {
        side: {key: {"channel_def": {str(i): name for i, name in enumerate(names)}} for key, names in parts.items()}
        for side, parts in formats.items()
    }
    for name, content in (("inference", config), ("metadata", {"network_data_format": formats})):
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, brains):
    """Weights that make t1c as a linear combination of the inputs."""
    folder = tmp_path_factory.mktemp("bundle") / "models"
    folder.mkdir()
    network = Generator(9, 2, 3)
    network.start_linear([0.5, 0.3, 0.2], 0)
    fit(training_cases(brains), "t1c").write(network)
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


def scores(folder):
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("enhancing", [3, 4])
def test_regions_by_the_labels_of_before_and_since_2023(enhancing):
    labels = torch.tensor([0, 1, 2, enhancing]).reshape(1, 4, 1, 1)
    core, whole, rim = regions_of(labels).flatten(1).tolist()
    assert core == [False, True, False, True]
    assert whole == [False, True, True, True]
    assert rim == [False, False, False, True]


def test_a_cavity_is_no_tumour():
    labels = torch.tensor([2, 3, 4]).reshape(1, 3, 1, 1)
    assert regions_of(labels)[1].flatten().tolist() == [True, True, False]


def test_dice_is_the_mean_over_the_regions_that_the_truth_has():
    metric = TumourDice()
    truth, found = torch.zeros(2, 1, 3, 8, 1, 1)
    truth[0, 0, :4], truth[0, 1, :6] = 1, 1  # no third region
    found[0, 0, 2:6], found[0, 1, :6], found[0, 2, :3] = 1, 1, 1
    metric(found, truth)
    metric(found, torch.zeros_like(truth))
    assert metric.get_buffer()[0].item() == pytest.approx((0.5 + 1) / 2)
    assert metric.get_buffer()[1].isnan()
    assert metric.aggregate().item() == pytest.approx(0.75)


def test_a_foreign_bundle_s_channels_go_by_their_names(tmp_path):
    random = torch.Generator().manual_seed(0)
    images = {name: torch.rand(6, 7, 5, generator=random) + 0.1 for name in SEQUENCES}
    seg = torch.tensor([0, 1, 2, 3, 0]).expand(1, 6, 7, 5)
    inputs, outputs = ["FLAIR", "t1ce", "T1", "T2w"], ["Whole tumor", "Enhancing tumor"]
    for seen, name in (("FLAIR", "t2f"), ("t1ce", "t1c")):
        segmenter = Segmenter(foreign_bundle(tmp_path / name, seen, inputs, outputs))
        assert segmenter.regions == ["whole tumour", "enhancing tumour"]
        found = segmenter({**images, name: 1000 * images[name]})  # units do not matter
        assert found.shape == (2, 6, 7, 5)
        assert torch.equal(found[0], NORMALISE(images[name][None])[0] > 0.5)
        assert torch.equal(segmenter.truth(seg), regions_of(seg)[[1, 2]])


@pytest.mark.parametrize(("seen", "same"), [("FLAIR", True), ("T1c", False)])
def test_evaluation_tells_the_dice_of_a_bundle_s_segmentation(brains, models, tmp_path, run, capsys, seen, same):
    keys = {"dataset_dir": brains, "output_dir": tmp_path, "ckpt_dir": models, "views": 1, "run_name": "scored"}
    run("train", "evaluate", segmenter=foreign_bundle(tmp_path / "zoo", seen), **keys)
    rows = scores(tmp_path / "scored")
    assert len(rows) == 3
    for row in rows:
        assert 0 < float(row["dice_real"]) < 1
        for prefix in ("", "baseline_", "regression_", "one_view_"):
            assert (row[f"{prefix}dice_synthesised"] == row["dice_real"]) == same
    table = capsys.readouterr().out
    assert "dice_real" in table and "dice_synthesised" in table
    page = (tmp_path / "scored" / "report.html").read_text(encoding="utf-8")
    assert "Dice, real" in page and "Dice, synthesised" in page


def test_without_a_segmenter_there_is_no_dice(brains, models, tmp_path, run):
    keys = {"dataset_dir": brains, "output_dir": tmp_path, "ckpt_dir": models, "views": 1, "slices": 4}
    run("train", "evaluate", run_name="plain", **keys)
    assert not any("dice" in name for name in scores(tmp_path / "plain")[0])


def test_the_own_segmenter_trains_resumes_and_judges_the_made_sequence(brains, models, tmp_path, run, capsys):
    keys = {"dataset_dir": brains, "output_dir": tmp_path / "runs", "ckpt_dir": tmp_path, "budgets": {"short": BUDGET}}
    run("train_segmenter", run_name="straight", promote=True, **keys)
    run("train_segmenter", run_name="broken", train__trainer__max_epochs=1, **keys)
    run("train_segmenter", run_name="broken", resume=True, **keys)
    straight, broken = (torch.load(tmp_path / "runs" / name / "last.pt")["network"] for name in ("straight", "broken"))
    assert all(torch.equal(tensor, broken[key]) for key, tensor in straight.items())
    assert "all of the brain" in capsys.readouterr().out
    assert {"dice", "baseline_dice"} <= set(scores(tmp_path / "runs" / "straight")[0])
    weights = tmp_path / "segmenter" / "model.pt"  # promoted
    assert Segmenter(weights).regions == list(REGIONS)
    judged = {"dataset_dir": brains, "output_dir": tmp_path, "ckpt_dir": models, "views": 1, "slices": 12}
    run("train", "evaluate", segmenter=weights, run_name="judged", **judged)
    assert all(math.isfinite(float(row["dice_real"])) for row in scores(tmp_path / "judged"))


def test_a_run_s_split_file_evaluates_what_that_training_held_out(brains, models, tmp_path, run):
    keys = {"dataset_dir": brains, "ckpt_dir": models}
    budgets = {"short": {"epochs": 1, "patches": 2, "batch_size": 1, "patch_size": 24, "learning_rate": 0.001}}
    budgets["short"] |= {"halve_every": 1, "val_slices": 4}
    run("train", output_dir=tmp_path, run_name="run", budgets=budgets, discriminator_width=2, **keys)
    split = tmp_path / "run" / "split.json"
    parts = json.loads(split.read_text(encoding="utf-8"))
    run("train", "evaluate", output_dir=tmp_path, run_name="held_out", split=split, views=1, slices=4, **keys)
    run("train", "evaluate", output_dir=tmp_path, run_name="all", views=1, slices=4, **keys)
    assert [row["case"] for row in scores(tmp_path / "held_out")] == parts["validate"]
    assert {row["case"] for row in scores(tmp_path / "all")} == {*parts["train"], *parts["validate"]}


def test_samples_follow_from_seed_epoch_and_index():
    from monai.transforms import Compose, RandSpatialCropd

    volumes = [{"image": torch.rand(4, 12, 12, 12), "label": torch.rand(3, 12, 12, 12)} for _ in range(2)]
    crop = Compose([RandSpatialCropd(["image", "label"], (6, 6, 6), random_size=False)])
    data = SegmenterPatches(volumes, crop, 4, seed=1)
    first = [data[index] for index in range(4)]
    assert torch.equal(data[2]["image"], first[2]["image"]) and first[0]["image"].shape == (4, 6, 6, 6)
    data.set_epoch(1)
    assert not torch.equal(data[2]["image"], first[2]["image"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: shutil.rmtree(folder / "configs"), "no MONAI bundle: it has no configs/inference.json"),
        (lambda folder: (folder / "configs" / "metadata.json").unlink(), "does not name the channels"),
        (lambda folder: (folder / "configs" / "inference.json").write_text("{}"), "gives no network to segment with"),
        (lambda folder: (folder / "models" / "model.pt").unlink(), "no such weights file"),
        (lambda folder: torch.save({"a": torch.ones(1)}, folder / "models" / "model.pt"), "another network shape"),
    ],
)
def test_what_is_no_segmenter_is_named_in_one_line(tmp_path, change, text):
    change(foreign_bundle(tmp_path / "zoo", "T1"))
    with pytest.raises(InputError, match=text) as error:
        Segmenter(tmp_path / "zoo")
    assert "zoo" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("names", [(["T1c", "T1", "T2", "PD"], ZOO[1]), (ZOO[0], ["Spleen"]), (ZOO[0][:3], ZOO[1])])
def test_a_bundle_for_other_images_is_refused(tmp_path, names):
    inputs, outputs = names
    with pytest.raises(InputError, match=r"metadata\.json"):
        Segmenter(foreign_bundle(tmp_path / "zoo", "T1", inputs, outputs))


def test_cases_without_a_segmentation_train_no_segmenter(brains, tmp_path):
    shutil.copytree(brains, tmp_path / "in")
    first, *others = sorted((tmp_path / "in").rglob("*-seg.nii.gz"))
    first.unlink()
    parts = segmented_entries(str(tmp_path / "in"), "**/*.nii*", val_fraction=0.5, seed=0)
    assert len(parts["train"] + parts["validate"]) == 2
    for path in others:
        path.unlink()
    with pytest.raises(InputError, match="no case has a segmentation"):
        segmented_entries(str(tmp_path / "in"), "**/*.nii*", val_fraction=0.5, seed=0)


def test_labels_that_brats_does_not_have_stop_the_training(brains, tmp_path, run, line_of):
    shutil.copytree(brains, tmp_path / "in")
    path = sorted((tmp_path / "in").rglob("*-seg.nii.gz"))[0]
    image = nib.load(path)
    voxels = image.get_fdata()
    voxels[3, 4, 5] = 7
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    with pytest.raises(Exception) as error:
        run("train_segmenter", dataset_dir=tmp_path / "in", output_dir=tmp_path, budgets={"short": BUDGET})
    assert line_of(error).startswith(str(path)) and "unknown labels [7.0]" in line_of(error)
