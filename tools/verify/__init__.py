# SPDX-License-Identifier: Apache-2.0
"""Check a bundle as the Model Zoo does, offline: ``python -m tools.verify mri_sr3d`` or ``… ZIP --trust true``.

A zip's members are checked before any is written, and its files before any of its code runs, which ``trust`` allows.
Nothing here imports `common`: a zip's checks must find the copy in the zip, not the repository's.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.command import run_command
from tools.package import bundle_folder, bundle_names

from . import archive, configs, files, grid, inference, network

__all__ = ["CHECKS", "check_folder", "main", "verify"]

CHECKS = {
    "layout": files.check_layout,
    "imports": files.check_imports,
    "metadata": files.check_metadata,
    "properties": files.check_properties,
    "keys": configs.check_keys,
    "paths": configs.check_paths,
    "shared blocks": configs.check_shared_blocks,
    "weights": network.check_weights,
    "shapes": network.check_shapes,
    "output grid": grid.check_grid,
    "inference": inference.check_inference,
    "TorchScript": network.check_torchscript,
    "torch.export": network.check_export,
    "ONNX": network.check_onnx,
}
# checks that read files and run nothing of the bundle's
READING = ("layout", "metadata", "paths", "shared blocks")
# The tools come from where they run, all that a bundle brings from its folder, which therefore leads `sys.path`.
CHILD = """
import sys
sys.path[:] = [sys.argv[1], *(path for path in sys.path if path)]
from tools.verify import READING, check_folder
sys.path[:0] = sys.argv[2:3] * (sys.argv[4] == "all")
sys.exit(0 if check_folder(sys.argv[3], None if sys.argv[4] == "all" else READING) else 1)
"""


def verify(target: str, trust: bool = False) -> bool:
    """Check a bundle, by name or packed as a zip: one line per check, exit status 1 if one fails.

    Args:
        target: a bundle of this collection, such as mri_sr3d, or a zip that tools.package made
        trust: true runs the code that a zip brings, with your rights; else a zip's files are read only, and the checks
            that need its code are left out, which counts as not passed
    """
    target = str(target)
    with contextlib.ExitStack() as stack:
        if target.endswith(".zip"):
            return _check_zip(stack, target, str(trust).lower() in ("true", "yes", "1"))
        if target not in bundle_names():
            raise ValueError(f"{target} is neither a zip nor one of {', '.join(bundle_names())}")
        folder = bundle_folder(target)
        sys.path.insert(0, str(folder))
        stack.callback(sys.path.remove, str(folder))
        importlib.invalidate_caches()
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        return check_folder(target)


def _check_zip(stack: contextlib.ExitStack, target: str, trust: bool) -> bool:
    zipped = stack.enter_context(zipfile.ZipFile(target))
    try:
        name = archive.check_archive(zipped)
    except ValueError as error:
        raise ValueError(f"{target}: {error}; nothing was unpacked") from error
    wrong = archive.check_json(zipped, name)
    print(f"{_state(wrong):<5}archive{': ' + '; '.join(wrong) if wrong else ''}", flush=True)
    if wrong:
        print(f"{name}: not fit to be shared; nothing was unpacked", flush=True)
        return False
    outside = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    archive.unpack(zipped, outside)
    folder = (outside / name).resolve()
    if not trust:
        _check_elsewhere(folder, "files")
        print(f"{name}: the other checks run the code in the zip, with your rights and unconfined; read it first,")
        print(f"{name}: then ask for them: python -m tools.verify {target} --trust true", flush=True)
        return False
    return _check_elsewhere(folder, "all")


def check_folder(name: str, only: Sequence[str] | None = None) -> bool:
    """Check the bundle of this name in the working directory, where Python finds its packages.

    Args:
        name: the bundle.
        only: titles of the checks to do; None for all.
    """
    passed = True
    for title, check in CHECKS.items():
        if only is not None and title not in only:
            continue
        wrong = _reasons(check, name)
        passed = passed and not wrong
        print(f"{_state(wrong):<5}{title}{': ' + '; '.join(wrong) if wrong else ''}", flush=True)
    if only is not None:
        return passed
    print(f"{name}: {'all checks passed' if passed else 'not fit to be shared'}", flush=True)
    return passed


def _state(wrong: list[str] | None) -> str:
    return "-" if wrong is None else "FAIL" if wrong else "ok"


def _reasons(check: Callable[[str], list[str] | None], name: str) -> list[str] | None:
    """What a check found; None where it does not apply."""
    try:
        return check(name)
    except ModuleNotFoundError as error:
        own = (error.name or "").split(".")[0] in ("common", f"{name}_lib")
        return [str(error) if own else f'needs {error.name or error}: pip install ".[export]"']
    except Exception as error:  # a bundle can fail in any way; each is one line of the report
        text = " ".join(str(error).split())
        return [f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"]


def _check_elsewhere(folder: Path, which: str) -> bool:
    """`check_folder` in a process of its own, where nothing of the repository's `common` has been imported yet.

    Args:
        folder: the unpacked bundle.
        which: "all", or "files" for what runs nothing of the bundle: its folder is then no place to import from.
    """
    words = [sys.executable, "-c", CHILD, str(Path(__file__).parents[2]), str(folder), folder.name, which]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, encoding="utf-8", env=env) as child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
    if child.returncode not in (0, 1):
        print(f"FAIL the checks ended with status {child.returncode}", flush=True)
    return child.returncode == 0


def main() -> None:
    """Run the command line; exit status 1 also where a check fails."""
    if run_command(verify, "verify", [zipfile.BadZipFile], serialize=lambda result: None) is False:
        sys.exit(1)
