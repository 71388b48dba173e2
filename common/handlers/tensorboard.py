# SPDX-License-Identifier: Apache-2.0
"""Where a run's TensorBoard log lies."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from common.utils.console import say
from common.utils.distributed import is_main_process

__all__ = ["tensorboard_folder"]


def tensorboard_folder(folder: str | Path) -> str | None:
    """TensorBoard's folder of a run; None in further processes, and where it is not installed, which one line says."""
    if not is_main_process():
        return None
    if importlib.util.find_spec("tensorboard") is None:
        say("TensorBoard is not installed: no log for it (pip install tensorboard)")
        return None
    return str(Path(folder) / "tensorboard")
