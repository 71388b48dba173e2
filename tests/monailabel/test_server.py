# SPDX-License-Identifier: Apache-2.0
"""All bundles in the real, unmodified MONAI Label server: the same results as from the command line.

Needs the environment of ``python -m tools.label_env``; ``MONAILABEL_PYTHON`` names its interpreter if it lies elsewhere
than in ``.venv-label``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tools.label_env import make_app, start_command
from tools.package import ROOT, bundle_names

requests = pytest.importorskip("requests")
PYTHON = Path(os.environ.get("MONAILABEL_PYTHON", ROOT / ".venv-label" / "bin" / "python"))
pytestmark = [
    pytest.mark.monailabel,
    pytest.mark.skipif(not PYTHON.is_file(), reason="no environment of MONAI Label: python -m tools.label_env"),
]
VOLUMES = ("mri_sr3d", "rslm_denoise")  # take one volume and give one
SECONDS = 300


def brain(path, seed):
    """An oblique volume of 1 x 1 x 2 mm."""
    random = np.random.default_rng(seed)
    image = np.zeros((30, 34, 20), np.float32)
    image[5:25, 6:28, 3:17] = 300 + 200 * random.random((20, 22, 14))
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([1, 1, 2]), [-10, 5, 7]
    nib.save(nib.Nifti1Image(gaussian_filter(image, 1), affine), path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a running server, its app and its studies."""
    root = tmp_path_factory.mktemp("label")
    app, studies = root / "app", root / "studies"
    studies.mkdir()
    make_app(PYTHON, app, bundle_names())
    for number in range(3):
        brain(studies / f"case{number}.nii.gz", number)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {**os.environ, "HOME": str(root), "PYTHONPATH": ""}
    with (root / "server.log").open("w") as log:
        command = start_command(PYTHON, app, studies, bundle_names(), port)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=root, env=settings)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(process, address, root / "server.log")
        yield address, app, studies
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


def log_of(app):
    return (app.parent / "server.log").read_text(encoding="utf-8")[-3000:]


def run_bundle(folder, source, out, **keys):
    """The bundle's own inference, in its folder."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(source), "--output_dir", str(out)]
    command += [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]


def test_all_bundles_are_served(server):
    address, _, _ = server
    assert set(requests.get(f"{address}/info/", timeout=60).json()["models"]) == set(bundle_names())


@pytest.mark.parametrize("name", [*VOLUMES, *VOLUMES])  # twice each: one bundle's modules do not get in another's way
def test_a_result_equals_the_command_line_s(server, name, tmp_path):
    address, app, studies = server
    url = f"{address}/infer/{name}?image=case0&output=image"
    answer = requests.post(url, data={"params": "{}"}, timeout=SECONDS)
    assert answer.status_code == 200, log_of(app)
    (tmp_path / "served.nii.gz").write_bytes(answer.content)
    run_bundle(app / "model" / name, studies / "case0.nii.gz", tmp_path / "own")
    served = nib.load(tmp_path / "served.nii.gz")
    own = nib.load(next((tmp_path / "own").glob("case0_*.nii.gz")))
    assert served.shape == own.shape == ((30, 34, 40) if name == "mri_sr3d" else (30, 34, 20))
    np.testing.assert_allclose(served.affine, own.affine, atol=1e-4)
    values = own.get_fdata()
    np.testing.assert_allclose(served.get_fdata(), values, atol=1e-4 * np.abs(values).max())
