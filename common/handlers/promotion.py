# SPDX-License-Identifier: Apache-2.0
"""A run's best weights become the bundle's own, where they are better."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from common.data.sample_data import is_sample
from common.errors import InputError
from common.io.files import StorageError, replacing, writing
from common.io.weights import bare, fits, load_domain, load_flat, save_atomically, with_domain
from common.utils.console import say
from common.utils.distributed import from_first
from common.utils.values import boolean

from .checkpoints import BestWeights, StartingWeights

__all__ = ["PromoteWeights"]


class PromoteWeights:
    """Makes a finished run's best weights the bundle's own ``models/model.pt``, if they are entitled to it.

    They are when the configuration is the default one, the training data is not the sample data, and they score better
    than the present weights on this run's validation data. The old file is kept as ``replaced.pt`` in the run's folder.
    Present weights that cannot be scored stay, and one line says why.

    For weights to which more than their file belongs, a subclass overrides ``score`` and ``replace``.

    Args:
        best: the run's ``BestWeights``.
        target: the bundle's weights.
        data: entries of the training dataset, with a path each as "image".
        evaluator: scores the present weights where the run did not start from them, or was resumed.
        start: the run's ``StartingWeights``.
        allowed: False in configurations other than the default.
        beside: names of files in the run's folder that belong to its weights, such as a reference histogram.
    """

    def __init__(
        self,
        best: BestWeights,
        target: str,
        data: list,
        evaluator: Engine,
        start: StartingWeights,
        allowed: bool = True,
        beside: Sequence[str] = (),
    ) -> None:
        self.best = best
        self.target = Path(target)
        self.data = data
        self.evaluator = evaluator
        self.start = start
        self.allowed = boolean(allowed)
        self.beside = beside

    def attach(self, engine: Engine) -> None:
        """Acts when the trainer completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compares both weights, and replaces the present ones by better ones."""
        if not self.allowed or any(is_sample(str(entry["image"])) for entry in self.data):
            return
        try:
            present = self._present_score()
        except InputError as error:
            say(f"{self.target} stays: {error}")
            return
        if not self.best.beats(self.best.score, present):
            say(f"{self.target} stays: it scores {self.best.text(present)}, this run {self.best.text(self.best.score)}")
            return
        try:
            from_first(self.replace)
        except StorageError as error:
            say(f"{self.target} stays: {error}; use this run's weights with --weights {self.best.path}")
            return
        scores = f"{self.best.text(self.best.score)} against {self.best.text(present)}"
        say(f"{self.target} now holds this run's weights ({scores})")

    @property
    def replaced(self) -> Path:
        """Where the present weights are kept."""
        return self.best.path.with_name("replaced.pt")

    def replace(self) -> None:
        """Puts the run's best weights in the place of the present ones, which are kept; in the main process only.

        Raises:
            StorageError: the folder of either cannot be written to; the present ones stay.
        """
        if self.target.is_file():
            with writing(self.replaced):
                shutil.copy2(self.target, self.replaced)
        for name in self.beside:
            with replacing(self.target.with_name(name)) as partial:
                shutil.copy2(self.best.path.with_name(name), partial)
        save_atomically(with_domain(load_flat(self.best.path), load_domain(self.best.path)), self.target)

    def score(self, state: Mapping[str, Any]) -> float:
        """Key metric of the present weights, a state dict that fits the network.

        Raises:
            InputError: they cannot be scored.
        """
        network = bare(self.best.network)
        own = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        network.load_state_dict(state)
        run: Any = self.evaluator.state
        run.aside = True  # this run of the evaluator is no part of the training's record
        try:
            self.evaluator.run()
        finally:
            run.aside = False
            network.load_state_dict(own)
        return float(run.metrics[run.key_metric_name])

    def _present_score(self) -> float:
        if not from_first(self.target.is_file):  # the first process may be about to write it
            return self.best.worst
        first = None if self.best.resumed else self.best.first
        if self.start.source == str(self.target) and first is not None:
            return first
        state = load_flat(self.target)
        if not fits(state, self.best.network):
            raise InputError("it belongs to another network shape")
        return self.score(state)
