# SPDX-License-Identifier: Apache-2.0
"""Folders that runs write to."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from monai.handlers import MLFlowHandler

from common.distributed import from_first
from common.inputs import InputError
from common.settings import boolean, optional, quantity

__all__ = ["end_tracking", "is_main_process", "run_folder", "save_config", "set_seed"]


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of several."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def run_folder(output_dir: str, run_name: Any, resume: Any, prefix: str) -> Path:
    """The folder of a run, made if it is new: ``<output_dir>/<run_name>``.

    Args:
        output_dir: where runs lie.
        run_name: None for ``<prefix>-<number>``: the next free number, or the latest that can be resumed.
        resume: whether an earlier run goes on.
        prefix: first part of a name that is not given.

    Raises:
        InputError: a run to resume has no ``last.pt``, or a new run's name is taken.
    """
    root, name = Path(output_dir).expanduser(), optional(run_name)
    return from_first(lambda: _choose(root, name, boolean(resume), prefix))


def _choose(root: Path, name: str | None, resume: bool, prefix: str) -> Path:
    numbered = {
        int(match[1]): p for p in root.glob("*") if (match := re.fullmatch(rf"{re.escape(prefix)}-(\d+)", p.name))
    }
    if resume:
        resumable = [p for _, p in sorted(numbered.items()) if (p / "last.pt").is_file()]
        folder = root / name if name else (resumable[-1] if resumable else root / f"{prefix}-1")
        if not (folder / "last.pt").is_file():
            raise InputError(f"{folder}: nothing to resume, there is no last.pt")
        return folder
    folder = root / (name or f"{prefix}-{max(numbered, default=0) + 1}")
    if (folder / "last.pt").is_file():
        raise InputError(f"{folder}: this run exists; add --resume true to go on with it, or choose another --run_name")
    try:
        folder.mkdir(parents=True, exist_ok=name is not None)
    except FileExistsError:  # another run took this number just now
        return _choose(root, name, resume, prefix)
    return folder


def save_config(folder: Path, keys: dict[str, Any]) -> None:
    """Writes the keys a run was started with as ``config.json`` into its folder."""
    if is_main_process():
        text = json.dumps(keys, indent=4, default=str) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")


def end_tracking(handlers: Sequence[Any]) -> None:
    """Ends an evaluation's MLflow run, where one is kept: MONAI ends it with a training alone."""
    for handler in handlers:
        if isinstance(handler, MLFlowHandler):
            handler.close()


def set_seed(seed: Any) -> None:
    """Seeds torch (starting weights); samples derive their own randomness from the seed.

    Unlike ``monai.utils.set_determinism`` this leaves global state of the process alone that other workflows share.
    """
    torch.manual_seed(quantity(seed, "seed", least=0, whole=True))
