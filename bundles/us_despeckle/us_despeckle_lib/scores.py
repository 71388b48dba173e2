# SPDX-License-Identifier: Apache-2.0
"""What a run says at every validation and at its end, in the pooled divergence that decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn

from common.handlers import ScoreTable
from common.io.weights import bare
from common.utils.console import say

__all__ = ["SpeckleScores"]

GOAL = 0.5  # of KL(y, x)


class SpeckleScores(ScoreTable):
    """``ScoreTable`` that says KL(y, x^), SSIM, and how far the weights have moved, and remembers it for the summary.

    KL is that of the pooled histograms, see ``us_despeckle_lib.metrics``, which no mean over frames gives. At the
    paper's learning rates weights move very little.

    Args:
        folder: the run's folder.
        network: the generator; its weights at the first validation are where movement is measured from.
        floor: SSIM to the input that weights must have to be kept.
    """

    def __init__(self, folder: str | Path, network: nn.Module, floor: float = 0.8) -> None:
        super().__init__(folder, "input", items="frame(s)")
        self.network, self.floor = network, floor
        self.origin: torch.Tensor | None = None
        self.pooled: dict[int, dict[str, float]] = {}

    def __call__(self, engine: Engine) -> None:
        """Adds the lines of the validation that has just ended, and of the frames taken together."""
        super().__call__(engine)
        if getattr(engine.state, "aside", False):
            return
        weights = torch.cat([p.detach().flatten().cpu().double() for p in bare(self.network).parameters()])
        self.origin = weights if self.origin is None else self.origin
        moved = float((weights - self.origin).norm() / self.origin.norm())
        epoch = int(engine.state.epoch)
        self.pooled[epoch] = {name: float(score) for name, score in engine.state.metrics.items()} | {"moved": moved}
        say(f"validation {epoch}: {self._line(epoch)}; weights moved by {moved:.2e}")

    def _line(self, epoch: int) -> str:
        now = self.pooled[epoch]
        before, after = now["baseline_kl_reference"], now["kl_reference"]
        levels = f"mean grey level {255 * now['baseline_mean']:.1f} to {255 * now['mean']:.1f}"
        extent = next((f"; {row['extent']} of each frame" for row in self.rows(epoch) if row.get("extent")), "")
        return (
            f"KL(y,x) of input {before:.4f}, KL(y,x^) of network {after:.4f}, "
            f"in tissue {now['baseline_kl_tissue']:.4f} to {now['kl_tissue']:.4f}, SSIM(x,x^) {now['ssim_input']:.4f}, "
            f"SSNR {now['baseline_ssnr']:.2f} to {now['ssnr']:.2f}, {levels}{extent}"
        )

    def summary(self, epoch: int, metrics: Sequence[str] = ()) -> str:
        """One line: the scores of an epoch, and whether KL is at most half of the input's above the floor."""
        now = self.pooled[epoch]
        before, after = now["baseline_kl_reference"], now["kl_reference"]
        reached = "reached" if after <= GOAL * before and now["ssim_input"] > self.floor else "not reached"
        share = after / before if before else math.nan
        goal = f"goal at most {GOAL:.0%} with SSIM above {self.floor:g}: {reached}"
        return f"{self._line(epoch)}; {share:.0%} of the input's divergence ({goal})"

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, for a checkpoint."""
        return {"origin": self.origin, "pooled": {epoch: dict(scores) for epoch, scores in self.pooled.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from an earlier run's record."""
        self.origin, self.pooled = state["origin"], dict(state["pooled"])
