# SPDX-License-Identifier: Apache-2.0
"""Zips at work where this repository is not: unzipped, with only the packages that their metadata names.

Minutes go by until pip has made the environments, so this runs only with ``pytest -m environment``.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
import zipfile
from pathlib import Path

import onnx
import pytest
import torch

from tools.package import bundle_names, package
from tools.verify.schema import SCHEMA

BUNDLES = Path(__file__).parents[2] / "bundles"
OVERLAYS = {"train": ["train"], "evaluate": ["train", "evaluate"], "inference": ["inference"]}
INFERENCE = {
    "mri_sr3d": {"sequence": "t1c", "scale": "[1,1,2]"},
    "rslm_denoise": {"sequence": "t1c"},
    "brasyn_synthesis": {"target": "t1c", "views": 1},
    "lesion_msgan": {"sequence": "t1c"},
}
# The commands as a user types them after "python -m monai.bundle", in one process because its start takes longest.
PROGRAM = """
import json, runpy, sys
from pathlib import Path
for words in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    print("+", *words, flush=True)
    sys.argv = ["monai.bundle", *words]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def requirements(name):
    """Pins of everything that a bundle's metadata names."""
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
    pins = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"]}
    pins |= {"numpy": metadata["numpy_version"], **metadata["required_packages_version"]}
    return {f"{package}=={version}" for package, version in pins.items()}


def install(python, target, pins):
    """Install with the pip of ``python`` into ``target``'s environment."""
    words = [python, "-m", "pip", "--python", target, "install", "--quiet", "--no-compile", *sorted(pins)]
    done = subprocess.run([str(word) for word in words], capture_output=True, encoding="utf-8", timeout=1800)
    assert done.returncode == 0, f"pip cannot install the packages of the metadata: {done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The interpreter of an environment with the packages that all bundles name."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, with_pip=True)
    python = interpreter(folder)
    install(python, python, set.intersection(*map(requirements, bundle_names())))
    return python


def interpreter(folder):
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def site_packages(python):
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([str(python), "-c", program], capture_output=True, encoding="utf-8").stdout.strip())


@pytest.fixture
def environment(base, tmp_path):
    """A function that makes a bundle's environment: the packages of ``base`` and the rest of its own."""

    def make(name):
        venv.create(tmp_path / "environment")
        python = interpreter(tmp_path / "environment")
        (site_packages(python) / "base.pth").write_text(f"{site_packages(base)}\n", encoding="utf-8")
        install(base, python, requirements(name))
        return python

    return make


def commands(bundle, output_dir):
    """The words of every command, with the shipped weights and networks."""
    lines = []
    for job, configs in OVERLAYS.items():
        keys = {**bundle.keys(job, output_dir / job), **(INFERENCE.get(bundle.name, {}) if job == "inference" else {})}
        del keys["ckpt_dir"]
        keys = {key: value for key, value in keys.items() if not key.startswith("network_def")}
        if "compared" in keys:
            keys["compared"] = "[gaussian,nlm]"
        if job == "inference":
            part = "low/frame-000.png" if bundle.name == "us_despeckle" else "sample-000"
            keys["dataset_dir"] = str(bundle.data / part)
        files = [f"configs/{config}.json" for config in configs]
        options = [word for key, value in keys.items() if value is not None for word in (f"--{key}", str(value))]
        lines.append(["run", "--config_file", str(files), *options])
    network = ["--net_id", "network_def", "--config_file", "configs/inference.json"]
    metadata = ["--meta_file", "configs/metadata.json"]
    weights = ["--ckpt_file", "models/model.pt"]
    return [
        *lines,
        ["verify_metadata", *metadata, "--filepath", "eval/schema.json"],
        ["verify_net_in_out", *network, *metadata],
        ["ckpt_export", *network, *metadata, *weights, "--filepath", "models/model.ts"],
        ["onnx_export", *network, *metadata, *weights, "--filepath", "models/model.onnx"],
    ]


@pytest.mark.environment
@pytest.mark.parametrize("name", bundle_names())
def test_every_command_works_with_nothing_but_the_packages_of_the_metadata(environment, tiny, tmp_path, name):
    with zipfile.ZipFile(package(name, str(tmp_path))) as archive:
        archive.extractall(tmp_path)
    inside, results = tmp_path / name, tmp_path / "results"
    (inside / "eval").mkdir()
    (inside / "eval" / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    words = tmp_path / "commands.json"
    words.write_text(json.dumps(commands(tiny(name), results)), encoding="utf-8")
    alone = {key: value for key, value in os.environ.items() if key in ("PATH", "SYSTEMROOT", "OMP_NUM_THREADS")}
    alone |= {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "cache")}
    done = subprocess.run(
        [str(environment(name)), "-c", PROGRAM, str(words)],
        **{"cwd": inside, "env": alone, "capture_output": True, "encoding": "utf-8", "timeout": 600},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert list(results.glob("train/*/best.pt")) and list(results.glob("evaluate/*/scores.csv")), done.stdout[-2000:]
    assert [path for path in (results / "inference").rglob("*") if path.suffix in (".gz", ".png")], done.stdout[-2000:]
    assert torch.jit.load(inside / "models" / "model.ts").state_dict()
    onnx.checker.check_model(str(inside / "models" / "model.onnx"))
