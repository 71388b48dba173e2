# SPDX-License-Identifier: Apache-2.0
"""Where made-on-first-use sample data lives: the user's cache folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from common.io.files import writing

ABANDONED_AFTER = 24 * 3600.0  # seconds after which an unfinished folder belongs to a killed run, not to a slow one


def cache_root() -> Path:
    """Return ``$XDG_CACHE_HOME/restoration-bundles``, or the same in ``~/.cache``; read at every call."""
    # The XDG rules say to ignore relative paths.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "restoration-bundles"


def is_sample(path: str | os.PathLike) -> bool:
    """Tell whether ``path`` is, or lies in, the cache folder of sample data; it need not exist."""
    return Path(path).resolve().is_relative_to(cache_root().resolve())


def build_once(folder: Path, build: Callable[[Path], object]) -> Path:
    """Return ``folder``, made by ``build(empty_folder)`` if it is not there yet.

    The folder appears complete or not at all: it is built beside its place under another name and then renamed. Of two
    processes that build at once, the slower one drops its result and takes the other's.

    Args:
        folder: where the data belongs.
        build: fills the folder that it is given; what it raises passes through, and nothing is left behind.

    Raises:
        StorageError: the cache folder is full or read-only.
    """
    if folder.is_dir():
        return folder
    with writing(folder):
        return _build(folder, build)


def _build(folder: Path, build: Callable[[Path], object]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_over in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just finished or removed it
            if time.time() - left_over.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(left_over, ignore_errors=True)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    unfinished.mkdir()
    try:
        build(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
