# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers for what MONAI's own do not cover: epochs of samples, checkpoints, score tables."""

from .average import WeightAverage
from .checkpoints import BestWeights, RunCheckpoint, StartingWeights, shared
from .progress import ClipGradientNorm, ClipGradients, ClipWeights, EpochBar, EpochLoss, EpochSamples
from .promotion import PromoteWeights
from .scores import ScoreTable
from .tensorboard import tensorboard_folder
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
    "PromoteWeights",
    "RunCheckpoint",
    "ScoreTable",
    "StartingWeights",
    "TermsTable",
    "WeightAverage",
    "shared",
    "tensorboard_folder",
]
