# SPDX-License-Identifier: Apache-2.0
"""Slices of a run's cases as grey levels, for the viewer of the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms.utils_pytorch_numpy_unification import percentile
from PIL import Image

from common.io.pictures import SUFFIXES
from common.transforms.geometry import spacing_of
from common.transforms.intensity import foreground_mask, robust_range
from common.utils.distributed import is_main_process

__all__ = ["CasePictures", "Pictures"]

RANKS = ((1 / 2,), (1 / 4, 3 / 4), (0, 1), (1 / 8, 3 / 8, 5 / 8, 7 / 8))  # which of the slices come first
MOST = 9  # slices along an axis
MARGIN = 4  # voxels around the foreground
PLANES = ("Sagittal", "Coronal", "Axial")
TRUTH, SPREAD = "label", "std"
ROLES = {TRUTH: "truth", "pred": "result", "restored": "result", SPREAD: "uncertainty"}


@dataclass
class Plane:
    """Slices of one direction: ``levels[depth][column]`` is uint8 of ``(rows, columns)``."""

    title: str
    aspect: float  # height of a pixel by its width
    captions: list[str]
    levels: list[list[np.ndarray]]
    left: str = ""  # which side of the patient is on the left
    right: str = ""


@dataclass
class Pictures:
    """A case's pictures, and what is said about it."""

    name: str
    columns: list[dict[str, str]]
    planes: list[Plane]
    setting: str = ""
    notes: list[str] = field(default_factory=list)


class CasePictures:
    """Keeps slices of each case that an evaluator works through.

    Args:
        columns: of each image its title and its key in the evaluator's batch or output, ``(C, H, W[, D])``, of which
            the first channel is shown; the first image is what the result is compared with. A third item, false, gives
            an image a grey scale of its own: another contrast. Keys that a case does not have are left out. ``pred`` or
            ``result`` is the result, ``label`` the truth, ``std`` the uncertainty.
        rows_first: two-dimensional images are stored row by row from the top, not as slices of a volume, nor as MONAI
            reads pictures.
        most: cases at most.
    """

    def __init__(self, columns: Sequence[Sequence[Any]], rows_first: bool = False, most: int = 12) -> None:
        self.columns, self.rows_first, self.most = columns, rows_first, most
        self.cases: list[Pictures] = []
        self._now: list[Pictures] = []

    def attach(self, engine: Engine, best: Any = None) -> None:
        """Attach to the evaluator; behind the run's ``BestWeights``, where only the best validation is shown."""
        if self.columns and is_main_process():
            engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._now.clear())
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._keep, best)

    def __call__(self, engine: Engine) -> None:
        """Draws the cases of a batch, as long as fewer than the wanted number are drawn."""
        state: Any = engine.state
        if getattr(state, "aside", False) or not state.output:  # an empty output: the case failed
            return
        for batch, output in zip(state.batch, state.output, strict=True):
            if len(self._now) < self.most:
                self._now.append(self.draw({**batch, **output}))

    def _keep(self, engine: Engine, best: Any) -> None:
        if getattr(engine.state, "aside", False):
            return
        if not self.cases or best is None or best.epoch == engine.state.epoch:
            self.cases = list(self._now)

    def draw(self, item: Mapping[str, Any]) -> Pictures:
        """A case's pictures."""
        there = [(title, key, *shared) for title, key, *shared in self.columns if key in item]
        keys = [key for _, key, *_ in there]
        own = [key == SPREAD or shared == [False] for _, key, *shared in there]
        made = next(number for number, key in enumerate(keys) if ROLES.get(key) == "result")
        result = item[keys[made]]
        images = [_on_grid_of(item[key], result) for key in keys]
        leading = images[keys.index(TRUTH) if TRUTH in keys else 0]
        window = robust_range(leading)
        grey = [
            _levels(image, *(_own_window(image, key) if alone else window))
            for image, key, alone in zip(images, keys, own, strict=True)
        ]
        columns = [
            {"title": title, "role": ROLES.get(key, "input"), "scale": "own" if alone else "shared"}
            for (title, key, *_), alone in zip(there, own, strict=True)
        ]
        affine, meta = getattr(result, "affine", None), getattr(result, "meta", {})
        picture = str(meta.get("filename_or_obj", "")).lower().endswith(SUFFIXES)
        turn = _as_it_is if self.rows_first else np.transpose if picture else _slice_upright
        planes = _planes(grey, leading, item.get("affine", affine), turn)
        notes = [] if TRUTH in keys or own[0] else [_change(images[0], images[made], window)]
        name = (
            Path(item["saved"][0]).as_posix() if "saved" in item else item["case"]
        )  # which may be a path in inference
        return Pictures(name, columns, planes, item.get("setting", ""), notes)

    def packed(self, budget: int) -> list[dict[str, Any]]:
        """What the viewer reads: pictures as lossless WebP in base64, fewer slices or cases where room is short.

        Args:
            budget: characters at most.
        """
        packed = [_without_slices(case) for case in self.cases]
        for rank in range(len(RANKS)):
            for case, into in zip(self.cases, packed, strict=True):
                slices = [_slices(plane, rank) for plane in case.planes]
                budget -= sum(len(text) for plane in slices for one in plane for text in one["images"])
                if budget < 0:
                    return [case for case in packed if case["planes"][0]["slices"]]
                for plane, more in zip(into["planes"], slices, strict=True):
                    plane["slices"] = sorted([*plane["slices"], *more], key=lambda one: one["depth"])
        return packed


def _plain(image: Any) -> torch.Tensor:
    image = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
    return image.detach()[0].float().cpu()


def _on_grid_of(image: Any, result: Any) -> torch.Tensor:
    """The first channel ``(H, W[, D])``; whole voxels of another grid are blown up to the result's."""
    plain, size = _plain(image), tuple(result.shape[1:])
    if tuple(plain.shape) == size:
        return plain
    return torch.nn.functional.interpolate(plain[None, None], size=size, mode="nearest-exact")[0, 0]


def _own_window(image: torch.Tensor, key: str) -> tuple[float, float]:
    return (0.0, float(percentile(image, 99.9)) or 1.0) if key == SPREAD else robust_range(image)


def _levels(image: torch.Tensor, low: float, high: float) -> np.ndarray:
    return (((image - low) / (high - low)).nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _change(before: torch.Tensor, after: torch.Tensor, window: tuple[float, float]) -> str:
    """How far a result is from its input, where there is no truth."""
    inside = foreground_mask(before)
    change = float((after - before)[inside].square().mean().sqrt()) / (window[1] - window[0])
    return f"changed by {100 * change:.1f} % of the grey scale (root mean square over the foreground)"


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def _slice_upright(image: np.ndarray) -> np.ndarray:
    """Rows of a slice ``(x, y)`` whose y points up."""
    return image.T[::-1]


def _planes(
    grey: Sequence[np.ndarray], leading: torch.Tensor, affine: Any, turn: Callable[[np.ndarray], np.ndarray]
) -> list[Plane]:
    """Slices through the foreground; volumes with an affine as radiologists look at them, the patient's right left."""
    inside = _box(foreground_mask(leading).numpy())
    grey = [image[inside] for image in grey]
    if grey[0].ndim == 2:
        return [Plane("", 1.0, [""], [[turn(image) for image in grey]])]
    spacing, titles = np.ones(3), [f"Plane across axis {axis + 1}" for axis in range(3)]
    offsets = np.array([part.start for part in inside])
    lengths = np.array(leading.shape)
    flipped = np.array([1, 1, 1])
    if affine is not None:
        order = nib.orientations.io_orientation(np.asarray(torch.as_tensor(affine), dtype=float))
        axes = np.argsort(order[:, 0])  # the array's axis that runs right, forward, up
        spacing, titles = spacing_of(torch.as_tensor(affine))[axes], list(PLANES)
        grey = [nib.orientations.apply_orientation(image, order) for image in grey]
        flipped, offsets, lengths = order[axes, 1], offsets[axes], lengths[axes]
    planes = []
    for axis, title in enumerate(titles):
        width, height = (spacing[a] for a in range(3) if a != axis)
        count = grey[0].shape[axis]
        depths = sorted({round((i + 1) * count / (MOST + 1) - 0.5) for i in range(MOST)})
        # slices are counted as other viewers count the file's, from 1
        own = [offsets[axis] + (d if flipped[axis] > 0 else count - 1 - d) + 1 for d in depths]
        captions = [f"slice {n} of {lengths[axis]}" for n in own]
        mirror = -1 if affine is not None else 1
        levels = [[_slice_upright(image.take(d, axis))[:, ::mirror] for image in grey] for d in depths]
        sides = ("", "") if affine is None else ("A", "P") if axis == 0 else ("R", "L")
        planes.append(Plane(title, round(float(height / width), 4), captions, levels, *sides))
    return planes[::-1]  # axial first


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    found = []
    for axis, length in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        found.append(slice(max(0, hit[0] - MARGIN), min(length, hit[-1] + 1 + MARGIN)))
    return tuple(found)


def _without_slices(case: Pictures) -> dict[str, Any]:
    kept = {key: getattr(case, key) for key in ("name", "setting", "notes", "columns")}
    planes = [{key: getattr(plane, key) for key in ("title", "aspect", "left", "right")} for plane in case.planes]
    return {**kept, "planes": [{**plane, "slices": []} for plane in planes]}


def _slices(plane: Plane, rank: int) -> list[dict[str, Any]]:
    """The slices of a plane that come at this rank: the middle, then ever finer steps."""
    last = len(plane.levels) - 1
    *before, chosen = ({round(part * last) for part in parts} for parts in RANKS[: rank + 1])
    return [
        {"depth": d, "caption": plane.captions[d], "images": [_webp(levels) for levels in plane.levels[d]]}
        for d in sorted(chosen.difference(*before))
    ]


def _webp(levels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(stream, "WEBP", lossless=True, method=3)
    return base64.b64encode(stream.getvalue()).decode("ascii")
