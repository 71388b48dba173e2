# SPDX-License-Identifier: Apache-2.0
"""Where a result comes from, written beside it without folders or other traces of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.io.files import replacing
from common.io.hashes import INPUT, SUFFIX, fingerprint
from common.utils.values import value

__all__ = ["SUFFIX", "command_line_overrides", "describe", "is_finished", "publish", "without_folders", "write"]

# what says where a result is made, not which; what lies in dataset_dir is known by its content
ELSEWHERE = {"bundle_root", "config_file", "device", "logging_file", "memory_gb", "meta_file"}
FOLDERS = "_dir"  # end of the names of keys that hold folders


def command_line_overrides(arguments: list[str] | None = None) -> dict[str, Any]:
    """Keys given on the command line of ``python -m monai.bundle run`` that can change a result, without folders."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keys: dict[str, Any] = {}
    for argument, following in pairwise([*arguments, "--"]):
        match = re.fullmatch(r"--([\w:#+-]+?)(?:=(.*))?", argument, flags=re.DOTALL)
        name = match[1].replace("-", "_") if match else ""
        if match and name not in ELSEWHERE and not name.endswith(FOLDERS):
            text = match[2] if match[2] is not None else "true" if following.startswith("--") else following
            keys[name] = without_folders(value(text))
    return keys


def without_folders(given: Any) -> Any:
    """A setting of which only names are left of paths, also in lists and dictionaries, as plain values for JSON.

    No text keeps anything in front of its last slash or backslash, whatever its folders are called; a path of a folder
    keeps nothing.

    Args:
        given: plain values, paths, and anything else that has a text.
    """
    if isinstance(given, Mapping):
        return {without_folders(str(key)): without_folders(inner) for key, inner in given.items()}
    if isinstance(given, list | tuple | set):
        return [without_folders(one) for one in given]
    if given is None or isinstance(given, bool | int | float):
        return given
    text = str(given)
    parts = re.split(r"[/\\]", text)
    return "folder" if len(parts) > 1 and (not parts[-1] or Path(text).expanduser().is_dir()) else parts[-1]


def describe(
    bundle_root: str,
    weights: str | None,
    settings: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Facts common to all results of a run.

    Args:
        bundle_root: the bundle's folder, with ``configs/metadata.json``.
        weights: weights file, or None.
        settings: keys that decide what the results are, wherever their values were set; of paths the name is told.
        files: further files or folders that do, by name, or None where there is none; told as ``<name>_sha256``.
    """
    metadata = json.loads((Path(bundle_root) / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {
        "bundle": metadata["name"],
        "version": metadata["version"],
        **{f"{name}_sha256": _hash(file) for name, file in {"weights": weights, **(files or {})}.items()},
        "settings": without_folders(settings or {}),
        "overrides": command_line_overrides(),
        "not_for": "diagnosis",
    }


def _hash(file: Any) -> str | None:
    return fingerprint([file]) if isinstance(file, (str, os.PathLike)) else None


def write(result: str | os.PathLike, facts: Mapping[str, Any], source: str) -> Path:
    """Writes ``<result>.provenance.json``, whole or not at all; a result of other facts goes just before.

    Args:
        result: the result's file.
        facts: see ``describe``.
        source: the input; only its name is kept.

    Raises:
        StorageError: the folder cannot be written to.
    """
    path = Path(str(result) + SUFFIX)
    text = json.dumps({**facts, "input": Path(source).name}, indent=4, default=str) + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
        if not _holds(path, text):  # else a result stays until the new one takes its place
            Path(result).unlink(missing_ok=True)
    return path


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def publish(result: str | os.PathLike, facts: Mapping[str, Any], source: str) -> Iterator[Path]:
    """A file to write that then becomes the result, with its sidecar there before it.

    No result is ever without its sidecar, or beside another's.

    Args:
        result: the result's file; what is there is replaced.
        facts: see ``write``.
        source: see ``write``.

    Raises:
        StorageError: the folder cannot be written to; what is there stays.
    """
    with replacing(result) as partial:
        yield partial
        write(result, facts, source)


def is_finished(result: Path, facts: Mapping[str, Any], source: str, inputs: Sequence[str | os.PathLike]) -> bool:
    """Whether a result is there with its sidecar, of the same bundle, version, weights, settings and input.

    An input written to since then counts as another one; for the others the sidecar's fingerprint decides, so that a
    file of the same name from elsewhere, or with an older date, is noticed.

    Args:
        result: a result's file.
        facts: what the sidecar would tell now; it may tell more.
        source: the input's name.
        inputs: the files it consists of, see ``common.io.hashes.files_of``; of a folder, all in it.
    """
    try:
        told = json.loads(Path(str(result) + SUFFIX).read_text(encoding="utf-8"))
        if max(map(_changed, inputs)) > result.stat().st_mtime:
            return False
        wanted = json.loads(json.dumps(facts, default=str))
    except (OSError, ValueError, RecursionError):  # not there, or no sidecar of ours
        return False
    if not isinstance(told, dict):
        return False
    if told.get("input") != Path(source).name or any(told.get(key) != fact for key, fact in wanted.items()):
        return False
    return told.get(INPUT) is not None and told[INPUT] == fingerprint(inputs)  # last, since it reads the input


def _changed(path: str | os.PathLike) -> float:
    """When a file, or a folder or any file in it, was last written to."""
    inside = Path(path).iterdir() if Path(path).is_dir() else ()
    return max(Path(p).stat().st_mtime for p in (path, *inside))
