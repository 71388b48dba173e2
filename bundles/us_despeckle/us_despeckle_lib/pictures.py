# SPDX-License-Identifier: Apache-2.0
"""Pictures: histograms of reference, input and result (the paper's figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image, ImageDraw

from common.io.files import replacing
from common.utils.distributed import is_main_process

from .metrics import histogram

__all__ = ["PooledHistograms", "draw_histograms"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 360, 16, 24, 40
COLOURS = {"reference": (40, 90, 200), "input": (200, 60, 40), "result": (30, 140, 60)}
SMOOTH = np.array([1, 2, 3, 2, 1]) / 9  # neighbouring levels; single levels of scaled 8-bit pictures stand out


def draw_histograms(counts: Mapping[str, torch.Tensor], note: str = "") -> np.ndarray:
    """Probability of each grey level as one line per picture.

    Args:
        counts: counts ``(256,)`` by title, which begins with reference, input or result.
        note: text below the titles.

    Returns:
        ``(360, 640, 3)`` uint8.
    """
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    lines = {}
    for title, count in counts.items():
        share = count.double().numpy() / max(float(count.sum()), 1)
        lines[title] = np.convolve(share, SMOOTH, mode="same")
    # a spike of margins' black would press the rest down
    highest = max(float(line[3:].max()) for line in lines.values()) or 1.0
    for i, (title, line) in enumerate(lines.items()):
        colour = COLOURS[title.split()[0]]
        x = LEFT + np.arange(len(line)) * (WIDTH - 2 * LEFT) / (len(line) - 1)
        y = HEIGHT - BOTTOM - np.minimum(line / highest, 1.02) * (HEIGHT - BOTTOM - TOP)
        draw.line([(float(a), float(b)) for a, b in zip(x, y, strict=True)], fill=colour, width=2)
        draw.text((LEFT + 110 * i, 4), title, fill=colour)
    draw.text((LEFT, 20), note, fill=(60, 60, 60))
    draw.line([(LEFT, HEIGHT - BOTTOM), (WIDTH - LEFT, HEIGHT - BOTTOM)], fill=(60, 60, 60))
    for level in range(0, 256, 51):
        tick = LEFT + level * (WIDTH - 2 * LEFT) / 255
        draw.text((tick - 4, HEIGHT - BOTTOM + 4), f"{level / 255:.1f}", fill=(60, 60, 60))
    return np.asarray(canvas)


class PooledHistograms:
    """Writes ``histograms.png`` after a validation: reference, all inputs and all results of all processes, pooled.

    Args:
        folder: the run's folder.
        reference: counts ``(256,)`` of the reference set.
    """

    def __init__(self, folder: str | Path, reference: torch.Tensor) -> None:
        self.path = Path(folder) / "histograms.png"
        self.reference = reference
        self.counts: dict[str, torch.Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that decollates, over ``HeldOutFrames``."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.counts.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _collect(self, engine: Engine) -> None:
        items: Any = engine.state.output  # decollated
        for item in items:
            for title, key in (("input x", "image"), ("result x^", "pred")):
                counts = histogram(torch.as_tensor(item[key])[0], torch.as_tensor(item["label"])[1])
                self.counts[title] = self.counts.get(title, 0) + counts

    def __call__(self, engine: Engine) -> None:
        """Draws the histograms of the validation that has just ended, of all processes."""
        counts = {title: torch.as_tensor(idist.all_reduce(own)) for title, own in self.counts.items()}
        if not is_main_process():
            return
        scores = engine.state.metrics
        note = f"KL(y, x) {scores['baseline_kl_reference']:.3f}; KL(y, x^) {scores['kl_reference']:.3f}"
        with replacing(self.path) as partial:
            Image.fromarray(draw_histograms({"reference y": self.reference, **counts}, note)).save(partial)
