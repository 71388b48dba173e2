# SPDX-License-Identifier: Apache-2.0
"""Check a bundle as the Model Zoo does, offline: ``python -m tools.verify mri_sr3d`` or ``… ZIP``.

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
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.command import run_command
from tools.package import ROOT, bundle_names

from . import configs, files, grid, inference, network

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
# The tools come from where they run, all that a bundle brings from its folder, which therefore leads `sys.path`.
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from tools.verify import check_folder
sys.path.insert(0, sys.argv[2])
sys.exit(0 if check_folder(sys.argv[3]) else 1)
"""


def verify(target: str) -> bool:
    """Check a bundle, by name or packed as a zip: one line per check, exit status 1 if one fails.

    Args:
        target: a bundle of this collection, such as mri_sr3d, or a zip that tools.package made
    """
    target = str(target)
    with contextlib.ExitStack() as stack:
        if target.endswith(".zip"):
            return _check_elsewhere(stack.enter_context(_unpacked(target)))
        if target not in bundle_names():
            raise ValueError(f"{target} is neither a zip nor one of {', '.join(bundle_names())}")
        folder = ROOT / "bundles" / target
        sys.path.insert(0, str(folder))
        stack.callback(sys.path.remove, str(folder))
        importlib.invalidate_caches()
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        return check_folder(target)


def check_folder(name: str) -> bool:
    """Check the bundle of this name in the working directory, where Python finds its packages.

    Args:
        name: the bundle.
    """
    passed = True
    for title, check in CHECKS.items():
        wrong = _reasons(check, name)
        passed = passed and not wrong
        print(f"{_state(wrong):<5}{title}{': ' + '; '.join(wrong) if wrong else ''}", flush=True)
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


def _check_elsewhere(folder: Path) -> bool:
    """`check_folder` in a process of its own, where nothing of the repository's `common` has been imported yet."""
    words = [sys.executable, "-c", CHILD, str(Path(__file__).parents[2]), str(folder), folder.name]
    told = {"stdout": subprocess.PIPE, "encoding": "utf-8", "env": {**os.environ, "PYTHONIOENCODING": "utf-8"}}
    with subprocess.Popen(words, cwd=folder, **told) as child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
    if child.returncode not in (0, 1):
        print(f"FAIL the checks ended with status {child.returncode}", flush=True)
    return child.returncode == 0


@contextlib.contextmanager
def _unpacked(target: str) -> Iterator[Path]:
    """The zip's only folder, unpacked for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as outside:
        with zipfile.ZipFile(target) as archive:
            names = {path.split("/")[0] for path in archive.namelist()}
            if len(names) != 1:
                raise ValueError(f"{target}: holds {len(names)} top folders instead of one")
            archive.extractall(outside)
        yield Path(outside, names.pop()).resolve()


def main() -> None:
    """Run the command line; exit status 1 also where a check fails."""
    if run_command(verify, "verify", [zipfile.BadZipFile], serialize=lambda result: None) is False:
        sys.exit(1)
