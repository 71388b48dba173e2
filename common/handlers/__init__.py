# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers for what MONAI's own do not cover: epochs of samples, checkpoints, score tables, panels."""

from .average import WeightAverage
from .checkpoints import BestWeights, RunCheckpoint, StartingWeights, shared
from .panels import Panels, draw_slice, tensorboard_folder
from .progress import ClipGradientNorm, ClipGradients, ClipWeights, EpochBar, EpochLoss, EpochSamples
from .promotion import PromoteWeights
from .scores import ScoreTable
from .terms import KeepInOutput, TermsTable

__all__ = [
    "BestWeights",
    "ClipGradientNorm",
    "ClipGradients",
    "ClipWeights",
    "EpochBar",
    "EpochLoss",
    "EpochSamples",
    "KeepInOutput",
    "Panels",
    "PromoteWeights",
    "RunCheckpoint",
    "ScoreTable",
    "StartingWeights",
    "TermsTable",
    "WeightAverage",
    "draw_slice",
    "shared",
    "tensorboard_folder",
]
