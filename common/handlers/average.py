# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel

from common.io.weights import bare

__all__ = ["WeightAverage"]


Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


class WeightAverage:
    """Exponential moving average (EMA) of the weights that a trainer steps; validate and keep ``network``.

    The decay rises with the number of steps, ``min(decay, (1 + n) / (10 + n))``, so that short runs move too. Attach it
    in front of the validation. The average starts anew from the network's weights whenever the trainer starts, unless
    a checkpoint was loaded; so a federated round averages from its global weights.

    An addition of this collection to the papers.

    Args:
        network: the network that is trained, in a wrapper or not.
        decay: share of the average that a step keeps; 0 for none, then ``network`` is the trained network itself.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.998) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.source = bare(network)
        self.decay = decay
        self.model = AveragedModel(self.source, multi_avg_fn=self._blend) if decay else None
        self._restored = False

    @property
    def network(self) -> nn.Module:
        """The averaged network."""
        return self.source if self.model is None else self.model.module

    def _blend(self, averaged: Tensors, current: Tensors, steps: torch.Tensor | int) -> None:
        decay = min(self.decay, (1 + float(steps)) / (10 + float(steps)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def attach(self, engine: Engine) -> None:
        """Follows a trainer."""
        if self.model is not None:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _step(self, engine: Engine) -> None:
        assert self.model is not None  # else it is not attached
        self.model.update_parameters(self.source)

    def _start(self, engine: Engine) -> None:
        assert self.model is not None  # else it is not attached
        if not self._restored:
            self.model.module.load_state_dict(self.source.state_dict())
            self.model.n_averaged.fill_(1)
        self._restored = False

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of steps; empty without average."""
        return {} if self.model is None else self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        if self.model is not None:
            self.model.load_state_dict(state)
            self._restored = True
