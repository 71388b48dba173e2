# SPDX-License-Identifier: Apache-2.0
"""Where a result comes from, written beside it without folders or other traces of the machine."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.fingerprint import INPUT, SUFFIX, fingerprint

__all__ = ["SUFFIX", "command_line_overrides", "describe", "is_finished", "publish", "write"]

# overrides that say where a result is made, not which; what lies in dataset_dir is known by its content
ELSEWHERE = {"config_file", "dataset_dir", "device", "memory_gb", "output_dir"}


def command_line_overrides(arguments: list[str] | None = None) -> dict[str, str]:
    """Keys given on the command line of ``python -m monai.bundle run``, folders cut to their last part."""
    arguments = sys.argv[1:] if arguments is None else arguments
    keys: dict[str, str] = {}
    for argument, following in pairwise([*arguments, "--"]):
        match = re.fullmatch(r"--([\w:#+-]+?)(?:=(.*))?", argument, flags=re.DOTALL)
        if match:
            alone = "true" if following.startswith("--") else following
            keys[match[1].replace("-", "_")] = _without_folders(alone if match[2] is None else match[2])
    return keys


def _without_folders(text: str) -> str:
    """Cuts a path, or each quoted path of a list, to its last part."""
    if re.search(r"['\"\[\]]", text):
        return re.sub(r"[^'\",\[\]=]*[/\\]", "", text)
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def _plain(given: Any) -> Any:
    """A setting without folders, also where it is a list of paths."""
    if isinstance(given, list | tuple):
        return [_plain(one) for one in given]
    return _without_folders(given) if isinstance(given, str) else given


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
        settings: keys that decide what the results are, wherever their values were set; of paths the last part is told.
        files: further files or folders that do, by name, or None where there is none; told as ``<name>_sha256``.
    """
    metadata = json.loads((Path(bundle_root) / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {
        "bundle": metadata["name"],
        "version": metadata["version"],
        **{f"{name}_sha256": _hash(file) for name, file in {"weights": weights, **(files or {})}.items()},
        "settings": {key: _plain(given) for key, given in (settings or {}).items()},
        "overrides": command_line_overrides(),
        "not_for": "diagnosis",
    }


def _hash(file: Any) -> str | None:
    return fingerprint([file]) if isinstance(file, (str, os.PathLike)) else None


def write(result: str | os.PathLike, facts: Mapping[str, Any], source: str) -> Path:
    """Writes ``<result>.provenance.json``, whole or not at all.

    Args:
        result: the result's file.
        facts: see ``describe``.
        source: the input; only its name is kept.
    """
    path = Path(str(result) + SUFFIX)
    partial = path.with_name("." + path.name)
    text = json.dumps({**facts, "input": Path(source).name}, indent=4, default=str) + "\n"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def publish(partial: Path, result: Path, facts: Mapping[str, Any], source: str) -> None:
    """Gives a complete file its name, with its sidecar there before it: no result is ever without, or beside another's.

    Args:
        partial: the file under another name in the same folder.
        result: its own name; what is there is replaced.
        facts, source: see ``write``.
    """
    result.unlink(missing_ok=True)
    write(result, facts, source)
    os.replace(partial, result)


def is_finished(result: Path, facts: Mapping[str, Any], source: str, inputs: Sequence[str | os.PathLike]) -> bool:
    """Whether a result is there with its sidecar, of the same bundle, version, weights, settings and input.

    An input written to since then counts as another one; for the others the sidecar's fingerprint decides, so that a
    file of the same name from elsewhere, or with an older date, is noticed.

    Args:
        result: a result's file.
        facts: what the sidecar would tell now; it may tell more.
        source: the input's name.
        inputs: the files it consists of, see ``common.fingerprint.files_of``; of a folder, all in it.
    """
    try:
        told = json.loads(Path(str(result) + SUFFIX).read_text(encoding="utf-8"))
        if max(map(_changed, inputs)) > result.stat().st_mtime:
            return False
        told, wanted = _comparable(told), _comparable(json.loads(json.dumps(facts, default=str)))
    except (OSError, ValueError, AttributeError, RecursionError):  # not there, or no sidecar of ours
        return False
    if told.get("input") != Path(source).name or any(told.get(key) != fact for key, fact in wanted.items()):
        return False
    return told.get(INPUT) is not None and told[INPUT] == fingerprint(inputs)  # last, since it reads the input


def _changed(path: str | os.PathLike) -> float:
    """When a file, or a folder or any file in it, was last written to."""
    inside = Path(path).iterdir() if Path(path).is_dir() else ()
    return max(Path(p).stat().st_mtime for p in (path, *inside))


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    overrides = {key: text for key, text in facts.get("overrides", {}).items() if key not in ELSEWHERE}
    return {**facts, "overrides": overrides}
