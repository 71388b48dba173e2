# SPDX-License-Identifier: Apache-2.0
"""All bundles in the real, unmodified MONAI Label server: the same results as from the command line.

Needs the environment of ``python -m tools.label_env``; ``MONAILABEL_PYTHON`` names its interpreter if it lies elsewhere
than in ``.venv-label``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from tools.label_env import change_keys, make_app, start_command
from tools.package import ROOT, bundle_names

PYTHON = Path(os.environ.get("MONAILABEL_PYTHON", ROOT / ".venv-label" / "bin" / "python"))
pytestmark = [
    pytest.mark.monailabel,
    pytest.mark.skipif(not PYTHON.is_file(), reason="no environment of MONAI Label: python -m tools.label_env"),
]
SECONDS = 300
SHAPE = (20, 24, 12)
TURN = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
# keys of the copies' train.json: little to train on, since the way through the server is tested
BUDGET = {"patches": 12, "batch_size": 2, "patch_size": 10, "val_crop": 12}
TRAIN = {
    "mri_sr3d": {"test_scales": [[1, 1, 2]]},
    "rslm_denoise": {"test_levels": [5]},
}


@dataclass
class Case:
    """A request, and the same on the command line."""

    bundle: str
    image: str  # below the studies
    result: str  # what the command line writes
    shape: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    params: dict = field(default_factory=dict)
    mask: str | None = None
    keys: dict = field(default_factory=dict)


CASES = {
    "super-resolution": Case("mri_sr3d", "scan0.nii.gz", "scan0_sr.nii.gz", (20, 24, 24), (1, 1, 1)),
    "super-resolution to a spacing": Case(
        *("mri_sr3d", "scan1.nii.gz", "scan1_sr.nii.gz", (25, 30, 12), (0.8, 0.8, 2)),
        params={"spacing": [0.8, 0.8, 2]},
        keys={"spacing": "[0.8,0.8,2]"},
    ),
    "denoising": Case("rslm_denoise", "scan0.nii.gz", "scan0_denoised.nii.gz", SHAPE, (1, 1, 2)),
    "lesion": Case("lesion_msgan", "scan0.nii.gz", "scan0_sr.nii.gz", (80, 96, 12), (0.25, 0.25, 2)),
    "lesion with a mask": Case(
        *("lesion_msgan", "scan0.nii.gz", "scan0_sr.nii.gz", (80, 96, 12), (0.25, 0.25, 2)), mask="mask.nii.gz"
    ),
    "lesion in a picture": Case("lesion_msgan", "frame.png", "frame_sr.png", (240, 160)),
    "synthesis from a 4D file": Case(
        *("brasyn_synthesis", "stack.nii.gz", "stack-t1c.nii.gz", SHAPE, (1, 1, 1)), keys={"target": "t1c"}
    ),
    "despeckling": Case("us_despeckle", "frame.png", "frame_despeckled.png", (60, 40)),
    "despeckling of a region": Case(
        *("us_despeckle", "frame.png", "frame_despeckled.png", (60, 40)),
        params={"region": [5, 10, 30, 50]},
        keys={"region": "[5,10,30,50]"},
    ),
}


def brain(seed):
    """A volume of two tissues; its outside is 0."""
    random = np.random.default_rng(seed)
    image = np.zeros(SHAPE, np.float32)
    image[3:17, 4:20, 2:10] = 300 + 200 * random.random((14, 16, 8))
    return gaussian_filter(image, 0.7)


def save(path, image, spacing):
    """An oblique volume."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TURN @ np.diag(spacing), [-10, 5, 7]
    nib.save(nib.Nifti1Image(image, affine), path)


def write_studies(folder):
    """Volumes, a mask, a 4D file, three files of a case, and a picture with text in its margin."""
    folder.mkdir()
    for number in range(3):
        save(folder / f"scan{number}.nii.gz", brain(number), (1, 1, 2))
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:12, 10:14, 4:7] = 1
    save(folder / "mask.nii.gz", mask, (1, 1, 2))
    sequences = [brain(7), brain(8), brain(9)]
    save(folder / "stack.nii.gz", np.stack(sequences, axis=-1), (1, 1, 1))
    for name, image in zip(("t1n", "t2w", "t2f"), sequences, strict=True):
        save(folder.parent / f"case-{name}.nii.gz", image, (1, 1, 1))
    random = np.random.default_rng(0)
    frame = (40 + 200 * gaussian_filter(random.random((60, 40)), 1)).clip(0, 255).astype(np.uint8)
    frame[:6] = 0
    frame[2:4, 3:12] = 250
    Image.fromarray(frame).save(folder / "frame.png")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server with all bundles: its address, app, studies and log."""
    root = tmp_path_factory.mktemp("label")
    app, studies, log = root / "app", root / "studies", root / "server.log"
    write_studies(studies)
    make_app(PYTHON, app, bundle_names())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {**os.environ, "HOME": str(root), "PYTHONPATH": ""}
    with log.open("w", encoding="utf-8") as stream:
        command = start_command(PYTHON, app, studies, bundle_names(), port)
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=root, env=settings)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(process, address, log)
        yield SimpleNamespace(address=address, app=app, studies=studies, log=log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for(process, address, log):
    for _ in range(2 * SECONDS):
        if process.poll() is not None:
            break
        try:
            requests.get(f"{address}/info/", timeout=60).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text(encoding='utf-8')[-2000:]}")


def ask(server, bundle, query, params=None, **files):
    """The server's answer, and what it logged meanwhile."""
    before = server.log.stat().st_size
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(Path(path).open("rb")) for name, path in files.items()}
        answer = requests.post(
            f"{server.address}/infer/{bundle}?output=image&{query}",
            data={"params": json.dumps(params or {})},
            files=opened or None,
            timeout=SECONDS,
        )
    for _ in range(40):  # an error is answered before it is logged
        log = server.log.read_bytes()[before:].decode()
        if answer.ok or "Error: " in log:
            break
        time.sleep(0.25)
    return answer, log


def served(server, case, folder):
    """The served result's file."""
    files = {} if case.mask is None else {"label": server.studies / case.mask}
    answer, log = ask(server, case.bundle, f"image={case.image.split('.')[0]}", case.params, **files)
    assert answer.status_code == 200, log[-3000:]
    path = folder / f"served{''.join(Path(case.result).suffixes)}"
    path.write_bytes(answer.content)
    return path


def run_bundle(server, case, out):
    """The command line's own result, from the copy that is served."""
    keys = {"dataset_dir": server.studies / case.image, "output_dir": out, **case.keys}
    if case.mask:
        keys["mask"] = server.studies / case.mask
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    keys = {**keys, "amp": False}  # MONAI Label runs networks in float32
    command += [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    folder = server.app / "model" / case.bundle
    settings = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, encoding="utf-8", timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / case.result


def assert_equal(one, other, case):
    """Shape, affine and values of two files."""
    if one.suffix == ".png":
        pictures = [np.asarray(Image.open(path)) for path in (one, other)]
        assert pictures[0].shape == pictures[1].shape == case.shape and pictures[0].dtype == pictures[1].dtype
        np.testing.assert_array_equal(*pictures)
        return
    images = [nib.load(path) for path in (one, other)]
    assert images[0].shape == images[1].shape == case.shape
    np.testing.assert_allclose(images[0].affine, images[1].affine, atol=1e-4)
    np.testing.assert_allclose(images[0].header.get_zooms(), case.spacing, rtol=1e-4)
    values = images[1].get_fdata()
    np.testing.assert_allclose(images[0].get_fdata(), values, atol=1e-4 * np.abs(values).max())


def test_all_bundles_are_served(server):
    info = requests.get(f"{server.address}/info/", timeout=60).json()
    assert set(info["models"]) == set(info["trainers"]) == set(bundle_names()) == {c.bundle for c in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_a_result_equals_the_command_line_s(server, name, tmp_path):
    assert_equal(served(server, CASES[name], tmp_path), run_bundle(server, CASES[name], tmp_path / "own"), CASES[name])


def test_the_order_of_requests_does_not_matter(server, tmp_path):
    """One bundle's modules and settings do not get in another's way: asked twice, the other way round."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    names = [name for name in CASES if not name.startswith("super-resolution to")]
    before = {}
    for name in names:
        before[name] = served(server, CASES[name], first).read_bytes()
    for name in reversed(names):
        assert served(server, CASES[name], second).read_bytes() == before[name], name


def session(server, *paths):
    with contextlib.ExitStack() as stack:
        files = [("files", (path.name, stack.enter_context(path.open("rb")))) for path in paths]
        answer = requests.put(f"{server.address}/session/", files=files, timeout=60)
    return answer.json()["session_id"]


def test_three_files_of_a_session_give_what_one_4d_file_gives(server, tmp_path):
    case = CASES["synthesis from a 4D file"]
    found = session(server, *(server.studies.parent / f"case-{name}.nii.gz" for name in ("t1n", "t2w", "t2f")))
    answer, log = ask(server, case.bundle, f"session_id={found}")
    assert answer.status_code == 200, log[-3000:]
    (tmp_path / "session.nii.gz").write_bytes(answer.content)
    assert_equal(tmp_path / "session.nii.gz", served(server, case, tmp_path), case)


def test_what_cannot_work_is_an_error_whose_reason_the_log_names(server, tmp_path):
    broken, isotropic, text = tmp_path / "broken.nii.gz", tmp_path / "isotropic.nii.gz", tmp_path / "text.png"
    image = brain(0)
    save(isotropic, image, (1, 1, 1))
    image[5, 5, 5] = np.nan
    save(broken, image, (1, 1, 2))
    text.write_text("no picture", encoding="utf-8")
    folder = server.studies.parent
    two = session(server, folder / "case-t1n.nii.gz", folder / "case-t2w.nii.gz")
    bad = [
        ("mri_sr3d", "", {}, broken, "1 voxel is NaN or infinite"),
        ("mri_sr3d", "", {}, isotropic, "isotropic already"),
        ("mri_sr3d", "image=scan0", {"spacing": "fine"}, None, "spacing must be one or three positive numbers"),
        ("rslm_denoise", "image=stack", {}, None, "3 channel"),
        ("lesion_msgan", "", {}, broken, "1 voxel is NaN or infinite"),
        ("lesion_msgan", "image=scan0", {"detector": "mask"}, None, "no mask is given"),
        ("brasyn_synthesis", "image=scan0", {}, None, "one file must be 4D with the three sequences"),
        ("brasyn_synthesis", f"session_id={two}", {}, None, "2 sequences are missing"),
        ("brasyn_synthesis", "image=stack", {"target": "pd"}, None, "target must be one of t1n, t1c, t2w, t2f"),
        ("us_despeckle", "", {}, text, "not a picture"),
        ("us_despeckle", "image=frame", {"region": [0, 0, 400, 10]}, None, "lies outside the picture"),
    ]
    for bundle, query, params, path, reason in bad:
        answer, log = ask(server, bundle, query, params, **({} if path is None else {"file": path}))
        told = [line for line in log.splitlines() if "InputError: " in line and reason in line]
        assert answer.status_code == 500 and told, (bundle, query, log[-2000:])
    # the server goes on
    case = CASES["despeckling"]
    assert served(server, case, tmp_path).is_file()


def train(server, bundle, params):
    """The task's last state, when it is over."""
    assert requests.post(f"{server.address}/train/{bundle}", json=params, timeout=60).ok
    for _ in range(2 * SECONDS):
        state = requests.get(f"{server.address}/train/", timeout=60).json()
        if state["status"] not in ("SUBMITTED", "RUNNING"):
            return state
        time.sleep(0.5)
    pytest.fail(f"{bundle} still trains: {state}")


def label(server):
    """Gives every scan a final label, which is what MONAI Label trains on."""
    for path in server.studies.glob("scan*.nii.gz"):
        with path.open("rb") as image:
            url = f"{server.address}/datastore/label?image={path.name.split('.')[0]}&tag=final"
            assert requests.put(url, files={"label": image}, timeout=60).ok


def test_a_training_that_cannot_work_names_its_reason(server):
    label(server)
    state = train(server, "brasyn_synthesis", {"max_epochs": 1, "val_split": 0.34, "device": "cpu"})
    assert state["status"] == "ERROR"
    assert any("training also needs t1n, t1c, t2w, t2f of the same case" in line for line in state["details"])


@pytest.mark.parametrize("bundle", TRAIN)
def test_training_makes_a_run_and_leaves_the_repository_alone(server, bundle):
    label(server)
    copy = server.app / "model" / bundle
    small = {f"budgets::sample::{key}": value for key, value in BUDGET.items()}
    change_keys([(copy / "configs" / "train.json", {**TRAIN[bundle], **small})])
    kept = {path: path.stat().st_mtime_ns for path in (ROOT / "bundles" / bundle).rglob("*") if path.is_file()}
    state = train(server, bundle, {"max_epochs": 2, "val_split": 0.34, "device": "cpu"})
    assert state["status"] == "DONE", "\n".join(state["details"])
    run = copy / "runs" / "sample-1"
    last = torch.load(run / "last.pt", weights_only=True)
    assert last["epoch"] == 2
    shipped = torch.load(ROOT / "bundles" / bundle / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(last["network"][key], tensor) for key, tensor in shipped.items())
    assert torch.load(run / "best.pt", weights_only=True).keys() == shipped.keys()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    # the served weights are the best of the run and of those before
    answer, log = ask(server, bundle, "image=scan0")
    assert answer.status_code == 200, log[-3000:]
