# SPDX-License-Identifier: Apache-2.0
"""What a run starts from and keeps: ``last.pt`` to go on with, ``best.pt`` to use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from common.errors import InputError
from common.io.weights import bare, fits, load_checkpoint, load_flat, save_atomically, with_domain
from common.utils.distributed import is_main_process
from common.utils.values import boolean

__all__ = ["BestWeights", "RunCheckpoint", "StartingWeights", "shared"]


def shared(handler: Any) -> Any:
    """Lets a handler that other items refer to stand in a list of dictionaries, as MONAI Label wants the lists."""
    return handler


class StartingWeights:
    """The weights a run starts from, loaded by an item of ``run``, never by a handler.

    A handler would undo the global weights of a federated round.

    Args:
        network: network to load into.
        path: weights file, normally the bundle's ``models/model.pt``.
        from_scratch: keep the random initialisation.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str,
        from_scratch: Any = False,
    ) -> None:
        self.network = network
        self.path = Path(path)
        self.from_scratch = from_scratch
        self.source: str | None = None  # where the weights came from, once loaded

    def load(self) -> str:
        """Loads, and says where the weights come from.

        Raises:
            InputError: weights other than the bundle's own are missing or do not fit.
        """
        self.source = self._load(bare(self.network))
        return self.source

    def _load(self, network: nn.Module) -> str:
        if boolean(self.from_scratch):
            return "random initialisation"
        state = load_flat(self.path)
        if not fits(state, network):
            raise InputError("these weights belong to another network shape", self.path)
        network.load_state_dict(state)
        return str(self.path)


class RunCheckpoint:
    """Saves all that a run needs to go on as ``last.pt``, after each epoch and its validation.

    Args:
        folder: the run's folder.
        parts: objects with ``state_dict`` by name: networks, optimizers, schedulers, best weights.
    """

    def __init__(self, folder: str | Path, parts: Mapping[str, Any]) -> None:
        self.path = Path(folder) / "last.pt"
        self.parts = {name: bare(part) if isinstance(part, nn.Module) else part for name, part in parts.items()}
        self.facts: dict[str, Any] = {}  # further plain values to save
        self.engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Attach behind the trainer's schedulers and validation."""
        self.engine = engine
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Writes the checkpoint, in the first process."""
        state = {name: part.state_dict() for name, part in self.parts.items()}  # parts may ask other processes
        if is_main_process():
            scalers = [scaler.state_dict() for scaler in _scalers(engine)]
            save_atomically({**state, **self.facts, "scalers": scalers, "epoch": engine.state.epoch}, self.path)

    def resume(self, wanted: Any) -> bool:
        """Brings everything back to where the run stopped, if ``wanted``.

        Raises:
            InputError: the file belongs to another configuration, or the run is complete.
        """
        if not boolean(wanted):
            return False
        self.restore(load_checkpoint(self.path))
        return True

    def restore(self, state: Any, complete: bool = False) -> None:
        """Brings everything back to a loaded checkpoint.

        Args:
            state: what was saved.
            complete: accept one whose epochs are all done, for what comes after it.

        Raises:
            InputError: as in ``resume``.
        """
        if not isinstance(state, Mapping) or state.keys() != {*self.parts, *self.facts, "scalers", "epoch"}:
            raise InputError(f"{self.path}: does not belong to this configuration")
        engine = self.engine
        assert engine is not None  # a checkpoint is attached before it is restored
        if state["epoch"] >= engine.state.max_epochs and not complete:
            raise InputError(f"{self.path}: this run is complete with {state['epoch']} epochs; give it more to go on")
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise InputError(f"{self.path}: its {name} does not fit this configuration") from error
        for scaler, saved in zip(_scalers(engine), state["scalers"], strict=False):
            if saved:  # empty where the loss was not scaled
                scaler.load_state_dict(saved)
        length, epochs = engine.state.epoch_length, engine.state.max_epochs
        engine.load_state_dict({"epoch": state["epoch"], "epoch_length": length, "max_epochs": epochs})


def _scalers(engine: Any) -> list:
    """Loss scalers of mixed precision: an ``AdversarialTrainer`` has two, MONAI's own trainer one or none."""
    return getattr(engine, "scalers", None) or [scaler for scaler in [engine.scaler] if scaler is not None]


class BestWeights:
    """Keeps the network's weights with the best key metric as ``best.pt``, flat; remembers the score when resumed.

    Args:
        folder: the run's folder.
        network: the network to save.
        lower: whether lower scores are better; else higher ones.
        last: keep those of the last validation whatever they score: in adversarial training the best PSNR would let
            weights of the warm-up win.

    Raises:
        InputError: in the first validation, a key metric that is NaN.
    """

    def __init__(self, folder: str | Path, network: nn.Module, lower: bool = False, last: bool = False) -> None:
        self.path = Path(folder) / "best.pt"
        self.network = network
        self.lower, self.last = lower, last
        self.domain: dict[str, Any] = {}  # what the weights were trained on, see ``common.engine.domain``
        self.first: float | None = None
        self.score = self.worst
        self.epoch = 0
        self.resumed = False  # then ``first`` is not of the weights that lie in the bundle now

    @property
    def worst(self) -> float:
        """A score that every other one beats."""
        return float("inf") if self.lower else float("-inf")

    def beats(self, score: float, other: float) -> bool:
        """Whether a score is better than another."""
        return score < other if self.lower else score > other

    def text(self, score: float) -> str:
        """A score for people: errors near 0 need more digits than dB."""
        return f"{score:.4f}" if self.lower else f"{score:.2f}"

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator, which has a key metric."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Keeps the weights where the evaluator's key metric is the best so far."""
        if getattr(engine.state, "aside", False):
            return
        key: str = engine.state.key_metric_name  # type: ignore[attr-defined]  # MONAI's engines have it
        score = float(engine.state.metrics[key])
        if self.first is None:
            if math.isnan(score):
                raise InputError(f"{key} has no value on the held-out data, so the best weights cannot be told")
            self.first = score
        if self.last or self.beats(score, self.score):
            self.score, self.epoch = score, int(engine.state.epoch)
            if is_main_process():
                save_atomically(with_domain(bare(self.network).state_dict(), self.domain), self.path)

    def state_dict(self) -> dict[str, float | int | None]:
        """Scores as plain numbers."""
        return {"first": self.first, "score": self.score, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from an earlier run's scores."""
        self.first, self.score, self.epoch = state["first"], state["score"], state["epoch"]
        self.resumed = True
