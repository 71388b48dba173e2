# SPDX-License-Identifier: Apache-2.0
"""Every term of an objective at every iteration, as a table and for TensorBoard, and items that metrics need."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import ensure_tuple

from common.io.files import replacing, writing
from common.utils.distributed import is_main_process

__all__ = ["KeepInOutput", "TermsTable"]


class TermsTable:
    """Writes ``terms.csv``: iteration, epoch, term, value, one line per term and iteration, in the first process.

    A resumed run goes on where its checkpoint was made; lines of later iterations are dropped.

    Args:
        folder: the run's folder.
        terms: scalars by name of the engine's output, such as ``common.engine.trainers.terms_of``.
    """

    def __init__(self, folder: str | Path, terms: Callable[[Any], dict[str, float]]) -> None:
        self.path = Path(folder) / "terms.csv"
        self.terms = terms

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if is_main_process():
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        kept = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
                lines = (line.replace("\0", "") for line in file)  # after a power cut
                kept = [row for row in csv.reader(lines) if row[:1] and row[0].isdecimal()]
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["iteration", "epoch", "term", "value"])
            writer.writerows(row for row in kept if int(row[0]) <= engine.state.iteration)

    def __call__(self, engine: Engine) -> None:
        """Adds a line per term of the iteration that has just ended."""
        state = engine.state
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            terms = self.terms(state.output).items()
            csv.writer(file).writerows([state.iteration, state.epoch, name, f"{term:.6g}"] for name, term in terms)


class KeepInOutput:
    """Copies items of the batch to the engine's output, where ignite's metrics look, and to its device.

    MONAI's engines move image and label only.

    Args:
        keys: items of every case.
    """

    def __init__(self, keys: str | Sequence[str]) -> None:
        self.keys: tuple[str, ...] = ensure_tuple(keys)

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that decollates."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Adds the wanted items of the batch to the engine's output."""
        state: Any = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            kept = {key: item[key] for key in self.keys}
            output.update({k: v.to(state.device) if isinstance(v, torch.Tensor) else v for k, v in kept.items()})
