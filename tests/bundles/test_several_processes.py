# SPDX-License-Identifier: Apache-2.0
"""All bundles in two processes: training, evaluation and inference, as one process would do them."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage

from common.io.provenance import SUFFIX
from tools.package import bundle_names

PROGRAM = Path(__file__).with_name("workflows.py")
CASES = {
    "mri_sr3d": {"sequence": "t1c", "scale": "[1,1,2]"},
    "rslm_denoise": {"sequence": "t1c", "save_residual": True},
    "us_despeckle": {},
    "brasyn_synthesis": {"target": "t1c", "views": 1, "save_std": True},
    "lesion_msgan": {"sequence": "t1c", "mask": "seg"},
}
RESULTS = {"mri_sr3d": 1, "rslm_denoise": 2, "us_despeckle": 2, "brasyn_synthesis": 2, "lesion_msgan": 2}  # per case

pytestmark = pytest.mark.distributed


def torchrun(*words, processes=2):
    """Starts processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launcher, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env=environment,
    )


def inference_keys(bundle, output_dir):
    data = bundle.data / "low" if bundle.name == "us_despeckle" else bundle.data
    return bundle.keys("inference", output_dir, **{**CASES[bundle.name], "dataset_dir": str(data), "device": "cpu"})


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    """The folder where two processes did everything for all bundles, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    jobs = []
    for name in bundle_names():
        bundle = tiny(name)
        trains = ["network"] if name == "mri_sr3d" else ["network", "discriminator"]
        keys = bundle.keys("train", folder / name, run_name="train")
        job = {"files": bundle.several("train"), "kind": "train", "keys": keys, "trains": trains}
        jobs.append({**job, "shares": [2, 1, 1] if name == "us_despeckle" else [1]})  # of batches of 4, 2, 2, or of 2
        keys = bundle.keys("evaluate", folder / name, run_name="evaluation")
        files = bundle.several("train", "evaluate")
        jobs.append({"files": files, "kind": "train", "keys": keys})
        keys = inference_keys(bundle, folder / name / "results")
        jobs.append({"files": bundle.several("inference"), "kind": "infer", "keys": keys})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    process = torchrun(PROGRAM, folder / "jobs.json")
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    return folder, printed


@pytest.fixture
def alone(monkeypatch):
    """What torchrun tells an only process; and a command line without keys."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}
    for name, text in told.items():
        monkeypatch.setenv(name, str(text))
    monkeypatch.setattr(sys, "argv", ["test"])


def files_below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def rows(path):
    with path.open(encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=lambda row: (row["epoch"], row["case"], row["setting"]))


@pytest.mark.parametrize("name", bundle_names())
def test_two_processes_train(two, tiny, name):
    folder = two[0] / name / "train"
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["epoch"] == 1
    start = torch.load(tiny(name).models / "model.pt", weights_only=True)
    assert any(not torch.equal(state["network"][key], tensor) for key, tensor in start.items())
    assert len(state.get("pool", {"images": [0, 0]})["images"]) == 2, "each process has its own"
    scored = [(row["epoch"], row["case"], row["setting"]) for row in rows(folder / "scores.csv")]
    assert {epoch for epoch, *_ in scored} == {"0", "1"}
    assert len(scored) == len(set(scored)) >= 4  # each of at least two held-out items once


@pytest.mark.parametrize("name", bundle_names())
def test_two_processes_evaluate_as_one_does(two, tiny, tmp_path, name, run_files):
    bundle = tiny(name)
    run_files(bundle.files("train", "evaluate"), **bundle.keys("evaluate", tmp_path, run_name="one", device="cpu"))
    one, both = rows(tmp_path / "one" / "scores.csv"), rows(two[0] / name / "evaluation" / "scores.csv")
    assert [row["case"] for row in one] == [row["case"] for row in both] and len(one) >= 2
    for first, second in zip(one, both, strict=True):
        numbers = [key for key in first if key not in ("epoch", "case", "setting", "extent")]
        values = np.array([[float(row[key]) for key in numbers] for row in (first, second)])
        np.testing.assert_allclose(values[1], values[0], rtol=1e-3, atol=1e-4)
    # each process writes the pictures of its own cases
    pictures = [files_below(folder / "pictures") for folder in (tmp_path / "one", two[0] / name / "evaluation")]
    assert pictures[0] == pictures[1] and bool(pictures[0]) == (name == "lesion_msgan")


@pytest.mark.parametrize("name", bundle_names())
def test_two_processes_infer_as_one_does_and_leave_what_is_finished(two, tiny, tmp_path, name, alone, run_files):
    bundle, folder = tiny(name), two[0] / name / "results"
    run_files(bundle.files("inference"), "infer", **inference_keys(bundle, tmp_path))
    one, both = ([path for path in files_below(f) if path.name != "report.html"] for f in (tmp_path, folder))
    assert one == both
    results = [path for path in both if not path.name.endswith(SUFFIX)]
    assert len(results) == len(both) / 2 == 4 * RESULTS[name]
    for path in results:
        if ".histogram" not in path.name:
            first, second = (LoadImage(image_only=True)(f / path) for f in (tmp_path, folder))
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-3)
            assert two[1].count(f"saved {folder / path}") == 1
    before = {path: (folder / path).stat().st_mtime_ns for path in both}
    workflow = run_files(bundle.several("inference"), "infer", **inference_keys(bundle, folder))
    dataset = workflow.parser.get_parsed_content("dataset")
    assert dataset.done == 4 and not dataset.all_failures()
    assert before == {path: (folder / path).stat().st_mtime_ns for path in both}


@pytest.fixture
def many(tmp_path):
    """Fifty small scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(50):
        voxels = rng.rayleigh(40, (20, 20, 16)) + 200 * (np.hypot(*np.indices((20, 20))[:, :, :, None] - 10) < 7)
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), folder / f"scan-{number}.nii.gz")
    return folder


def finished(folder):
    """Results by name, each with when it was made; those under their own names are complete."""
    paths = [path for path in folder.glob("*.nii.gz") if not path.name.startswith(".")]
    for path in paths:
        told = json.loads(Path(f"{path}{SUFFIX}").read_text(encoding="utf-8"))
        assert path.name == told["input"].split(".")[0] + "_denoised.nii.gz"
        assert np.isfinite(nib.load(path).get_fdata()).all()
    return {path.name: path.stat().st_mtime_ns for path in paths}


def saved(printed):
    return re.findall(r"saved \S+/(scan-\d+_denoised\.nii\.gz)", printed)


def test_after_a_worker_is_killed_the_same_command_does_the_rest(tiny, many, tmp_path):
    bundle, out = tiny("rslm_denoise"), tmp_path / "results"
    keys = bundle.keys("inference", out, dataset_dir=str(many), device="cpu", estimate_noise=False)
    job = {"files": bundle.several("inference"), "kind": "infer", "keys": keys}
    (tmp_path / "jobs.json").write_text(json.dumps([job]), encoding="utf-8")
    first = torchrun(PROGRAM, tmp_path / "jobs.json")
    for _ in range(60_000):
        if len(list(out.glob("scan*.nii.gz"))) >= 8 or first.poll() is not None:
            break
        time.sleep(0.002)
    os.kill(int((tmp_path / "rank1.pid").read_text(encoding="utf-8")), signal.SIGKILL)
    printed, _ = first.communicate(timeout=200)
    assert first.returncode != 0
    before = finished(out)
    assert 8 <= len(before) < 50, printed
    assert len(saved(printed)) == len(set(saved(printed)))
    # what a kill at another moment leaves: a result whose sidecar is cut short, and one without
    cut, bare = sorted(before)[:2]
    (out / f"{cut}{SUFFIX}").write_text('{"bundle": "rslm', encoding="utf-8")
    (out / bare).unlink()
    second = torchrun(PROGRAM, tmp_path / "jobs.json")
    printed, _ = second.communicate(timeout=200)
    assert second.returncode == 0, printed
    after = finished(out)
    assert len(after) == 50
    left = set(after) - set(before) | {cut, bare}
    assert sorted(saved(printed)) == sorted(left)
    assert all(after[name] == before[name] for name in set(after) - left)
    assert "50 of 50 cases done" in printed


def test_a_case_that_fails_is_told_once_by_the_first_process_and_in_the_exit_status(tiny, many, tmp_path):
    for path in sorted(many.iterdir())[3:]:
        path.unlink()
    bundle = tiny("rslm_denoise")
    voxels = np.full((9, 9, 9), np.nan, np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), many / "broken.nii.gz")
    nib.save(nib.load(many / "scan-0.nii.gz"), many / "scan-0.nii")  # the result would have the same name
    keys = bundle.keys("inference", tmp_path / "out", dataset_dir=str(many), device="cpu", estimate_noise=False)
    job = {"files": bundle.several("inference"), "kind": "infer", "keys": keys}
    (tmp_path / "jobs.json").write_text(json.dumps([job]), encoding="utf-8")
    process = torchrun(PROGRAM, tmp_path / "jobs.json")
    printed, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert printed.count("3 of 5 cases done, 2 failed:") == 1, printed
    assert "would overwrite that of" in printed and "NaN" in printed
    assert len(finished(tmp_path / "out")) == 3
