# SPDX-License-Identifier: Apache-2.0
"""The reference probe in numbers: the histogram that weights are trained towards, kept beside them, and its speckle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from common.errors import InputError
from common.io.files import replacing
from common.utils.console import say
from common.utils.distributed import is_main_process
from common.utils.values import optional

from .frames import find_frames
from .metrics import histogram, patches_of, speckle_width, ssnr
from .rois import find_rois
from .transforms import LoadFramesd

__all__ = ["NAME", "KeepReference", "SayReference", "beside", "load_reference", "pooled_histogram"]

NAME = "reference.json"


def pooled_histogram(frames: Iterable[Mapping[Any, Any]], tissue: bool = False) -> torch.Tensor:
    """Counts ``(256,)`` of the grey levels of all frames.

    Args:
        frames: decoded files, see ``LoadFramesd``.
        tissue: inside their patches of tissue alone, see ``find_rois``; else in all of their ultrasound.
    """
    total = torch.zeros(256, dtype=torch.float64)
    for item in frames:
        levels, region = item["image"].as_tensor(), item["image"].meta["region"]
        for frame in levels:
            found = torch.from_numpy(find_rois(frame.numpy(), region.numpy() > 0)) if tissue else region
            total += histogram(frame, found)
    return total


def beside(weights: str | Path) -> str | None:
    """The histogram's file beside a file of weights, None where there is none."""
    path = Path(weights).expanduser().with_name(NAME)
    return str(path) if path.is_file() else None


def load_reference(given: Any) -> torch.Tensor | None:
    """Counts ``(256,)`` of a file that a training wrote, or of a folder of the reference probe's frames.

    Raises:
        InputError: no such file, or no histogram in it.
    """
    name = optional(given)
    if name is None:
        return None
    path = Path(name).expanduser()
    if path.is_dir():
        load = LoadFramesd("image")
        return pooled_histogram(load({"image": file}) for file in find_frames(path))
    if not path.is_file():
        raise InputError("no such file or folder", path)
    try:
        counts = torch.tensor(json.loads(path.read_text(encoding="utf-8")), dtype=torch.float64)
    except (ValueError, TypeError) as error:
        raise InputError("holds no histogram", path) from error
    if counts.shape != (256,):
        raise InputError("holds no histogram of 256 levels", path)
    return counts


class KeepReference:
    """Writes the reference set's histogram as ``reference.json`` into the run's folder, beside its weights.

    Args:
        folder: the run's.
        counts: counts ``(256,)`` of the reference set.
    """

    def __init__(self, folder: str | Path, counts: torch.Tensor) -> None:
        self.path, self.counts = Path(folder) / NAME, counts

    def attach(self, engine: Engine) -> None:
        """Writes when the trainer starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Writes the counts, in the first process."""
        if is_main_process():
            with replacing(self.path) as partial:
                partial.write_text(json.dumps([int(n) for n in self.counts]) + "\n", encoding="utf-8")


class SayReference:
    """Says at an evaluation's end what speckle the reference probe itself has.

    Args:
        frames: decoded frames of the reference probe.
    """

    def __init__(self, frames: Sequence[Mapping[str, Any]]) -> None:
        self.frames = frames

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Says the speckle of the frames, in the first process."""
        scores = []
        for item in self.frames:
            frame, region = item["image"].as_tensor()[0].numpy(), item["image"].meta["region"].numpy() > 0
            patches = patches_of(frame, find_rois(frame, region))
            scores += [(ssnr(patch), speckle_width(patch, 1), speckle_width(patch, 0)) for patch in patches]
        if scores:
            ratio, lateral, axial = np.mean(scores, axis=0)
            numbers = f"SSNR {ratio:.2f}, width {lateral:.2f} lateral, {axial:.2f} axial pixels"
            say(f"reference probe, {len(scores)} patches found in {len(self.frames)} file(s): {numbers}")
