# SPDX-License-Identifier: Apache-2.0
"""Standard histograms of the four sequences, which belong to the weights that were trained with them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.console import say
from common.files import replacing
from common.inputs import CheckVoxelsd, InputError, root_cause
from common.readers import LoadScan
from common.runs import is_main_process
from common.settings import boolean
from common.transforms.intensity import PERCENTILES, fit_landmarks, foreground_mask, standardise
from common.weights import bare

from .data import SEQUENCES

__all__ = ["Landmarks", "bind", "check_bound", "landmarks_path", "prepare", "read"]

SUFFIX = ".landmarks.json"
TOP = 99.9  # percentile of the foreground that counts as a sequence's brightest


@dataclass
class Landmarks:
    """Landmarks and brightest values of the sequences, for the weights of one target.

    Args:
        target: the sequence that the weights make.
        sequences: by name ``{"landmarks": [...], "top": value}`` in standardised units.
        cases: training cases they were learned from.
        percentiles: of the foreground, one per landmark.
    """

    target: str
    sequences: dict[str, dict[str, Any]]
    cases: int
    percentiles: list[int] = field(default_factory=lambda: list(PERCENTILES))

    def of(self, sequence: str) -> list[float]:
        """Landmarks of a sequence."""
        return self.sequences[sequence]["landmarks"]

    @property
    def scale(self) -> float:
        """Standardised value of the target that the network's 1 stands for."""
        return float(self.sequences[self.target]["top"])

    @property
    def digest(self) -> str:
        """SHA-256 of the content as hexadecimal text."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file that ``read`` reads."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=4) + "\n", encoding="utf-8")


def landmarks_path(weights: str | os.PathLike) -> Path:
    """Where the landmarks of a weights file lie: beside it, ``model.landmarks.json`` for ``model.pt``."""
    return Path(weights).with_name(Path(weights).stem + SUFFIX)


def read(path: str | os.PathLike, target: str) -> Landmarks:
    """Landmarks for the weights of a target.

    Raises:
        InputError: no such file, not landmarks, or those of another target.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such landmarks file; it lies beside the weights it was made with", path)
    try:
        landmarks = Landmarks(**json.loads(path.read_text(encoding="utf-8")))
        complete = all(len(landmarks.of(name)) == len(PERCENTILES) for name in SEQUENCES)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"not a file of landmarks ({type(error).__name__})", path) from error
    if not complete or landmarks.percentiles != list(PERCENTILES):
        raise InputError("landmarks of other percentiles", path)
    if landmarks.target != target:
        raise InputError(f"these landmarks belong to the target {landmarks.target}, not to {target}", path)
    return landmarks


def fit(entries: Sequence[dict[str, Any]], target: str) -> Landmarks:
    """Learns the landmarks of all four sequences from training cases, each on its own foreground (sec. 2.3).

    Args:
        entries: see ``data.training_cases``; a sequence's file under its name.
        target: the sequence to make.

    Raises:
        InputError: a file cannot be read, has NaN or infinite voxels, or shows nothing.
    """
    say(f"learning intensity landmarks from {len(entries)} cases")
    load, sequences = LoadScan(), {}
    check = CheckVoxelsd("image")
    for name in SEQUENCES:
        images, masks, found = [], [], []
        for entry in entries:
            try:
                image = load(entry[name])
            except Exception as error:
                raise InputError(f"cannot be read ({root_cause(error)})", entry[name]) from error
            check({"image": image})  # before the training's own check: a NaN would pass for a constant foreground
            image = image.as_tensor()
            mask = foreground_mask(image)
            # a sample of the voxels is enough and keeps any number of cases in memory
            values = image[mask]
            images.append(values[:: max(1, len(values) // 200_000)])
            masks.append(torch.ones_like(images[-1], dtype=torch.bool))
            try:
                found.append(fit_landmarks(images[-1:], masks[-1:]))
            except ValueError as error:
                raise InputError(str(error), entry[name]) from error
        marks = np.mean(found, axis=0).tolist()
        tops = [
            np.percentile(standardise(image, marks, mask).numpy(), TOP)
            for image, mask in zip(images, masks, strict=True)
        ]
        sequences[name] = {"landmarks": [round(m, 4) for m in marks], "top": round(float(np.mean(tops)), 4)}
    return Landmarks(target, sequences, len(entries))


def prepare(
    weights: str,
    from_scratch: Any,
    resume: Any,
    entries: Sequence[dict],
    target: str,
    folder: Any,
) -> Landmarks:
    """Landmarks of a run: those of the run that goes on, of the starting weights, or new ones for random weights.

    They are written to the run's folder, beside ``best.pt``.

    Args:
        weights: starting weights.
        from_scratch, resume: as in ``train.json``.
        entries: training cases, to learn from.
        target: the sequence to make.
        folder: the run's folder.
    """
    own = landmarks_path(Path(folder) / "best.pt")
    if boolean(resume) and own.is_file():
        return read(own, target)
    landmarks = fit(entries, target) if boolean(from_scratch) else read(landmarks_path(weights), target)
    if is_main_process():
        landmarks.save(own)
    return landmarks


def bind(network: nn.Module, landmarks: Landmarks) -> None:
    """Writes the landmarks' hash into random weights, or checks that it is in the loaded ones.

    Raises:
        InputError: the weights were trained with other landmarks.
    """
    network = bare(network)
    if not network.landmarks.any():
        network.landmarks.copy_(torch.frombuffer(bytearray.fromhex(landmarks.digest), dtype=torch.uint8))
    check_bound(network, landmarks.digest)


def check_bound(weights: nn.Module | Mapping[str, torch.Tensor], digest: str) -> None:
    """Makes sure that weights and landmarks belong together.

    Args:
        weights: a network or its state dict.
        digest: of the landmarks.

    Raises:
        InputError: they do not.
    """
    state = bare(weights).state_dict() if isinstance(weights, nn.Module) else weights
    if bytes(state["landmarks"].tolist()).hex() != digest:
        raise InputError("weights and landmarks do not belong together: the weights were trained with others")
