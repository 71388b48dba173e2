# SPDX-License-Identifier: Apache-2.0
"""Trainings that follow each other in one run: chosen, checkpointed in one file, resumed in the one that stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from common.errors import InputError
from common.handlers import RunCheckpoint
from common.io.weights import load_checkpoint
from common.utils.console import say

__all__ = ["Stage", "StagePlan"]


@dataclass
class Stage:
    """One training of several, such as a critic's own before the game.

    Args:
        trainer: its engine.
        state: what its checkpoint holds, by name; all that later stages go on with among it.
        from_scratch_only: left out where the run starts from given weights, which it would undo.
    """

    trainer: Engine
    state: Mapping[str, Any]
    from_scratch_only: bool = False


class StagePlan:
    """Runs stages in order; ``last.pt`` says which one it is of, and which the run has.

    Args:
        folder: the run's.
        stages: by name, in order.
        wanted: names of the stages to run; empty for all.
    """

    def __init__(self, folder: str | Path, stages: Mapping[str, Stage], wanted: Sequence[str] = ()) -> None:
        self.stages, self.wanted = dict(stages), list(wanted)
        self.chosen: list[str] = []  # of the run
        self.left: list[str] = []  # still to do
        self.checkpoints = {name: RunCheckpoint(folder, stage.state) for name, stage in self.stages.items()}
        for name, checkpoint in self.checkpoints.items():
            checkpoint.attach(self.stages[name].trainer)
            if len(self.stages) > 1:
                checkpoint.facts = {"stage": name, "plan": self.chosen}

    def begin(self, resume: bool, from_scratch: bool) -> None:
        """Chooses the stages, or brings back those of a stopped run to where they were.

        Raises:
            InputError: as ``RunCheckpoint.restore``.
        """
        if resume:
            self._resume()
            return
        self.chosen += [name for name, stage in self.stages.items() if self._wants(name, stage, from_scratch)]
        self.left = list(self.chosen)

    def _wants(self, name: str, stage: Stage, from_scratch: bool) -> bool:
        return name in self.wanted if self.wanted else from_scratch or not stage.from_scratch_only

    def _resume(self) -> None:
        *_, main = self.checkpoints
        path = self.checkpoints[main].path
        state = load_checkpoint(path)
        name = state.get("stage", main) if isinstance(state, Mapping) else None
        if name not in self.stages:
            raise InputError(f"{path}: does not belong to this configuration")
        self.chosen += state.get("plan", [name])
        rest = self.chosen[self.chosen.index(name) :]
        done = state.get("epoch", 0) >= self.stages[name].trainer.state.max_epochs
        self.checkpoints[name].restore(state, complete=done and len(rest) > 1)
        self.left = rest[1:] if done else rest

    def run(self) -> None:
        """Runs what is left to do; of several stages it says which."""
        for name, stage in self.stages.items():
            trainer = stage.trainer
            if len(self.stages) > 1:
                first = f", from epoch {trainer.state.epoch + 1}" if trainer.state.epoch else ""
                work = f"{trainer.state.max_epochs} epochs of {trainer.state.epoch_length} iterations{first}"
                say(f"stage {name}: {work if name in self.left else self._reason(name)}")
            if name in self.left:
                trainer.run()

    def _reason(self, name: str) -> str:
        if name in self.chosen:
            return "skipped (done before the stop)"
        reason = "not wanted" if self.wanted else "the starting weights are trained; it would undo them"
        return f"skipped ({reason})"
