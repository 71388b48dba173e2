# SPDX-License-Identifier: Apache-2.0
"""Check a bundle as the Model Zoo does, offline: ``python -m tools.verify mri_sr3d`` or ``… ZIP``."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fire

from common.headers import one_line
from tools.package import ROOT, bundle_names

from . import files, network

__all__ = ["CHECKS", "main", "verify"]

CHECKS = {
    "layout": files.check_layout,
    "metadata": files.check_metadata,
    "properties": files.check_properties,
    "keys": files.check_keys,
    "shared blocks": files.check_shared_blocks,
    "weights": network.check_weights,
    "shapes": network.check_shapes,
    "TorchScript": network.check_torchscript,
    "torch.export": network.check_export,
    "ONNX": network.check_onnx,
}


def verify(target: str) -> bool:
    """Check a bundle, by name or packed as a zip: one line per check, exit status 1 if one fails.

    Args:
        target: a bundle of this collection, such as mri_sr3d, or a zip that tools.package made
    """
    passed = True
    with _opened(str(target)) as name:
        for title, check in CHECKS.items():
            wrong = _reasons(check, name)
            passed = passed and not wrong
            print(f"{'FAIL' if wrong else 'ok':<5}{title}{': ' + '; '.join(wrong) if wrong else ''}", flush=True)
    print(f"{name}: {'all checks passed' if passed else 'not fit to be shared'}")
    return passed


def _reasons(check: Callable[[str], list[str]], name: str) -> list[str]:
    try:
        return check(name)
    except ModuleNotFoundError as error:
        return [f'needs {error.name or error}: pip install ".[export]"']
    except Exception as error:  # a bundle can fail in any way; each is one line of the report
        return [f"{type(error).__name__}: {one_line(error)}"]


@contextlib.contextmanager
def _opened(target: str) -> Iterator[str]:
    """Name of a bundle; within, its folder is the working directory and its package can be imported."""
    with contextlib.ExitStack() as stack:
        if target.endswith(".zip"):
            outside = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            with zipfile.ZipFile(target) as archive:
                names = {path.split("/")[0] for path in archive.namelist()}
                if len(names) != 1:
                    raise ValueError(f"{target}: holds {len(names)} top folders instead of one")
                archive.extractall(outside)
            folder = outside / names.pop()
        elif target in bundle_names():
            folder = ROOT / "bundles" / target
        else:
            raise ValueError(f"{target} is neither a zip nor one of {', '.join(bundle_names())}")
        sys.path.insert(0, str(folder))
        stack.callback(sys.path.remove, str(folder))
        importlib.invalidate_caches()
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        yield folder.name


def main() -> None:
    """Run the command line; what the user can put right is told in one line, with exit status 1."""
    try:
        passed = fire.Fire(verify, name="verify", serialize=lambda result: None)
    except (ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        sys.exit(f"error: {error}")
    if passed is False:
        sys.exit(1)
