# SPDX-License-Identifier: Apache-2.0
"""Folders that runs write to."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from monai.handlers import MLFlowHandler

from common.errors import InputError
from common.io.claims import Claim
from common.io.files import remove_partials, replacing, writing
from common.io.provenance import without_folders
from common.utils.distributed import from_first, is_main_process
from common.utils.values import boolean, optional

__all__ = ["end_tracking", "run_folder", "save_config", "save_split"]


def run_folder(output_dir: str, run_name: Any, resume: Any, prefix: str) -> Path:
    """The folder of a run, made if it is new and claimed until this process ends: ``<output_dir>/<run_name>``.

    A run that ends before anything is saved leaves no folder.

    Args:
        output_dir: where runs lie.
        run_name: None for ``<prefix>-<number>``: the next free number, or the latest that can be resumed.
        resume: whether an earlier run goes on.
        prefix: first part of a name that is not given.

    Raises:
        InputError: a name with folders, a run to resume has no ``last.pt``, a new run's name is taken, or another
            process is at work in the folder.
        StorageError: the folder cannot be written to.
    """
    root, name = Path(output_dir).expanduser(), optional(run_name)
    if name and (name in (".", "..") or re.search(r"[/\\\0]", name)):
        raise InputError(f"run_name must be a name, and output_dir the folder in which it lies; got {name!r}")
    return from_first(lambda: _claimed(root, name, boolean(resume), prefix))


def _claimed(root: Path, name: str | None, resume: bool, prefix: str) -> Path:
    with writing(root / (name or f"{prefix}-1")):
        folder = _choose(root, name, resume, prefix)
        claim = Claim(folder / ".lock", lambda: remove_partials(folder))
        if not claim.take():
            reason = f"{claim.holder()} is at work in this run; wait for it, or choose another --run_name"
            raise InputError(reason, folder)
    if not resume and (folder / "last.pt").is_file():  # another run has come and gone in between
        claim.release()
        return _claimed(root, name, resume, prefix)
    atexit.register(_remove_if_unused, folder, claim)
    return folder


def _choose(root: Path, name: str | None, resume: bool, prefix: str) -> Path:
    numbered = {
        int(match[1]): p for p in root.glob("*") if (match := re.fullmatch(rf"{re.escape(prefix)}-(\d+)", p.name))
    }
    if resume:
        resumable = [p for _, p in sorted(numbered.items()) if (p / "last.pt").is_file()]
        folder = root / name if name else (resumable[-1] if resumable else root / f"{prefix}-1")
        if not (folder / "last.pt").is_file():
            raise InputError("nothing to resume, there is no last.pt", folder)
        return folder
    folder = root / (name or f"{prefix}-{max(numbered, default=0) + 1}")
    if (folder / "last.pt").is_file():
        reason = "this run exists; add --resume true to go on with it, or choose another --run_name"
        raise InputError(reason, folder)
    try:
        folder.mkdir(parents=True, exist_ok=name is not None)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return _choose(root, name, resume, prefix)  # another run took this number just now
    return folder


def _remove_if_unused(folder: Path, claim: Claim) -> None:
    """A folder in which a run that failed at its start has left nothing but TensorBoard's empty log."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {".lock", "tensorboard"}:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            claim.release()
            folder.rmdir()


def save_config(folder: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """Writes what a run was started with as ``config.json`` into its folder, of absolute paths their names alone.

    Returns:
        What is written.
    """
    kept = _anywhere(keys)
    if is_main_process():
        with replacing(Path(folder) / "config.json") as partial:
            partial.write_text(json.dumps(kept, indent=4, default=str) + "\n", encoding="utf-8")
    return kept


def save_split(folder: Path, entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes the subjects of each part as ``split.json`` into a run's folder, for ``--split`` of another run.

    Not where entries name no subjects, or a single subject's volumes were cut in two.

    Args:
        folder: the run's.
        entries: of the parts "train" and "validate".
    """
    parts = {part: sorted({str(entry.get("subject", "")) for entry in of_part}) for part, of_part in entries.items()}
    names = [name for part in parts.values() for name in part]
    if is_main_process() and all(names) and len(set(names)) == len(names):
        with replacing(Path(folder) / "split.json") as partial:
            partial.write_text(json.dumps(parts, indent=4) + "\n", encoding="utf-8")


def _anywhere(given: Any) -> Any:
    """A configuration without folders of this machine; relative paths and expressions stay."""
    if isinstance(given, dict):
        return {key: _anywhere(inner) for key, inner in given.items()}
    if isinstance(given, list | tuple):
        return [_anywhere(inner) for inner in given]
    if isinstance(given, str | os.PathLike):
        text = os.fspath(given)
        if text.startswith("~") or Path(text).is_absolute() or PureWindowsPath(text).is_absolute():
            return without_folders(text)
    return given


def end_tracking(handlers: Sequence[Any]) -> None:
    """Ends an evaluation's MLflow run, where one is kept: MONAI ends it with a training alone."""
    for handler in handlers:
        if isinstance(handler, MLFlowHandler):
            handler.close()
