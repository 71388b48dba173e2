# SPDX-License-Identifier: Apache-2.0
"""The bundle as its users run it: train, resume, evaluate, infer, several processes, wrong input."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from common.data.sample_data import write_brain_cases

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = ROOT / "bundles" / "mri_sr3d"
CONFIGS = BUNDLE / "configs"
SMALL = {
    "num_layers": 3,
    "filters": 4,
    "patches": 8,
    "patch_size": 11,
    "batch_size": 2,
    "epochs": 2,
    "val_crop": 16,
    "sequence": "t1n",
    "from_scratch": "true",
}


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brains")
    write_brain_cases(folder, subjects=3, shape=(40, 48, 44), seed=3, progress=False)
    return folder


def run(*names, **keys):
    """Runs configurations in this process from the repository root, as the command line would."""
    with contextlib.chdir(ROOT) if hasattr(contextlib, "chdir") else _chdir(ROOT):
        kind = "infer" if names == ("inference",) else "train"
        files = [str(CONFIGS / f"{name}.json") for name in names]
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **keys)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


@contextlib.contextmanager
def _chdir(folder):
    old = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(old)


def small(brains, tmp_path, **keys):
    places = {"dataset_dir": str(brains), "output_dir": str(tmp_path / "runs"), "ckpt_dir": str(tmp_path / "models")}
    return {**SMALL, **places, "device": "cpu", **keys}


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def command_line(*arguments, cwd, configs=("train",), torchrun=0):
    files = str([str(CONFIGS / f"{name}.json") for name in configs])
    launcher = [sys.executable, "-m"]
    if torchrun:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc_per_node={torchrun}", "-m"]
    command = [*launcher, "monai.bundle", "run", "--config_file", files, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", timeout=300, env=environment)


def arguments(keys):
    return [part for key, value in keys.items() for part in (f"--{key}", str(value))]


def test_training_writes_all_that_the_summary_names(brains, tmp_path, capsys):
    before = digest(BUNDLE / "models" / "model.pt")
    run("train", **small(brains, tmp_path))
    text = capsys.readouterr().out
    folder = tmp_path / "runs" / "short-1"
    for name in ("best.pt", "last.pt", "scores.csv", "terms.csv", "split.json", "config.json", "report.html"):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").iterdir())
    for start in ("budget:", "device:", "training:", "held out:", "weights:"):
        assert re.search(rf"^{start} +\S", text, re.MULTILINE), start
    summary = [line for line in text.splitlines() if line.startswith("summary:")]
    words = ("2x2x2, middle 16x16x16: spline", "3x3x3, middle 16x16x16: spline", "gain", "dB")
    assert len(summary) == 1 and all(word in summary[0] for word in words)
    epochs = {row.split(",")[0] for row in (folder / "scores.csv").read_text(encoding="utf-8").splitlines()[1:]}
    assert epochs == {"0", "1", "2"}, "validated before training and after each epoch"
    assert digest(BUNDLE / "models" / "model.pt") == before


def test_first_weights_of_own_data_become_the_bundles_and_better_ones_replace_them(brains, tmp_path):
    run("train", **small(brains, tmp_path, promote="true"))
    model = tmp_path / "models" / "model.pt"
    assert (
        torch.load(model, weights_only=True).keys()
        == torch.load(tmp_path / "runs" / "short-1" / "best.pt", weights_only=True).keys()
    )
    first = digest(model)
    keys = {"from_scratch": "false", "learning_rate": 0.002, "promote": "true"}
    run("train", **small(brains, tmp_path, **keys))
    assert digest(model) != first
    assert digest(tmp_path / "runs" / "short-2" / "replaced.pt") == first


def test_a_run_leaves_the_bundles_weights_alone(brains, tmp_path):
    run("train", **small(brains, tmp_path))
    assert not (tmp_path / "models" / "model.pt").exists()


def test_resumed_training_ends_with_the_same_weights(brains, tmp_path):
    run("train", **small(brains, tmp_path, run_name="straight", epochs=4))
    with contextlib.chdir(ROOT) if hasattr(contextlib, "chdir") else _chdir(ROOT):
        keys = small(brains, tmp_path, run_name="halves", epochs=4)
        stopped = ConfigWorkflow(str(CONFIGS / "train.json"), workflow_type="train", logging_file=False, **keys)
        stopped.initialize()
        trainer = stopped.parser.get_parsed_content("train::trainer")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
        stopped.run()
    run("train", **small(brains, tmp_path, run_name="halves", resume="true", epochs=4, num_workers=2))
    straight, halves = (
        torch.load(tmp_path / "runs" / name / "last.pt", weights_only=True) for name in ("straight", "halves")
    )
    assert straight["epoch"] == halves["epoch"] == 4
    for part in ("network", "average"):
        for key, value in straight[part].items():
            assert torch.equal(value, halves[part][key]), key
    assert straight["best"] == halves["best"]


def test_the_number_of_workers_changes_nothing(brains, tmp_path):
    for number in (0, 1, 2):
        run("train", **small(brains, tmp_path, run_name=f"workers{number}", num_workers=number))
    none, *others = (torch.load(tmp_path / "runs" / f"workers{n}" / "last.pt") for n in (0, 1, 2))
    for part in ("network", "average"):
        assert all(torch.equal(v, other[part][k]) for other in others for k, v in none[part].items()), part


def viewed(page):
    """The cases in the viewer of a report."""
    return json.loads(re.search(r'id="cases">(.*?)</script>', page, re.DOTALL)[1])


def test_evaluation_prints_and_writes_the_table_of_scales(brains, tmp_path, capsys):
    weights = tmp_path / "w.pt"
    run("train", **small(brains, tmp_path))
    (tmp_path / "runs" / "short-1" / "best.pt").rename(weights)
    keys = {"weights": str(weights), "test_scales": "[[2,2,2],[1,1,3],[2,2.5,2]]", "crop": 20}
    run("train", "evaluate", **small(brains, tmp_path, **keys))
    table = capsys.readouterr().out.partition("| case")[2]
    assert table.count("sample-") == 9 and table.count("mean ± sd of 3") == 3
    assert "psnr_whole spline" in table and "ssim_foreground network" in table
    assert "drift_lesion network" in table  # of the masks beside the brains
    page = (tmp_path / "runs" / "evaluation-1" / "report.html").read_text(encoding="utf-8")
    assert page.count('class="gain"') == 3 and "2x2.5x2, 3 volumes" in page and "Drift, lesion" in page
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in page and str(tmp_path) not in page
    assert len(viewed(page)) == 9 and viewed(page)[0]["planes"][0]["title"] == "Axial"
    assert not (tmp_path / "models").exists()


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two oblique thick-slice scans of the same name in two folders, and one that is no image."""
    folder = tmp_path_factory.mktemp("scans")
    case = write_brain_cases(tmp_path_factory.mktemp("one"), subjects=1, shape=(32, 36, 40), seed=5, progress=False)[0]
    truth = nib.load(next(Path(case).glob("*-t1n.nii.gz"))).get_fdata(dtype=np.float32)
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.1, -1.1, 4.4])
    affine[:3, 3] = [40, 30, -70]
    for subject in ("sub-01", "sub-02"):
        (folder / subject).mkdir()
        nib.save(nib.Nifti1Image(truth[:, :, ::4] * 3, affine), folder / subject / "scan.nii.gz")
    (folder / "sub-03").mkdir()
    (folder / "sub-03" / "scan.nii.gz").write_text("no image", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from mri_sr3d_lib.networks import ReCNN

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save(ReCNN(num_layers=3, filters=4).state_dict(), path)
    return path


def infer(scans, weights, output, **keys):
    keys = {"dataset_dir": str(scans), "output_dir": str(output), "device": "cpu", "weights": str(weights), **keys}
    return run("inference", **keys)


def test_inference_serves_the_good_cases_and_tells_of_the_bad(scans, weights, tmp_path, caplog):
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as stopped:
        infer(scans, weights, tmp_path)
    assert stopped.value.code == 1
    assert "sub-03" in caplog.text and "2 of 3 cases done, 1 failed" in caplog.text
    source = nib.load(scans / "sub-01" / "scan.nii.gz")
    for subject in ("sub-01", "sub-02"):
        path = tmp_path / subject / "scan_sr.nii.gz"
        result = nib.load(path)
        assert result.shape == (*source.shape[:2], source.shape[2] * 4)
        assert result.get_data_dtype() == np.float32
        assert b"not for diagnosis" in bytes(result.header["descrip"])
        for corner in np.ndindex(2, 2, 2):  # outer corners of the field of view
            ends = [np.array(image.shape) * corner - 0.5 for image in (source, result)]
            points = [
                nib.affines.apply_affine(image.affine, end) for image, end in zip((source, result), ends, strict=True)
            ]
            np.testing.assert_allclose(*points, atol=1e-4)
        facts = json.loads(Path(f"{path}.provenance.json").read_text(encoding="utf-8"))
        assert facts["bundle"] == "mri_sr3d" and facts["input"] == "scan.nii.gz"
        assert facts["weights_sha256"] == digest(weights)
        assert str(scans) not in json.dumps(facts) and str(tmp_path) not in json.dumps(facts)
        assert 0.2 < result.get_fdata().std() / source.get_fdata().std() < 5, "back in the input's units"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f"sub-0{n}/scan.nii.gz" in page for n in (1, 2, 3)) and str(tmp_path) not in page
    assert [case["name"] for case in viewed(page)] == ["sub-01/scan_sr.nii.gz", "sub-02/scan_sr.nii.gz"]
    assert viewed(page)[0]["notes"][0].startswith("changed by ")


def test_the_uncertainty_stands_in_the_report(scans, weights, tmp_path):
    infer(scans / "sub-01" / "scan.nii.gz", weights, tmp_path, save_std="true")
    (case,) = viewed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [column["role"] for column in case["columns"]] == ["input", "result", "uncertainty"]
    written = (tmp_path / "report.html").stat().st_mtime_ns
    infer(scans / "sub-01" / "scan.nii.gz", weights, tmp_path, save_std="true")  # nothing to do
    assert (tmp_path / "report.html").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("keys", "shape"),
    [
        ({"scale": "[1,1,2]"}, (32, 36, 20)),
        ({"scale": "1.5"}, (48, 54, 15)),
        ({"spacing": "[2.2,2.2,2.2]"}, (16, 18, 20)),
        ({"spacing": "[1.1,1.1,2]", "slice_thickness": "3.3", "integers": "true"}, (32, 36, 22)),
    ],
)
def test_inference_takes_spacing_or_scale(scans, weights, tmp_path, keys, shape):
    infer(scans / "sub-01" / "scan.nii.gz", weights, tmp_path, **keys)
    result = nib.load(tmp_path / "scan_sr.nii.gz")
    assert result.shape == shape
    assert result.get_data_dtype() == (np.int16 if "integers" in keys else np.float32)


def test_a_dicom_series_is_a_case(weights, tmp_path, write_dicom):
    voxels = np.random.default_rng(0).integers(0, 900, (6, 20, 18)).astype(np.int16)  # slices first, as ITK has it
    write_dicom(tmp_path / "in" / "patient.1", voxels)
    infer(tmp_path / "in", weights, tmp_path / "out", spacing="[1,1.2,2.5]")
    result = nib.load(tmp_path / "out" / "patient.1_sr.nii.gz")
    assert result.shape == (18, 20, 12)
    np.testing.assert_allclose(result.header.get_zooms(), (1, 1.2, 2.5), rtol=1e-5)
    np.testing.assert_allclose(result.affine[:3, 3], [9, -4, -1.25], atol=1e-4)  # LPS to RAS, half a slice earlier


def test_inference_does_not_depend_on_memory(scans, weights, tmp_path):
    one = scans / "sub-01" / "scan.nii.gz"
    infer(one, weights, tmp_path / "a", memory_gb="4")
    infer(one, weights, tmp_path / "b", memory_gb="0.001")
    a, b = (nib.load(tmp_path / name / "scan_sr.nii.gz").get_fdata() for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


def test_a_guided_network_takes_the_sequences_beside_the_scan(brains, tmp_path):
    run("train", **small(brains, tmp_path, guides="['t2w','t2f']"))
    weights = tmp_path / "runs" / "short-1" / "best.pt"
    assert torch.load(weights, weights_only=True)["layers.0.weight"].shape[1] == 3
    case = sorted(brains.glob("*/*-t1n.nii.gz"))[0]
    keys = {"sequence": "t1n", "guides": "['t2w','t2f']", "scale": "[1,1,2]"}
    infer(case, weights, tmp_path / "out", **keys)
    assert nib.load(tmp_path / "out" / f"{case.name[:-7]}_sr.nii.gz").shape == (40, 48, 88)


def test_isotropic_scan_without_a_target_stops_with_a_hint(brains, weights, tmp_path, caplog):
    case = sorted(brains.glob("*/*-t1n.nii.gz"))[0]
    with pytest.raises(SystemExit):
        infer(case, weights, tmp_path)
    assert '--scale "[2,2,2]"' in caplog.text


def test_command_line_from_an_unrelated_folder_names_wrong_input_in_one_line(tmp_path):
    done = command_line("--dataset_dir", str(tmp_path / "nothing"), "--output_dir", str(tmp_path / "out"), cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1
    assert len(errors) == 1 and "nothing" in errors[0]
    assert "Traceback" not in done.stderr


def test_command_line_texts_mean_what_they_say(brains, tmp_path):
    keys = small(brains, tmp_path, resume="false", subjects="1", num_workers="0", amp="False")
    keys["from_scratch"] = "True"
    done = command_line(*arguments(keys), cwd=BUNDLE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 volumes, 8 patches" in done.stdout and "random initialisation" in done.stdout
    assert not (tmp_path / "models").exists()


def epoch_loss(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in sorted(folder.glob("events*")):
        events = EventAccumulator(str(path)).Reload()
        if "train_loss" in events.Tags()["scalars"]:
            return events.Scalars("train_loss")[0].value
    raise AssertionError(f"no train_loss in {folder}")


@pytest.mark.distributed
def test_two_processes_train_as_one_with_the_doubled_batch(brains, tmp_path):
    keys = small(brains, tmp_path, val_interval=1)
    keys |= {"epochs": 1, "batch_size": 4, "patches": 4}
    run("train", **{**keys, "run_name": "one"})
    done = command_line(*arguments({**keys, "run_name": "two"}), cwd=ROOT, configs=("train", "multi_gpu"), torchrun=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / "runs" / name / "last.pt", weights_only=True) for name in ("one", "two"))
    for key, value in one["network"].items():
        torch.testing.assert_close(two["network"][key], value, rtol=1e-4, atol=1e-7)
    losses = [epoch_loss(tmp_path / "runs" / name / "tensorboard") for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    scores = [(tmp_path / "runs" / name / "scores.csv").read_text(encoding="utf-8") for name in ("one", "two")]
    rows = [sorted(line.split(",")[:3] for line in text.splitlines()) for text in scores]
    assert rows[0] == rows[1], "every held-out item is scored once, whoever does it"


def test_the_workflows_have_all_properties_that_monai_knows():
    with _chdir(ROOT):
        for name, kind in (("train", "train"), ("inference", "infer")):
            workflow = ConfigWorkflow(str(CONFIGS / f"{name}.json"), workflow_type=kind, logging_file=False)
            workflow.initialize()
            assert not workflow.check_properties(), name


def test_every_key_is_used_and_shared_blocks_are_equal():
    train, inference = (
        json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")) for name in ("train", "inference")
    )
    standing = {"imports", "run", "train", "validate", "displayable_configs", "budgets", "budget"}
    for config in (train, inference):
        text = json.dumps(config)
        unused = [key for key in config if key not in standing and not re.search(rf"@{key}\b", text)]
        assert not unused
    for key in ("network", "imports", "bundle_root", "weights", "ckpt_dir", "device", "amp", "memory_gb"):
        assert train[key] == inference[key], key
