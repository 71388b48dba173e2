# SPDX-License-Identifier: Apache-2.0
"""An environment and an app for MONAI Label with the bundles in it: ``python -m tools.label_env``."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.command import run_command
from tools.package import bundle_names, package

__all__ = ["PACKAGES", "change_keys", "label_env", "main", "make_app", "start_command"]

# MONAI Label 0.8.5 names packages that exclude each other (pydicom-seg wants numpy below 2 and pydicom below 3,
# numpymaxflow numpy below 2, sam2 builds against the newest torch); these are the ones that its server and the app for
# bundles import, found by running both.
PACKAGES = (
    *("torch>=2.8,<2.14", "monai>=1.6.1,<1.7", "numpy>=2,<3", "scipy", "nibabel", "scikit-image", "pillow", "itk-io"),
    *(
        "pytorch-ignite",
        "fire",
        "tqdm",
        "tensorboard",
        "psutil",
        "pyyaml",
        "SimpleITK",
        "fastapi",
        "uvicorn",
        "pydantic",
    ),
    *("pydantic-settings", "python-multipart", "httpx", "requests", "requests-toolbelt", "schedule", "timeloop"),
    *("cachetools", "expiring_dict", "watchdog", "filelock", "dicomweb-client<0.61", "google-auth", "pydicom<3"),
    *("jsonschema", "pynrrd", "shapely", "pyjwt", "passlib", "girder-client"),
)
ALONE = ("monailabel==0.8.5", "pydicom-seg==0.4.1")  # installed without what they ask for
# MONAI Label imports two functions of torchvision for a transform that no bundle uses.
STAND_IN = {
    "pyproject.toml": '[project]\nname = "torchvision"\nversion = "0.0.0"\ndescription = "two names for MONAI Label"\n'
    '[tool.setuptools]\npackages = ["torchvision"]\n',
    "torchvision/__init__.py": '__version__ = "0.0.0"\n',
    "torchvision/utils.py": "def make_grid(*args, **options):\n"
    "    raise RuntimeError('this environment has no torchvision; install it to let MONAI Label draw grids')\n"
    "\n\nsave_image = make_grid\n",
}


def label_env(
    env: str = ".venv-label",
    app: str = "label-app",
    names: Sequence[str] | None = None,
    train: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
) -> None:
    """Make a virtual environment with MONAI Label, and an app that serves the bundles; then say how to start it.

    The environment is MONAI Label's own, beside yours: its packages and yours exclude each other. Takes two minutes and
    2 GB. The app holds copies of the bundles: training in MONAI Label changes them, never this repository. Both are
    kept where they exist, so the command can be repeated.

    Args:
        env: folder of the environment; Python 3.10 or 3.11, since MONAI Label needs modules that later ones lack
        app: folder of the app
        names: bundles to serve, such as "[mri_sr3d]"; all if not given
        train: keys to change in the copies' train.json, such as "{budget: short}", since MONAI Label's requests cannot;
            "budgets::short::patches" is a key within a key
        inference: keys to change in the copies' inference.json, such as "{memory_gb: 8}"
    """
    for keys in (train, inference):
        if keys is not None and not isinstance(keys, Mapping):
            raise ValueError(f"keys to change look like {{budget: short}}, got {keys!r}")
    chosen = bundle_names() if names is None else [names] if isinstance(names, str) else list(names)
    unknown = set(chosen) - set(bundle_names())
    if unknown:
        raise ValueError(f"no bundle is called {', '.join(sorted(unknown))}; there are {', '.join(bundle_names())}")
    python = _make_env(Path(str(env)))
    make_app(python, Path(str(app)), chosen)
    given = [(f"{config}.json", keys) for config, keys in (("train", train), ("inference", inference)) if keys]
    change_keys([(Path(str(app)) / "model" / name / "configs" / file, keys) for name in chosen for file, keys in given])
    print("Start the server with:\n" + shlex.join(start_command(python, Path(str(app)), Path("STUDIES"), chosen)))


def _interpreter() -> str:
    """A Python that MONAI Label runs with: this one, or one on the path."""
    if sys.version_info < (3, 12):
        return sys.executable
    for name in ("python3.11", "python3.10"):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", "import venv"], capture_output=True).returncode == 0:
            return path
    raise ValueError("MONAI Label needs Python 3.10 or 3.11; install one of them")


def _make_env(folder: Path) -> Path:
    """The environment's interpreter; installs where MONAI Label is not there yet."""
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([_interpreter(), "-m", "venv", str(folder)], check=True)
    probe = [str(python), "-c", "import monailabel.main"]
    if subprocess.run(probe, capture_output=True).returncode:
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", *ALONE], check=True)
        if subprocess.run([str(python), "-c", "import torchvision.utils"], capture_output=True).returncode:
            with tempfile.TemporaryDirectory() as stub:
                for name, text in STAND_IN.items():
                    path = Path(stub, name)
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(text, encoding="utf-8")
                subprocess.run([*pip, "--no-deps", stub], check=True)
        subprocess.run(probe, check=True)
    return python


def make_app(python: Path, folder: Path, names: Sequence[str]) -> None:
    """The stock app for bundles with a packed copy of each bundle in it.

    Args:
        python: interpreter of an environment with MONAI Label.
        folder: where the app goes; bundles that it holds are kept.
        names: bundles to serve.
    """
    if not (folder / "main.py").is_file():
        where = subprocess.run(
            [str(python), "-c", "import sys; print(sys.prefix)"], capture_output=True, encoding="utf-8"
        )
        shutil.copytree(
            Path(where.stdout.strip()) / "monailabel" / "sample-apps" / "monaibundle", folder, dirs_exist_ok=True
        )
    for name in names:
        if not (folder / "model" / name).is_dir():
            with tempfile.TemporaryDirectory() as packed, zipfile.ZipFile(package(name, packed)) as archive:
                archive.extractall(folder / "model")


def change_keys(changes: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Changes keys of configuration files.

    Args:
        changes: files and their new values; ``a::b`` is the key b within a.

    Raises:
        ValueError: a key that a file does not have; then all files stay as they were.
    """
    made = [(path, _changed(path, keys)) for path, keys in changes]
    for path, content in made:
        path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _changed(path: Path, keys: Mapping[str, Any]) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in keys.items():
        *outer, last = str(key).split("::")
        place = content
        for part in outer:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise ValueError(f"{path} has no key {key}")
        place[last] = value
    return content


def start_command(python: Path, app: Path, studies: Path, names: Sequence[str], port: int = 8000) -> list[str]:
    """The command that starts the server on this machine alone.

    Args:
        python: interpreter of the environment.
        app: the app's folder.
        studies: folder of images.
        names: bundles to serve.
        port: to listen on.
    """
    where = ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    served = ["--conf", "models", ",".join(names), "--conf", "zoo_source", "local"]
    return [str(python), "-m", "monailabel.main", "start_server", *where, *served]


def main() -> None:
    """Run the command line."""
    run_command(label_env, "label_env", [subprocess.CalledProcessError], _reason)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{shlex.join(map(str, error.cmd))[:200]} failed with status {error.returncode}"
    return str(error)


if __name__ == "__main__":
    main()
