# SPDX-License-Identifier: Apache-2.0
"""Every method's picture of the same region, for a reader who scores without knowing which is which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image

from common.io.files import replacing
from common.transforms.intensity import robust_range
from common.utils.console import say
from common.utils.distributed import is_main_process

__all__ = ["MethodPictures", "columns"]


def columns(others: Iterable[str]) -> list[list[str]]:
    """Titles and keys of an evaluation's pictures: bicubic, further methods, the network and the truth."""
    return [*([name, name] for name in ("bicubic", *others)), ["network", "pred"], ["truth", "label"]]


class MethodPictures:
    """Writes what an evaluation compared as PNG, ``pictures/<method>/<case>.png``, for ``tools.opinion_score``.

    All pictures of a case have one size and one grey scale, the truth's. Several processes write their own cases. What
    an earlier evaluation left in the folders goes, lest a reader see two evaluations mixed.

    Args:
        folder: the run's folder.
        methods: pairs of the method's name and key, each key found in the evaluator's batch or output, ``(1, H, W)``.
        truth: key of the truth.
    """

    def __init__(self, folder: str | Path, methods: Sequence[Sequence[str]], truth: str = "label") -> None:
        self.folder = Path(folder) / "pictures"
        self.methods = methods
        self.truth = truth

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, lambda _: say(f"each method alone {self.folder}"))

    def _clear(self, engine: Engine) -> None:
        if is_main_process():
            for path in self.folder.glob("*/*.png"):
                path.unlink()
        idist.barrier()

    def __call__(self, engine: Engine) -> None:
        """Writes the pictures of a batch, one per case and method."""
        state: Any = engine.state
        for batch, output in zip(state.batch, state.output, strict=True):
            item = {**batch, **output}
            window = robust_range(item[self.truth][0])
            for name, key in self.methods:
                path = self.folder / name / f"{item['case']}.png"
                with replacing(path) as partial:
                    Image.fromarray(_grey_levels(torch.as_tensor(item[key][0]), window)).save(partial)


def _grey_levels(image: torch.Tensor, window: tuple[float, float]) -> np.ndarray:
    """Grey levels ``(W, H)`` uint8 of a slice ``(H, W)``, its second axis pointing up.

    Args:
        image: the slice.
        window: values that become black and white; those beyond are clipped.
    """
    low, high = window
    levels = ((image.detach().float().cpu() - low) / (high - low)).clamp(0, 1) * 255
    return np.ascontiguousarray(levels.round().numpy().astype(np.uint8).T[::-1])
