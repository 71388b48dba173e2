# SPDX-License-Identifier: Apache-2.0
"""brasyn_synthesis from config to file, in this process, on tiny data and with few channels."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import brasyn_synthesis_lib
from brasyn_synthesis_lib.data import SEQUENCES, inputs_of, training_cases, weights_of
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.standardisation import Standardisation, fit
from common.errors import InputError
from common.io.inputs import root_cause
from common.losses.perceptual import vgg_features

BUNDLE = Path(brasyn_synthesis_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
BRAIN = (28, 30, 24)  # voxels
SMALL = {"width": 2, "depth": 3}
BUDGET = {"epochs": 2, "patches": 8, "batch_size": 2, "patch_size": 24, "learning_rate": 0.001}
BUDGET |= {"halve_every": 10, "val_volumes": 1, "val_slices": 6}
PAPER = sorted(f"paper/{path.stem}" for path in (CONFIGS / "paper").glob("*.json"))


@pytest.fixture(scope="module")
def models(tmp_path_factory, brains):
    """Weights of all targets that start as a linear combination."""
    folder = tmp_path_factory.mktemp("bundle") / "models"
    for target in SEQUENCES:
        path = Path(weights_of(str(folder), target))
        network = Generator(9, 2, 3)
        network.start_linear([0.5, 0.3, 0.2], 0)
        fit(training_cases(brains), target).write(network)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), path)
    return folder


@pytest.fixture
def train(brains, tmp_path, run):
    def start(*overlays, **keys):
        settings = {"dataset_dir": brains, "output_dir": tmp_path / "runs", "ckpt_dir": tmp_path / "models"}
        settings |= {"budgets": {"short": BUDGET}, "discriminator_width": 4, **SMALL}
        settings["from_scratch"] = not (tmp_path / "models").exists()
        if overlays[:1] == ("shipped_weights",):
            settings["budget"] = "short"
        return run("train", *overlays, **{**settings, **keys})

    start.data = brains
    return start


def test_train_validates_first_and_writes_everything(train, tmp_path, capsys):
    workflow = train(promote=True)
    folder = tmp_path / "runs" / "short-1"
    for name in ("best.pt", "last.pt", "scores.csv", "split.json", "terms.csv", "config.json", "report.html"):
        assert (folder / name).exists(), name
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["setting"]) for row in rows] == [(e, "t1c") for e in "012"]
    for name in ("ssim_healthy", "regression_ssim_healthy", "baseline_psnr_tumour"):
        assert np.isfinite(float(rows[0][name]))
    out = capsys.readouterr().out
    for text in ("budget:", "held out:", "learning standard histograms", "best input", "regression", "gain"):
        assert text in out
    assert "starts as the linear regression" in out
    assert not workflow.check_properties()  # what the Model Zoo wants to find
    with (folder / "terms.csv").open(encoding="utf-8") as file:
        terms = {row["term"] for row in csv.DictReader(file)}
    assert {"loss_masked_l1", "loss_ssim", "loss_frequency", "adversarial", "score_gap"} <= terms
    assert not {"loss_l1", "loss_vgg"} & terms
    # promoted with its histograms, and what a next run starts from
    path = tmp_path / "models" / "model.pt"
    assert Standardisation.read(path, "t1c") == Standardisation.read(folder / "last.pt", "t1c")
    train(budgets={"short": {**BUDGET, "epochs": 1}})
    assert str(path) in capsys.readouterr().out


def test_another_target_has_its_own_file(train, tmp_path):
    train(target="flair", promote=True, budgets={"short": {**BUDGET, "epochs": 1}})
    assert (tmp_path / "models" / "targets" / "t2f.pt").is_file()
    assert not (tmp_path / "models" / "model.pt").exists()


def test_resumed_run_has_the_same_weights(train, tmp_path):
    train(run_name="straight")
    train(run_name="broken", train__trainer__max_epochs=1)
    train(run_name="broken", resume="true")
    straight, resumed = (torch.load(tmp_path / "runs" / n / "last.pt") for n in ("straight", "broken"))
    for part in ("network", "discriminator", "average"):
        assert all(torch.equal(v, resumed[part][k]) for k, v in straight[part].items())


@pytest.mark.parametrize("memory_gb", [16, 1e-6])
def test_workers_make_the_same_training(train, tmp_path, memory_gb):
    for workers in (0, 2):
        train(run_name=f"workers-{workers}", num_workers=workers, memory_gb=memory_gb, variants=1)
    none, two = (torch.load(tmp_path / "runs" / f"workers-{n}" / "last.pt") for n in (0, 2))
    for part in ("network", "discriminator", "average"):
        assert all(torch.equal(tensor, two[part][key]) for key, tensor in none[part].items())


def test_the_record_of_a_run_repeats_it(train, tmp_path, run):
    train("paper/base", "paper/table2_ssim", run_name="first", tumour_weight=0.4, keep="best")
    record = tmp_path / "runs" / "first" / "config.json"
    keys = json.loads(record.read_text(encoding="utf-8"))
    assert (keys["tumour_weight"], keys["loss_weights"]["ssim"], keys["patches"]) == (0.4, 1, 8)
    (tmp_path / "again.json").write_text(json.dumps({**keys, "run_name": "again"}), encoding="utf-8")
    places = {
        "dataset_dir": str(train.data),
        "output_dir": str(tmp_path / "runs"),
        "ckpt_dir": str(tmp_path / "models"),
    }
    run(tmp_path / "again", device="cpu", **places)
    first, again = (torch.load(tmp_path / "runs" / n / "last.pt")["network"] for n in ("first", "again"))
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())


@pytest.mark.parametrize("overlay", [*PAPER, "shipped_weights"])
def test_every_overlay_trains(train, tmp_path, overlay):
    budgets = {"short": {**BUDGET, "epochs": 1, "patches": 4}}
    keys = {}
    if "vgg" in overlay:
        keys = {"vgg_weights": vgg_file(tmp_path), "vgg_network": "vgg16"}
    papers = overlay.startswith("paper")
    workflow = train(*(["paper/base"] if papers else []), overlay, width=2, budgets=budgets, **keys)
    network = workflow.parser.get_parsed_content("network")
    assert (network.full is None, network.last_skip is None) == (papers, papers)
    trainer = workflow.parser.get_parsed_content("train::trainer")
    playing = any(word in overlay for word in ("adversarial", "combined"))  # in the first epoch
    assert trainer.stage(1) == ("both" if playing else "generator")
    assert not (tmp_path / "models" / "model.pt").exists()


def test_overlays_are_the_columns_of_the_paper_s_tables():
    base = json.loads((CONFIGS / "paper" / "base.json").read_text(encoding="utf-8"))
    assert (base["from_scratch"], base["promote"], base["keep"]) == (True, False, "last")
    assert not any(base[key] for key in ("linear_start", "full_width", "linear_skip", "jitter", "ema"))
    found = {}
    for name in PAPER:
        content = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
        assert name == "paper/base" or not content.items() & base.items(), "only what the row changes"
        content = {**base, **content}
        weights = {term: weight for term, weight in content["loss_weights"].items() if weight}
        found[name.removeprefix("paper/")] = weights | ({"adv": 1} if content["adversarial_weight"] else {})
    l1m = {"masked_l1": 1}
    assert found == {
        "base": l1m,  # table 1, L1M
        "width": l1m,
        "table1_l1": {"l1": 1},
        "table2_adversarial": l1m | {"adv": 1},
        "table2_ssim": l1m | {"ssim": 1},
        "table2_vgg": l1m | {"vgg": 1},
        "table2_frequency": l1m | {"frequency": 1},
        "table3_combined": {"masked_l1": 5, "ssim": 1, "vgg": 1, "frequency": 1, "adv": 1},
    }


def vgg_file(folder):
    """Random weights under torchvision's names."""
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg_features("vgg16", 28).state_dict().items()}
    torch.save(state, folder / "vgg16.pth")
    return folder / "vgg16.pth"


def test_the_perceptual_experiment_is_refused_without_vgg_weights(train, line_of):
    with pytest.raises(Exception) as error:
        train("paper/base", "paper/table2_vgg")
    assert isinstance(root_cause(error.value), InputError) and "--vgg_weights FILE" in line_of(error)


def test_without_vgg_weights_the_record_says_that_the_term_is_off(train, tmp_path):
    budgets = {"short": {**BUDGET, "epochs": 1, "patches": 4}}
    train("paper/base", "paper/table3_combined", width=2, budgets=budgets)
    record = json.loads((tmp_path / "runs" / "short-1" / "config.json").read_text(encoding="utf-8"))
    assert record["loss_weights"] == {"l1": 0, "masked_l1": 5, "ssim": 1, "vgg": 0, "frequency": 1}


def test_variants_are_trained_on_beside_the_cases(train):
    workflow = train(variants=2, budgets={"short": {**BUDGET, "epochs": 1, "patches": 6}})
    volumes = workflow.parser.get_parsed_content("train::dataset")
    assert len(volumes) == 2 * 3 and len(workflow.parser.get_parsed_content("validate::dataset")) == 1
    images = [volumes[i]["image"] for i in range(3)]
    assert images[0].dtype == torch.float16
    shape = [min(sides) for sides in zip(*(image.shape for image in images), strict=True)]
    images = [image[tuple(slice(n) for n in shape)] for image in images]
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])


def test_vgg_weights_switch_the_perceptual_term_on(train, tmp_path):
    budgets = {"short": {**BUDGET, "epochs": 1, "patches": 4}}
    train("paper/base", "paper/table2_vgg", vgg_weights=vgg_file(tmp_path), vgg_network="vgg16", budgets=budgets)
    with (tmp_path / "runs" / "short-1" / "terms.csv").open(encoding="utf-8") as file:
        values = [float(row["value"]) for row in csv.DictReader(file) if row["term"] == "loss_vgg"]
    assert values and min(values) > 0


def test_a_cache_on_disk_gives_the_same_training_and_serves_all_targets(train, tmp_path):
    budgets = {"short": {**BUDGET, "epochs": 1}}
    train(run_name="memory", budgets=budgets)
    train(run_name="disk", memory_gb=1e-6, budgets=budgets)
    memory, disk = (torch.load(tmp_path / "runs" / n / "last.pt")["network"] for n in ("memory", "disk"))
    assert all(torch.equal(value, disk[key]) for key, value in memory.items())
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "cache").rglob("*.pt")}
    assert len(cached) == 3  # two to train on, one held out
    for keys in ({"target": "t2w"}, {"seed": 3}, {"val_fraction": 0.6}):
        train(memory_gb=1e-6, budgets=budgets, **keys)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "cache").rglob("*.pt")} == cached


def test_evaluation_compares_one_view_and_nine_with_the_simple_methods(brains, models, tmp_path, capsys, run):
    for target in ("t1c", "t2w"):
        keys = {"dataset_dir": brains, "output_dir": tmp_path, "ckpt_dir": models, "target": target, "slices": 10}
        run("train", "evaluate", run_name=target, **keys)
        table = capsys.readouterr().out
        for method in ("best input", "regression", "one_view", "network"):
            assert table.count(f"| {method} ") == 4  # three cases and the mean
        for column in ("ssim_healthy", "ssim_tumour", "psnr_healthy", "psnr_tumour", "roughness", "drift_lesion"):
            assert column in table
        page = (tmp_path / target / "report.html").read_text(encoding="utf-8")
        assert page.count('class="network"') == 1 and page.count('"role": "result"') == 3


def test_evaluation_of_the_subjects_that_a_split_holds_out_by_the_challenge_s_convention(brains, models, tmp_path, run):
    names = sorted(path.name for path in brains.iterdir())
    parts = {"train": names[:1], "validate": names[1:2], "test": names[2:]}
    (tmp_path / "split.json").write_text(json.dumps(parts), encoding="utf-8")
    keys = {"dataset_dir": brains, "output_dir": tmp_path, "ckpt_dir": models, "views": 1}
    scores = {}
    for challenge in (False, True):
        name = f"challenge-{challenge}"
        run("train", "evaluate", run_name=name, split=tmp_path / "split.json", challenge=challenge, **keys)
        with (tmp_path / name / "scores.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert row["case"] == names[2]
        scores[challenge] = row
    for name in ("ssim_healthy", "psnr_tumour", "regression_ssim_tumour"):
        assert float(scores[True][name]) != float(scores[False][name])
    assert float(scores[True]["roughness"]) == pytest.approx(float(scores[False]["roughness"]), abs=1e-4)


def test_evaluation_leaves_no_decoded_cases_and_holds_nothing_out(brains, models, tmp_path, capsys, run):
    keys = {"dataset_dir": brains, "output_dir": tmp_path, "ckpt_dir": models, "views": 1, "slices": 6}
    run("train", "evaluate", memory_gb=1e-6, **keys)
    assert not list(tmp_path.rglob("*.pt"))
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("held out:"))
    assert told.endswith("3 case(s), t1c of t1n, t2w, t2f")


def test_cases_without_segmentation_have_no_score_in_the_tumour(brains, train, tmp_path, caplog):
    shutil.copytree(brains, tmp_path / "in")
    for path in (tmp_path / "in").rglob("*-seg.nii.gz"):
        path.unlink()
    with caplog.at_level("INFO"):
        train(dataset_dir=tmp_path / "in", budgets={"short": {**BUDGET, "epochs": 1}})
    assert "ssim_tumour: nan" in caplog.text and "ssim_tumour: 0.0" not in caplog.text
    with (tmp_path / "runs" / "short-1" / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["ssim_tumour"] == "nan" and float(row["ssim_healthy"]) > 0 for row in rows)
    assert (tmp_path / "runs" / "short-1" / "best.pt").is_file()


@pytest.mark.parametrize("job", [["train"], ["train", "evaluate"]])
def test_training_and_evaluation_stop_at_voxels_that_cannot_work(brains, models, tmp_path, job, run, line_of):
    keys = {"budgets": {"short": BUDGET}, "output_dir": tmp_path / "runs", "ckpt_dir": models, "views": 1}
    for kind, value, text in (("seg", 7, "unknown labels [7.0]"), ("t2w", np.nan, "NaN or infinite")):
        folder = tmp_path / kind
        shutil.copytree(brains, folder)
        path = sorted(folder.rglob(f"*-{kind}.nii.gz"))[0]
        image = nib.load(path)
        voxels = image.get_fdata(dtype=np.float32)
        voxels[3, 4, 5] = value
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
        with pytest.raises(Exception) as error:
            run(*job, dataset_dir=folder, **keys)
        assert isinstance(root_cause(error.value), InputError)
        assert line_of(error).startswith(str(path)) and text in line_of(error)


def test_training_and_evaluation_on_dicom_series(models, tmp_path, write_dicom, run):
    voxels = np.random.default_rng(0).integers(100, 900, (24, 30, 28)).astype(np.int16)
    voxels[:, :6] = 0
    for case in ("c1", "c2"):
        for name in SEQUENCES:
            write_dicom(tmp_path / "in" / case / name, voxels)
    keys = {"dataset_dir": tmp_path / "in", "ckpt_dir": models, "views": 1}
    budgets = {"short": {**BUDGET, "epochs": 1, "patches": 4}}
    run("train", output_dir=tmp_path / "runs", budgets=budgets, **keys)
    run("train", "evaluate", output_dir=tmp_path / "eval", slices=6, **keys)
    assert (tmp_path / "runs" / "short-1" / "best.pt").is_file()
    table = (tmp_path / "eval" / "evaluation-1" / "scores.csv").read_text(encoding="utf-8")
    assert "c1" in table and "c2" in table


def case_without(brains, folder, missing, old_names=False):
    source = sorted(p for p in brains.iterdir() if p.is_dir())[0]
    folder.mkdir(parents=True, exist_ok=True)
    old = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
    for name in inputs_of(missing):
        target = folder / f"one_{old[name]}.nii.gz" if old_names else folder / f"one-{name}.nii.gz"
        target.write_bytes((source / f"{source.name}-{name}.nii.gz").read_bytes())
    return nib.load(source / f"{source.name}-{missing}.nii.gz")


@pytest.mark.parametrize(("missing", "old_names"), [("t1c", False), ("t2f", True)])
def test_inference_makes_what_is_missing(brains, models, tmp_path, missing, old_names, run):
    truth = case_without(brains, tmp_path / "in", missing, old_names)
    keys = {"dataset_dir": tmp_path / "in", "output_dir": tmp_path / "out", "ckpt_dir": models}
    run("inference", save_std="true", **keys)
    made = nib.load(tmp_path / "out" / f"one-{missing}.nii.gz")
    np.testing.assert_allclose(made.affine, truth.affine, atol=1e-4)
    assert made.shape == truth.shape
    brain = truth.get_fdata() > 0
    assert 20 < made.get_fdata()[brain].mean() < 120  # standardised scale
    assert made.get_fdata().min() >= 0
    deviation = nib.load(tmp_path / "out" / f"one-{missing}-std.nii.gz").get_fdata()
    assert 0 < deviation[brain].mean() < made.get_fdata()[brain].mean()
    sidecar = tmp_path / "out" / f"one-{missing}.nii.gz.provenance.json"
    facts = json.loads(sidecar.read_text(encoding="utf-8"))
    assert facts["bundle"] == "brasyn_synthesis" and facts["target"] == missing
    assert f"standardised {missing}" in facts["intensities"]
    assert b"synthetic" in made.header["descrip"].item()


def test_one_view_and_a_4d_file(brains, models, tmp_path, run):
    case_without(brains, tmp_path / "in", "t1c")
    parts = [nib.load(tmp_path / "in" / f"one-{name}.nii.gz") for name in inputs_of("t1c")]
    stack = np.stack([part.get_fdata(dtype=np.float32) for part in parts], axis=-1)
    nib.save(nib.Nifti1Image(stack, parts[0].affine), tmp_path / "one.nii.gz")
    keys = {"ckpt_dir": models, "views": 1}
    run("inference", dataset_dir=tmp_path / "in", output_dir=tmp_path / "a", **keys)
    run("inference", dataset_dir=tmp_path / "one.nii.gz", target="t1c", output_dir=tmp_path / "b", **keys)
    files = {name: tmp_path / "in" / f"one-{name}.nii.gz" for name in inputs_of("t1c")}
    run("inference", output_dir=tmp_path / "c", **files, **keys)
    results = [nib.load(tmp_path / folder / "one-t1c.nii.gz").get_fdata() for folder in "abc"]
    np.testing.assert_allclose(results[1], results[0], atol=1e-3)
    np.testing.assert_array_equal(results[2], results[0])


def test_a_case_that_fails_does_not_stop_the_others(brains, models, tmp_path, caplog, run):
    case_without(brains, tmp_path / "in" / "good", "t2w")
    case_without(brains, tmp_path / "in" / "two", "t2w")
    (tmp_path / "in" / "two" / "one-t1n.nii.gz").unlink()
    case_without(brains, tmp_path / "in" / "nan", "t1n")
    bad = tmp_path / "in" / "nan" / "one-t2w.nii.gz"
    image = nib.load(bad)
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), bad)
    keys = {"dataset_dir": tmp_path / "in", "output_dir": tmp_path / "out", "ckpt_dir": models, "views": 1}
    with pytest.raises((SystemExit, RuntimeError)):
        run("inference", **keys)
    assert [p.name for p in (tmp_path / "out").rglob("*.nii.gz")] == ["one-t2w.nii.gz"]
    assert "2 sequences are missing (t1n, t2w)" in caplog.text
    assert "NaN or infinite" in caplog.text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"target": "t9"}, "target must be one of"),
        ({"loss_weights": {"l1": -1}}, "loss_weights takes weights"),
        ({"loss_weights": {"l2": 1}}, "loss_weights takes weights"),
        ({"budget": "huge"}, "budget 'huge' is unknown"),
        ({"dataset_dir": "/nowhere"}, "no such file or folder"),
        ({"vgg_weights": "/nowhere/vgg.pth"}, "no such weights file"),
        ({"views": 4}, "views must be 1 or 9"),
        ({"loss_weights": "l1"}, "loss_weights must name terms with their weights"),
        ({"tumour_weight": 2}, "tumour_weight must be a number from 0 up to 1; got 2"),
        ({"vgg_network": "vgg11"}, "vgg_network must be vgg16 or vgg19; got 'vgg11'"),
        ({"adversarial_weight": -1}, "adversarial_weight must be a number from 0; got -1"),
        ({"adversarial_weight": "x"}, "adversarial_weight must be a number from 0; got 'x'"),
        ({"memory_gb": "lots"}, "memory_gb must be a number from 1e-06; got 'lots'"),
        ({"num_workers": -1}, "num_workers must be a whole number from 0 up to 256; got -1"),
        ({"val_fraction": "x"}, "val_fraction must be a number from 0.001 up to 0.999; got 'x'"),
    ],
)
def test_input_that_cannot_work_is_named_in_one_line(train, keys, text, line_of):
    with pytest.raises(Exception) as error:
        train(**keys)
    assert isinstance(root_cause(error.value), InputError)
    assert text in line_of(error)
    assert "\n" not in line_of(error)


@pytest.mark.parametrize(
    ("job", "keys", "text"),
    [
        (["inference"], {"views": 5}, "views must be 1 or 9; got 5"),
        (["inference"], {"memory_gb": "lots"}, "memory_gb must be a number from 1e-06; got 'lots'"),
        (["train", "evaluate"], {"slices": "x"}, "slices must be a whole number from 1 or null; got 'x'"),
        (["train", "evaluate"], {"views": 5}, "views must be 1 or 9; got 5"),
    ],
)
def test_so_it_is_in_inference_and_evaluation(brains, models, tmp_path, job, keys, text, run, line_of):
    folder = brains
    if job == ["inference"]:
        case_without(brains, folder := tmp_path / "in", "t1c")
    with pytest.raises(Exception) as error:
        run(*job, dataset_dir=folder, output_dir=tmp_path / "out", ckpt_dir=models, **keys)
    assert isinstance(root_cause(error.value), InputError) and line_of(error) == text


def test_weights_of_another_target_are_refused(train, models, brains, tmp_path, run, line_of):
    keys = {"target": "t2w", "weights": models / "model.pt", "ckpt_dir": models}
    case_without(brains, tmp_path / "in", "t2w")
    for start in (
        lambda: train(from_scratch=False, **keys),
        lambda: run("train", "evaluate", dataset_dir=brains, output_dir=tmp_path, slices=4, **keys),
        lambda: run("inference", dataset_dir=tmp_path / "in", output_dir=tmp_path, **keys),
    ):
        with pytest.raises((SystemExit, Exception)) as error:
            start()
        assert isinstance(error.value, SystemExit) or "weights make t1c, not t2w" in line_of(error)


def test_inference_builds_the_network_that_each_target_s_weights_hold(brains, models, tmp_path, run):
    folder = shutil.copytree(models, tmp_path / "models")
    wide = Generator(9, 3, 2, full_width=0, linear_skip=False)
    Standardisation.read(folder / "targets" / "t2w.pt", "t2w").write(wide)
    torch.save(wide.state_dict(), folder / "targets" / "t2w.pt")
    for target in ("t1c", "t2w"):
        case_without(brains, tmp_path / "in" / target, target)
    run("inference", dataset_dir=tmp_path / "in", output_dir=tmp_path / "out", ckpt_dir=folder, views=1)
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.nii.gz")) == ["one-t1c.nii.gz", "one-t2w.nii.gz"]


def test_keys_that_contradict_the_weights_are_refused(train, models, line_of):
    with pytest.raises(Exception) as error:
        train(ckpt_dir=models, from_scratch=False, width=5)
    assert "holds a network with width 2, not 5" in line_of(error)


def test_shipped_weights_fit():
    files = [path for target in SEQUENCES if (path := Path(weights_of(str(BUNDLE / "models"), target))).is_file()]
    if not files:
        pytest.skip("this checkout has no weights")
    assert sum(path.stat().st_size for path in files) < 12e6
    for path in files:
        state = torch.load(path, weights_only=True)
        Generator(**Generator.form_of(state)).load_state_dict(state)
        Standardisation.read(path, "t1c" if path.name == "model.pt" else path.stem)
        assert path.stat().st_size < 6e6
