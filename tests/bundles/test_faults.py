# SPDX-License-Identifier: Apache-2.0
"""Kills at random moments, two runs in one folder, full disks, read-only folders: nothing is lost, one line says why.

``pytest tests/bundles/test_faults.py --kills 200`` kills as often as that.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for this process and those that it forks

import fault_jobs

from common.io.provenance import SUFFIX
from tools.package import bundle_names

pytestmark = [pytest.mark.distributed, pytest.mark.hostile]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
RESULTS = {"lesion_msgan": 2}  # per case, where it is not one
CASES = {
    "mri_sr3d": {"sequence": "t1c", "scale": [1, 1, 2]},
    "rslm_denoise": {"sequence": "t1c", "estimate_noise": False},
    "us_despeckle": {},
    "brasyn_synthesis": {"target": "t1c", "views": 1},
    "lesion_msgan": {"sequence": "t1c", "mask": "seg"},
}


@pytest.fixture(scope="module")
def start():
    """A function that starts a workflow in a process of its own, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_jobs", *(f"{name}_lib" for name in bundle_names())])
    running = []

    def give(*args, **more):
        process = context.Process(target=fault_jobs.workflow, args=args, kwargs=more, daemon=True)
        process.start()
        running.append(process)
        return process

    yield give
    for process in running:
        process.kill()
        process.join()


def end(process, seconds=120):
    """A process's exit status."""
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def training(bundle, folder, **more):
    keys = bundle.keys("train", folder, device="cpu", run_name="run", **more)
    keys["budgets"]["short"]["epochs"] = 3
    return [bundle.files("train"), "train", keys, str(folder.with_suffix(".log"))]


def inference(bundle, folder, log="", **more):
    data = bundle.data / "low" if bundle.name == "us_despeckle" else bundle.data
    keys = bundle.keys("inference", folder, **{**CASES[bundle.name], "dataset_dir": str(data), "device": "cpu", **more})
    return [bundle.files("inference"), "infer", keys, str(folder.with_suffix(f"{log}.log"))]


def files(folder):
    """Contents by name, of all files but reports, which tell the time."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "report.html"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def hidden(folder):
    return [name for name in files(folder) if Path(name).name.startswith(".")]


def lines(log):
    """What a run said at its end: errors alone."""
    text = Path(log).read_text(encoding="utf-8")
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("error: ") or line.startswith("ERROR ")]


def kill_at_random(process, seconds, sent, chance):
    time.sleep(chance.uniform(0, seconds))
    if process.is_alive():
        os.kill(process.pid, sent)
    return end(process)


def weights_of(folder):
    state = torch.load(folder / "run" / "last.pt", weights_only=True)
    return state["network"]


@pytest.fixture(scope="module")
def kills(request):
    """Pairs of a signal and a generator of random numbers."""
    count = request.config.getoption("--kills")
    return [(sent, random.Random(number)) for number, sent in zip(range(count), itertools.cycle(SIGNALS))]


def test_killed_trainings_go_on_to_the_same_weights(start, tiny, tmp_path, kills):
    bundle = tiny("rslm_denoise")
    whole = tmp_path / "whole"
    began = time.monotonic()
    assert end(start(*training(bundle, whole))) == 0
    seconds, expected = time.monotonic() - began, weights_of(whole)
    resumed = 0
    for number, (sent, chance) in enumerate(kills[::2]):
        folder = tmp_path / f"killed-{number}"
        kill_at_random(start(*training(bundle, folder)), 1.1 * seconds, sent, chance)
        for path in folder.rglob("[!.]*.pt"):
            torch.load(path, weights_only=True)  # whole
        there = (folder / "run" / "last.pt").is_file()
        if not there or torch.load(folder / "run" / "last.pt", weights_only=True)["epoch"] < 3:
            job = training(bundle, folder, resume=there)
            assert end(start(*job)) == 0, Path(job[3]).read_text(encoding="utf-8")
            resumed += there
        found = weights_of(folder)
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items()), f"kill {number}"
        assert not [path for path in hidden(folder) if not path.endswith(".lock")]
        shutil.rmtree(folder)
    assert resumed or len(kills) < 20


def test_killed_inferences_go_on_with_what_is_left(start, tiny, tmp_path, kills):
    bundle = tiny("rslm_denoise")
    whole = tmp_path / "whole"
    began = time.monotonic()
    assert end(start(*inference(bundle, whole))) == 0
    seconds, expected = time.monotonic() - began, files(whole)
    assert len(expected) == 8 and not hidden(whole)
    for number, (sent, chance) in enumerate(kills[1::2]):
        folder = tmp_path / f"killed-{number}"
        kill_at_random(start(*inference(bundle, folder)), seconds, sent, chance)
        kept = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*.nii.gz")}
        assert all(path.with_name(path.name + SUFFIX).is_file() for path in kept)
        assert end(start(*inference(bundle, folder))) == 0
        assert files(folder) == expected, f"kill {number}"
        assert kept == {path: path.stat().st_mtime_ns for path in kept}
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", bundle_names())
def test_two_runs_into_one_folder_share_the_cases(start, tiny, tmp_path, kills, name):
    whole = tmp_path / "whole"
    bundle = tiny(name)
    assert end(start(*inference(bundle, whole))) == 0
    expected = files(whole)
    for pair in range(max(1, len(kills) // 25)):  # 40 pairs of all bundles with 200 kills
        shared = tmp_path / f"shared-{pair}"
        jobs = [inference(bundle, shared, log=number) for number in (".1", ".2")]
        assert [end(process) for process in [start(*job) for job in jobs]] == [0, 0]
        found = files(shared)
        assert found.keys() == expected.keys() and all(found[p] == expected[p] for p in found if not p.endswith(".dcm"))
        said = [Path(job[3]).read_text(encoding="utf-8") for job in jobs]
        assert all("4 of 4 cases done" in text for text in said)
        saved = re.findall(r"saved (\S+)", "".join(said))
        assert len(saved) == len(set(saved)) == 4 * RESULTS.get(name, 1)  # each by one of the two


def test_the_second_training_of_one_name_is_refused_in_one_line(start, tiny, tmp_path):
    bundle = tiny("rslm_denoise")
    jobs = [training(bundle, tmp_path / "out") for _ in range(2)]
    jobs[1][3] = str(tmp_path / "second.log")
    first = start(*jobs[0])
    for _ in range(600):
        if (tmp_path / "out" / "run" / ".lock").is_file():
            break
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGSTOP)  # still at work when the second starts, however fast the machine
    try:
        assert end(start(*jobs[1])) == 1
    finally:
        os.kill(first.pid, signal.SIGCONT)
    (line,) = lines(jobs[1][3])
    assert re.fullmatch(rf"error: \S+/run: process {first.pid} on \S+ is at work in this run; .*--run_name", line)
    assert end(first) == 0 and not hidden(tmp_path / "out")


def test_bad_weights_leave_no_run_folder(start, tiny, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    job = training(tiny("rslm_denoise"), tmp_path / "out", weights=str(tmp_path / "bad.pt"))
    assert end(start(*job)) == 1
    (line,) = lines(job[3])
    assert line.startswith(f"error: {tmp_path}/bad.pt: not a weights file")
    assert not list((tmp_path / "out").glob("*"))


def test_a_damaged_table_of_scores_ends_a_resume_in_one_line(start, tiny, tmp_path):
    job = training(tiny("rslm_denoise"), tmp_path / "out")
    assert end(start(*job)) == 0
    scores = tmp_path / "out" / "run" / "scores.csv"
    scores.write_bytes(random.Random(0).randbytes(200))
    job[2] |= {"resume": True}
    job[2]["budgets"]["short"]["epochs"] = 4
    assert end(start(*job)) == 1
    (line,) = lines(job[3])
    assert line.startswith(f"error: {scores}: not a table of scores; move it away")
    scores.unlink()
    assert end(start(*job)) == 0


@pytest.mark.parametrize("name", bundle_names())
def test_inference_stops_at_a_full_disk_and_goes_on_where_there_is_room(start, tiny, tmp_path, small_disk, name):
    bundle = tiny(name)
    assert end(start(*inference(bundle, tmp_path / "whole"))) == 0
    expected = files(tmp_path / "whole")
    room = int(0.6 * sum(map(len, expected.values())))
    filling = small_disk / "filling"
    filling.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - room)))
    job = inference(bundle, small_disk / "out")
    job[3] = str(tmp_path / "log")
    assert end(start(*job)) == 1
    said = Path(job[3]).read_text(encoding="utf-8")
    (line,) = lines(job[3])
    assert re.fullmatch(rf"error: {small_disk}/out/\S+: cannot be written: No space left on device, .* free", line), (
        said
    )
    assert said.count(" voxels, about ") < 4 or name == "us_despeckle"  # later cases are not computed
    assert not hidden(small_disk / "out")
    filling.unlink()
    job = inference(bundle, tmp_path / "out")  # results of this size may not fit at all
    shutil.copytree(small_disk / "out", tmp_path / "out")
    assert end(start(*job)) == 0
    assert files(tmp_path / "out").keys() == expected.keys()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8])
def test_a_training_on_a_full_disk_ends_in_one_line(start, tiny, tmp_path, small_disk, share):
    bundle = tiny("rslm_denoise")
    filling = small_disk / "filling"
    filling.write_bytes(bytes(int((1 - share) * shutil.disk_usage(small_disk).free)))
    job = training(bundle, small_disk / "out")
    job[3] = str(tmp_path / "log")
    assert end(start(*job)) == 1
    (line,) = lines(job[3])
    assert "cannot be written: No space left on device, " in line and line.startswith("error: ")
    assert not [path for path in hidden(small_disk / "out") if not path.endswith(".lock")]
    for path in (small_disk / "out").rglob("*.pt"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("job", [training, inference])
def test_a_read_only_place_is_told_before_any_work(start, tiny, tmp_path, small_disk, remount, job):
    remount(small_disk, "ro")
    words = job(tiny("rslm_denoise"), small_disk / "out")
    words[3] = str(tmp_path / "log")
    assert end(start(*words)) == 1
    (line,) = lines(words[3])
    assert re.fullmatch(rf"error: {small_disk}/out\S*: cannot be written: Read-only file system, .* free", line)
    assert "voxels" not in Path(words[3]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "room", "edge"),
    [*((name, 1.0, 400) for name in bundle_names() if name != "us_despeckle"), ("rslm_denoise", 2.5, 1000)],
)
def test_a_volume_beyond_the_memory_costs_its_case_alone(start, tiny, tmp_path, name, room, edge):
    bundle, scans = tiny(name), tmp_path / "scans"
    shutil.copytree(bundle.data, scans)
    case = next(path for path in sorted(scans.iterdir()) if path.is_dir())
    for number, path in enumerate(case.glob("*.nii*")):
        header = nib.Nifti1Header()
        header.set_data_shape((edge,) * 3)
        header.set_data_dtype("uint8")
        header.set_sform(np.eye(4), 1)
        path.unlink()
        with path.with_name(path.name.replace(".gz", "")).open("wb") as file:
            header.write_to(file)
            for _ in range(edge if edge < 500 else 1):  # the larger one does not even load, and takes no disk
                file.write(np.random.default_rng(number).integers(1, 200, edge**2, "uint8"))
            file.truncate(352 + edge**3)
    job = inference(bundle, tmp_path / "out", dataset_dir=str(scans))
    assert end(start(*job, room=room)) == 1, Path(job[3]).read_text(encoding="utf-8")
    said = Path(job[3]).read_text(encoding="utf-8")
    assert "Traceback" not in said and "3 of 4 cases done" in said, said
    (line,) = [line for line in said.splitlines() if line.startswith("ERROR   ") and case.name in line]
    assert "llocate" in line, said
    assert not hidden(tmp_path / "out")


def test_results_into_a_file_are_refused_in_one_line(start, tiny, tmp_path):
    (tmp_path / "out").touch()
    for job in (training, inference):
        words = job(tiny("rslm_denoise"), tmp_path / "out")
        assert end(start(*words)) == 1
        (line,) = lines(words[3])
        assert line.startswith(f"error: {tmp_path}/out") and "cannot be written: " in line


def test_read_only_models_do_not_cost_a_finished_training_its_summary(start, tiny, tmp_path, small_disk, remount):
    bundle = tiny("mri_sr3d")
    shutil.copytree(bundle.models, small_disk / "models")
    remount(small_disk, "ro")
    job = training(bundle, tmp_path / "out", ckpt_dir=str(small_disk / "models"), promote=True)
    job[2]["budgets"]["short"]["fine_tuning_rate"] = 0.01
    assert end(start(*job)) == 0, Path(job[3]).read_text(encoding="utf-8")
    said = Path(job[3]).read_text(encoding="utf-8")
    *_, summary, page = said.rstrip().splitlines()
    assert summary.startswith("summary: ") and page.startswith("report ")
    assert f"{small_disk}/models/model.pt stays: " in said
    assert "Traceback" not in said


def test_a_runs_record_names_no_folder(start, tiny, tmp_path):
    bundle = tiny("brasyn_synthesis")
    folder = tmp_path / "Doe^Jane [1960] 'o'"
    folder.mkdir()
    data = folder / "scans"
    shutil.copytree(bundle.data, data)
    job = training(bundle, folder / "out", dataset_dir=str(data))
    assert end(start(*job)) == 0, Path(job[3]).read_text(encoding="utf-8")
    record = (folder / "out" / "run" / "config.json").read_text(encoding="utf-8")
    assert json.loads(record) and "Doe" not in record and str(tmp_path) not in record
