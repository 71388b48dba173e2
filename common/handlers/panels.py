# SPDX-License-Identifier: Apache-2.0
"""Pictures side by side: what went in, what came out, what should have come out, and the error."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image, ImageDraw

from common.console import say
from common.files import replacing, writing
from common.runs import is_main_process
from common.transforms.intensity import robust_range

__all__ = ["Panels", "draw_panel", "draw_slice", "tensorboard_folder"]


def tensorboard_folder(folder: str | Path) -> str | None:
    """TensorBoard's folder of a run; None in further processes, and where it is not installed, which one line says."""
    if not is_main_process():
        return None
    if importlib.util.find_spec("tensorboard") is None:
        say("TensorBoard is not installed: no log for it (pip install tensorboard)")
        return None
    return str(Path(folder) / "tensorboard")


class Panels:
    """Writes a PNG per case and setting of a validation, and shows it in TensorBoard if that is installed.

    Rows are the three middle planes; columns the images named, and the last column the absolute error of the
    prediction, five times enlarged.

    Args:
        folder: the run's folder; pictures lie in ``panels/``.
        columns: pairs of title and key, each key found in the evaluator's batch or output, ``(1, H, W[, D])``.
        truth: key of the truth.
        pred: key of the prediction.
        most: pictures per validation at most.
        tensorboard: log folder of TensorBoard, or None.
        draw: another function of ``draw_panel``'s arguments that draws the picture.
    """

    def __init__(
        self,
        folder: str | Path,
        columns: Sequence[Sequence[str]],
        truth: str = "label",
        pred: str = "pred",
        most: int = 8,
        tensorboard: str | Path | None = None,
        draw: Callable[..., np.ndarray] | None = None,
    ) -> None:
        self.draw = draw or draw_panel
        self.folder = Path(folder) / "panels"
        self.columns = columns
        self.truth = truth
        self.pred = pred
        self.most = most
        self.tensorboard = tensorboard
        self._count = 0

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        if is_main_process():
            engine.add_event_handler(Events.EPOCH_STARTED, self._restart)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _restart(self, engine: Engine) -> None:
        self._count = 0

    def __call__(self, engine: Engine) -> None:
        """Draws the images of the batch that has just been scored."""
        if getattr(engine.state, "aside", False):
            return
        state: Any = engine.state
        for batch, output in zip(state.batch, state.output, strict=True):
            if self._count >= self.most:
                return
            self._count += 1
            item = {**batch, **output}
            name = f"{item['case']}_{item['setting']}_epoch{engine.state.epoch}"
            images = [(title, item[key][0]) for title, key in self.columns]
            picture = self.draw(images, item[self.pred][0], item[self.truth][0])
            with replacing(self.folder / f"{name}.png") as partial:
                Image.fromarray(picture).save(partial)
            self._log(name.rsplit("_epoch", 1)[0], picture, engine.state.epoch)

    def _log(self, tag: str, picture: np.ndarray, epoch: int) -> None:
        if self.tensorboard is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, and is optional

        with (
            writing(self.tensorboard),
            SummaryWriter(log_dir=str(self.tensorboard), filename_suffix=".panels") as writer,
        ):
            writer.add_image(tag, picture, epoch, dataformats="HWC")


def draw_panel(
    images: Sequence[tuple[str, torch.Tensor]], pred: torch.Tensor, truth: torch.Tensor, width: int = 200
) -> np.ndarray:
    """Columns of images with their middle planes, and the error.

    Args:
        images: title and image ``(H, W[, D])`` each, on one grid.
        pred: prediction whose error is shown.
        truth: truth, which sets the grey scale.
        width: width of a column in pixels.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    low, high = robust_range(truth)
    error = 5 * (pred - truth).abs() + low
    columns = [*images, ("error x5", error)]
    tiles = []
    for title, image in columns:
        planes = [image.select(axis, n // 2) for axis, n in enumerate(image.shape)] if image.ndim == 3 else [image]
        tiles.append(_column(title, [draw_slice(plane, (low, high)) for plane in planes], width))
    return np.concatenate(tiles, axis=1)


def draw_slice(image: torch.Tensor, window: tuple[float, float]) -> np.ndarray:
    """Grey levels ``(W, H)`` uint8 of a slice ``(H, W)``, its second axis pointing up.

    Args:
        image: the slice.
        window: values that become black and white; those beyond are clipped.
    """
    low, high = window
    levels = ((image.detach().float().cpu() - low) / (high - low)).clamp(0, 1) * 255
    return np.ascontiguousarray(levels.round().numpy().astype(np.uint8).T[::-1])


def _column(title: str, planes: Sequence[np.ndarray], width: int) -> np.ndarray:
    parts = [np.zeros((16, width, 3), np.uint8)]
    for plane in planes:
        grey = Image.fromarray(plane)
        height = max(1, round(width * plane.shape[0] / plane.shape[1]))
        # whole pixels stay visible: no smoothing that would flatter or blur a method
        parts.append(np.stack([np.asarray(grey.resize((width, height), Image.Resampling.NEAREST))] * 3, axis=-1))
    column = Image.fromarray(np.concatenate(parts))
    ImageDraw.Draw(column).text((4, 3), title, fill=(255, 255, 255))
    return np.asarray(column)
