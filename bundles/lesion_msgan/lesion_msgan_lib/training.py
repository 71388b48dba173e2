# SPDX-License-Identifier: Apache-2.0
"""The objective and the learning rate over a run, and the methods that an evaluation compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from functools import partial
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from common.io.weights import build, in_format, load_into
from common.losses import WeightedLoss

from .networks import SRResNet, fold, interpolate

__all__ = ["MSEAlone", "other_methods", "schedule"]


class MSEAlone:
    """Lets the mean squared errors alone count while the generator is pre-trained before the game (sec. 2.3).

    Args:
        loss: the generator's objective with a term "vgg".
    """

    def __init__(self, loss: WeightedLoss) -> None:
        self.loss = loss
        self.weights = dict(loss.weights)

    def attach(self, engine: Engine) -> None:
        """Attach to the ``AdversarialTrainer``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Sets the weights of the epoch that starts."""
        alone = engine.state.epoch <= engine.generator_warmup
        self.loss.weights = {**self.weights, "vgg": 0.0} if alone else dict(self.weights)


def schedule(
    optimizer: Optimizer,
    kind: str,
    loader: Sized,
    epochs: int,
    pretraining: int = 0,
    warmup_steps: int = 0,
    critic_steps: int = 1,
) -> LRScheduler:
    """Learning rate over a run, stepped after every iteration.

    Args:
        optimizer: whose rate.
        kind: ``step``, the paper's, a tenth from the middle of the epochs on (after pre-training); or ``cosine``, a
            linear rise and then half a cosine to 0 over all epochs, an addition to the paper.
        loader: of the training's batches.
        epochs: without those of pre-training.
        pretraining: epochs in front of them.
        warmup_steps: of the rise.
        critic_steps: batches per iteration.
    """
    iterations = len(loader) // critic_steps
    if kind == "step":
        return MultiStepLR(optimizer, [iterations * (pretraining + max(1, epochs // 2))], gamma=0.1)
    return WarmupCosineSchedule(optimizer, warmup_steps, iterations * (pretraining + epochs))


def other_methods(compared: Mapping[str, str], device: Any) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What an evaluation compares the network with beside bicubic interpolation, by name.

    Bilinear interpolation, and other trained generators, whose kind the weights tell. As in the paper (sec. 3), they
    are applied to the whole slice and judged in the region.

    Args:
        compared: names and weights files of the generators, such as ``{"srresnet": "runs/short-2/best.pt"}``.
        device: where they run.

    Raises:
        InputError: a file that is missing, or weights of no generator.
    """
    methods: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"bilinear": partial(interpolate, mode="bilinear")}
    return methods | {name: _whole_slice(_generator_of(path), device) for name, path in compared.items()}


def _generator_of(path: str) -> nn.Module:
    return fold(load_into(build(SRResNet, path, {}), path))


def _whole_slice(network: nn.Module, device: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    network = in_format(network, torch.channels_last, device)

    def apply(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(image.to(device).contiguous(memory_format=torch.channels_last)).cpu()

    return apply
