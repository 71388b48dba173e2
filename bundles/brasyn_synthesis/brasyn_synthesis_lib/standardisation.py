# SPDX-License-Identifier: Apache-2.0
"""Histogram standardisation (Nyul, Udupa and Zhang 2000) of the four sequences; its numbers lie in the weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import InputError
from common.io.inputs import CheckVoxelsd, root_cause
from common.io.readers import LoadScan
from common.io.weights import bare, load_flat
from common.transforms.intensity import fit_landmarks, foreground_mask, standardise
from common.utils.console import say
from common.utils.distributed import from_first

from .data import SEQUENCES

__all__ = ["Standardisation", "fit", "prepare"]

TOP = 99.9  # percentile of the foreground that counts as a sequence's brightest
DIGITS = 4  # of the numbers that are kept: single precision holds them exactly


@dataclass(frozen=True)
class Standardisation:
    """Standard histograms of the four sequences, as the weights of one target were trained with them.

    Args:
        target: the sequence that the weights make.
        landmarks: by sequence the standard values of ``common.transforms.intensity.PERCENTILES`` of its foreground.
        tops: by sequence the standardised value of the foreground's 99.9 percentile.
    """

    target: str
    landmarks: Mapping[str, Sequence[float]]
    tops: Mapping[str, float]

    @classmethod
    def of(cls, weights: nn.Module | Mapping[str, torch.Tensor], source: Any = None) -> Standardisation:
        """That of a generator or of its state dict.

        Raises:
            InputError: no trained weights of a generator, named ``source``.
        """
        state = weights if isinstance(weights, Mapping) else bare(weights).state_dict()
        if not {"target", "landmarks", "tops"} <= state.keys() or not state["tops"].any():
            raise InputError("holds no numbers of a histogram standardisation", source)
        landmarks = [[round(mark, DIGITS) for mark in marks] for marks in state["landmarks"].tolist()]
        tops = [round(top, DIGITS) for top in state["tops"].tolist()]
        target = SEQUENCES[round(float(state["target"]))]
        return cls(target, dict(zip(SEQUENCES, landmarks, strict=True)), dict(zip(SEQUENCES, tops, strict=True)))

    @classmethod
    def read(cls, path: str | os.PathLike, target: str) -> Standardisation:
        """That of a weights file.

        Raises:
            InputError: no weights of a generator, or those of another target.
        """
        found = cls.of(load_flat(path), path)
        if found.target != target:
            raise InputError(f"these weights make {found.target}, not {target}", path)
        return found

    def write(self, network: nn.Module) -> None:
        """Puts the numbers into a generator's buffers."""
        generator: Any = bare(network)
        generator.target.fill_(SEQUENCES.index(self.target))
        generator.landmarks.copy_(torch.tensor([list(self.landmarks[name]) for name in SEQUENCES]))
        generator.tops.copy_(torch.tensor([self.tops[name] for name in SEQUENCES]))

    @property
    def scale(self) -> float:
        """Standardised value of the target that the network's 1 stands for."""
        return float(self.tops[self.target])

    @property
    def digest(self) -> str:
        """SHA-256 of all numbers as hexadecimal text."""
        numbers = [self.target, *([list(self.landmarks[name]), self.tops[name]] for name in SEQUENCES)]
        return hashlib.sha256(repr(numbers).encode()).hexdigest()


def fit(entries: Sequence[dict[str, Any]], target: str) -> Standardisation:
    """Learns the standard histograms of all four sequences from training cases, each on its own foreground (sec. 2.3).

    Args:
        entries: see ``data.training_entries``; a sequence's file under its name. Augmented variants are passed over.
        target: the sequence to make.

    Raises:
        InputError: a file cannot be read, has NaN or infinite voxels, or shows nothing.
    """
    entries = [entry for entry in entries if "variant" not in entry]
    say(f"learning standard histograms from {len(entries)} cases")
    load, check = LoadScan(), CheckVoxelsd("image")
    landmarks, tops = {}, {}
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
        brightest = [
            np.percentile(standardise(image, marks, mask).numpy(), TOP)
            for image, mask in zip(images, masks, strict=True)
        ]
        landmarks[name] = [round(mark, DIGITS) for mark in marks]
        tops[name] = round(float(np.mean(brightest)), DIGITS)
    return Standardisation(target, landmarks, tops)


def prepare(
    network: nn.Module,
    weights: str,
    from_scratch: bool,
    resume: bool,
    entries: Sequence[dict[str, Any]],
    target: str,
    run_dir: str | os.PathLike,
) -> Standardisation:
    """Standardisation of a run: that of the run that goes on, of the starting weights, or a new one for random weights.

    The network is given it, too.

    Args:
        network: the generator.
        weights: starting weights.
        from_scratch: as in ``train.json``.
        resume: as in ``train.json``.
        entries: training cases, to learn from.
        target: the sequence to make.
        run_dir: the run's folder.
    """
    if from_scratch and not resume:
        made = from_first(lambda: fit(entries, target))
    else:
        made = Standardisation.read(Path(run_dir) / "last.pt" if resume else weights, target)
    made.write(network)
    return made
