# SPDX-License-Identifier: Apache-2.0
"""A run's weights become the bundle's own together with the landmarks that they were trained with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from common.files import replacing, writing
from common.handlers import PromoteWeights

from .heldout import HeldOutCases
from .landmarks import check_bound, landmarks_path, read

__all__ = ["PromoteWithLandmarks"]


class PromoteWithLandmarks(PromoteWeights):
    """``PromoteWeights`` for weights whose landmarks lie beside them; those replaced keep theirs.

    Present weights with other landmarks are scored on the same held-out cases in the scale of their own. Present
    weights whose landmarks are missing, unreadable or of other weights stay.

    Args:
        held_out: what the evaluator reads.
        kwargs: of ``PromoteWeights``.
    """

    def __init__(self, held_out: HeldOutCases, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.held_out = held_out

    def replace(self) -> None:
        """Moves weights and landmarks."""
        if self.target.is_file() and landmarks_path(self.target).is_file():
            with writing(self.replaced):
                shutil.copy2(landmarks_path(self.target), landmarks_path(self.replaced))
        super().replace()
        with replacing(landmarks_path(self.target)) as partial:
            shutil.copy2(landmarks_path(self.best.path), partial)

    def score(self, state: Mapping[str, Any]) -> float:
        """Key metric of the present weights with their own landmarks."""
        landmarks = read(landmarks_path(self.target), self.held_out.landmarks.target)
        check_bound(state, landmarks.digest)
        if landmarks == self.held_out.landmarks:
            return super().score(state)
        with self.held_out.standardised_by(landmarks):
            return super().score(state)
