# SPDX-License-Identifier: Apache-2.0
"""What a method beside a bundle's network is: a name, a function of a held-out case, or the reason why it is absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = ["Evaluation", "Rival"]


class Evaluation(Protocol):
    """What rivals may ask of a bundle's evaluation, see ``tools.benchmark.evaluation.BundleEvaluation``."""

    dataset: Any
    work: float

    def with_keys(self, more: Mapping[str, Any]) -> Evaluation:
        """The same evaluation with some keys changed."""

    def predict(self, item: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
        """What the bundle makes of a held-out item, and its seconds."""


@dataclass(frozen=True)
class Rival:
    """A method that is scored on the same cases as the network.

    Args:
        key: short name, for ``--rivals``.
        name: as the table has it.
        apply: makes of a held-out item what the network would, ``(1, H, W[, D])`` in the same units. None where the
            method cannot run here.
        reason: why it cannot.
        note: what the reader must know, such as a licence or that it is told the truth.
        work: multiplications per output voxel or pixel, where they can be counted.
        timed: whether the time of ``apply`` is the method's; False where the item carries the result already.
        baseline: the trivial method that the network must beat.
    """

    key: str
    name: str
    apply: Callable[[Mapping[str, Any]], torch.Tensor] | None = None
    reason: str = ""
    note: str = ""
    work: float | None = None
    timed: bool = True
    baseline: bool = False

    def __post_init__(self) -> None:
        if (self.apply is None) != bool(self.reason):
            raise ValueError(f"{self.key}: give either a function or the reason why there is none")
