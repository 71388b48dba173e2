# SPDX-License-Identifier: Apache-2.0
"""The three trainings one after the other, each alone on request, resumed in the one that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from common.console import say
from common.handlers import RunCheckpoint, StartingWeights
from common.inputs import InputError
from common.runs import is_main_process
from common.settings import boolean, names, optional
from common.weights import bare, fits, load_checkpoint, load_flat

__all__ = ["FreezeNorm", "StageCheckpoint", "StagePlan", "reference_beside"]

NAMES = ("identity", "discriminator", "adversarial")


class StageCheckpoint(RunCheckpoint):
    """``last.pt`` of a run in stages: also says which stage it is of, and which the run has.

    Args:
        folder: the run's folder.
        parts: see ``RunCheckpoint``.
        stage: name of the stage.
    """

    def __init__(self, folder: str | Path, parts: Mapping[str, Any], stage: str) -> None:
        super().__init__(folder, parts)
        self.facts = {"stage": stage, "plan": []}


class FreezeNorm:
    """Lets batch normalisation keep its statistics in a trainer, so that training and use are the same function.

    Departs from the paper, which says nothing: with its own batches' statistics a generator is judged by the
    discriminator as another function than the one that is used.

    Args:
        network: a ``DRNN``.
        wanted: False leaves the statistics to each batch.
    """

    def __init__(self, network: nn.Module, wanted: Any) -> None:
        self.network, self.wanted = network, boolean(wanted)

    def attach(self, engine: Engine) -> None:
        """Acts when the trainer starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        bare(self.network).frozen = self.wanted


class StagePlan:
    """Chooses the stages of a run, brings back an interrupted one, and runs the first two.

    Args:
        trainers: engine of each stage, in order: identity, discriminator, adversarial.
        checkpoints: of each stage.
        start: the generator's starting weights.
        discriminator: network that the second stage trains.
        wanted: names of the stages; None for all, without identity where the generator starts from given weights,
            which it would undo.
        discriminator_weights: a checkpoint with a "discriminator" to start from.

    Raises:
        InputError: unknown stage.
    """

    def __init__(
        self,
        trainers: Mapping[str, Engine],
        checkpoints: Mapping[str, StageCheckpoint],
        start: StartingWeights,
        discriminator: nn.Module,
        wanted: Any = None,
        discriminator_weights: Any = None,
    ) -> None:
        self.trainers, self.checkpoints, self.start = trainers, checkpoints, start
        self.discriminator, self.discriminator_weights = discriminator, optional(discriminator_weights)
        self.wanted = names(wanted)
        unknown = set(self.wanted) - set(NAMES)
        if unknown:
            raise InputError(f"stage {sorted(unknown)[0]!r} is unknown; choose from {', '.join(NAMES)}")
        self.chosen: list[str] = []  # of the run
        self.left: list[str] = []  # still to do

    def begin(self, resume: Any) -> str:
        """Loads starting weights, or what an interrupted run has saved; returns a line that says so.

        Raises:
            InputError: see ``StartingWeights`` and ``RunCheckpoint``; a run that is complete.
        """
        if boolean(resume):
            return self._resume()
        source = self.start.load()
        self._load_discriminator()
        known = not source.startswith("random")
        self.chosen = [n for n in NAMES if n in self.wanted] or [n for n in NAMES if not (known and n == "identity")]
        self.left = list(self.chosen)
        self._tell()
        return source

    def _resume(self) -> str:
        path = self.checkpoints[NAMES[-1]].path
        state = load_checkpoint(path)
        stage = state.get("stage") if isinstance(state, Mapping) else None
        if stage not in self.checkpoints:
            raise InputError(f"{path}: does not belong to this configuration")
        self.chosen = list(state["plan"])
        rest = self.chosen[self.chosen.index(stage) :]
        done = state["epoch"] >= self.trainers[stage].state.max_epochs
        self.checkpoints[stage].restore(state, complete=done and len(rest) > 1)
        self.left = rest[1:] if done else rest
        self._tell()
        self.start.source = f"{path}, stage {stage}, epoch {state['epoch']}"
        return self.start.source

    def _tell(self) -> None:
        for checkpoint in self.checkpoints.values():
            checkpoint.facts["plan"] = list(self.chosen)

    def _load_discriminator(self) -> None:
        if self.discriminator_weights is None:
            return
        state = load_checkpoint(self.discriminator_weights)
        state = state.get("discriminator") if isinstance(state, Mapping) else None
        if state is None or not fits(state, self.discriminator):
            raise InputError("holds no discriminator of this shape", self.discriminator_weights)
        bare(self.discriminator).load_state_dict(state)

    def run(self, stage: str) -> bool:
        """Runs a stage if it is left to do; says what it does, or why it is skipped."""
        if stage not in self.left:
            reason = "done before the stop" if stage in self.chosen else self._reason(stage)
            say(f"stage {stage}: skipped ({reason})")
            return False
        trainer = self.trainers[stage]
        first = f", from epoch {trainer.state.epoch + 1}" if trainer.state.epoch else ""
        say(f"stage {stage}: {trainer.state.max_epochs} epochs of {trainer.state.epoch_length} iterations{first}")
        trainer.run()
        return True

    def _reason(self, stage: str) -> str:
        if self.wanted:
            return "not among the stages wanted"
        return "the starting weights are trained, and it would undo them" if stage == "identity" else "not in this run"


def reference_beside(best: Any, target: str | Path, source: Path) -> None:
    """Keeps the reference histogram beside the bundle's weights where these are now the run's own.

    Args:
        best: the run's ``BestWeights``.
        target: the bundle's weights.
        source: the run's ``reference.json``.
    """
    target = Path(target)
    if not is_main_process() or not target.is_file():
        return
    own, present = load_flat(best.path), load_flat(target)
    if own.keys() == present.keys() and all(torch.equal(own[key], present[key]) for key in own):
        target.with_name("reference.json").write_bytes(source.read_bytes())
