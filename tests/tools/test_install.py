# SPDX-License-Identifier: Apache-2.0
"""The collection as ``pip install .`` leaves it: without the clone, tools, libraries and weights are all there."""

from __future__ import annotations

import configparser
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.package import ROOT, bundle_names


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = set(setup["options"]["packages"].split())
    roots = {folder: ROOT / folder for folder in ("common", "tools")}
    roots |= {f"{name}_lib": ROOT / "bundles" / name / f"{name}_lib" for name in bundle_names()}
    found = set()
    for name, root in roots.items():
        for path in root.rglob("__init__.py"):
            found.add(".".join((name, *path.parent.relative_to(root).parts)))
    assert named == found


@pytest.mark.environment
def test_an_installed_collection_works_without_its_clone(tmp_path):
    clone, env, work = tmp_path / "clone", tmp_path / "env", tmp_path / "work"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    venv.create(env, with_pip=True)
    python = env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", clone]
    subprocess.run([str(word) for word in install], check=True, timeout=600)
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    clone.rename(tmp_path / "gone")
    work.mkdir()
    image = nib.Nifti1Image(np.random.default_rng(0).random((24, 24, 12), np.float32) + 1, np.diag([1, 1, 2, 1]))
    nib.save(image, work / "scan.nii.gz")

    def run(*words):
        alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [str(python), *words], cwd=work, env=alone, capture_output=True, encoding="utf-8", timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run("-c", "import common, mri_sr3d_lib; print(common.__file__); print(mri_sr3d_lib.__file__)")
    assert all(line.startswith(str(env)) for line in where.splitlines()), where
    assert all(name in run("-m", "tools.bundles") for name in bundle_names())
    for name in bundle_names():
        configs = run("-c", f"from {name}_lib.recipe import RECIPE; print(RECIPE.configs)").strip()
        assert configs.startswith(str(env)) and Path(configs, "train.json").is_file()
        run("-m", "tools.package", name, "--out", "dist")
        assert (work / "dist" / f"{name}.zip").is_file()
    folder = run("-m", "tools.bundles", "mri_sr3d").split("configurations and weights: ")[1].splitlines()[0]
    assert folder.startswith(str(env))
    run(
        *("-m", "monai.bundle", "run", "--config_file", f"{folder}/configs/inference.json"),
        *("--dataset_dir", "scan.nii.gz", "--output_dir", "results", "--device", "cpu"),
    )
    (result,) = (work / "results").rglob("*.nii.gz")
    assert nib.load(result).shape == (24, 24, 24)
