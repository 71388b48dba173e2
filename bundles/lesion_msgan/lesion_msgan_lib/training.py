# SPDX-License-Identifier: Apache-2.0
"""The objective's weights and rates over a run, methods to compare with, and what is said before a run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from common.console import convolution_rate, evaluation_line, multiplications, start_lines
from common.inputs import InputError
from common.losses import WeightedLoss
from common.settings import choice, optional, quantity, value
from common.weights import bare, build, load_into

from .data import LesionSlices
from .networks import SRResNet, fold

__all__ = [
    "MSEAlone",
    "announce",
    "announce_evaluation",
    "compared_networks",
    "expected_seconds",
    "objective",
    "pretraining_epochs",
    "schedule",
    "weights_of",
]

STEP = 4.0  # a generator step costs about four forward passes, with optimizer and loss
CRITIC_STEP = 5.0  # a critic step with penalty, in generator forward passes of the default networks
VARIANTS = {"mse": "model.pt", "msgan": "msgan.pt"}
NAMES = ("truth", "network", "bicubic", "bilinear", "label", "pred", "image", "case", "setting", "baseline")  # taken


def objective(x2: Any, x4: Any, vgg: Any, vgg_weights: Any) -> dict[str, float]:
    """Weights of the terms of eq. 7 without the adversarial one; the VGG term is 0 without a weights file.

    Raises:
        InputError: a weight that is negative or no number.
    """
    given = {"mse_x2": (x2, "x2_weight"), "mse_x4": (x4, "x4_weight"), "vgg": (vgg, "vgg_weight")}
    weights = {term: quantity(weight, key, least=0) for term, (weight, key) in given.items()}
    if optional(vgg_weights) is None:
        weights["vgg"] = 0.0
    return weights


def pretraining_epochs(given: Any, budget: Mapping[str, Any]) -> int:
    """First epochs, in which the generator trains alone: those of the key, or else the budget's.

    Raises:
        InputError: no whole number of 0 or more.
    """
    epochs = quantity(given, "pretraining", least=0, whole=True, empty=True)
    return int(budget["pretraining"]) if epochs is None else epochs


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

    def __call__(self, engine: Engine) -> None:
        alone = engine.state.epoch <= engine.generator_warmup
        self.loss.weights = {**self.weights, "vgg": 0.0} if alone else dict(self.weights)


def schedule(
    optimizer: Optimizer, kind: Any, iterations: int, epochs: int, pretraining: int = 0, warmup_steps: Any = 0
) -> LRScheduler:
    """Learning rate over a run, stepped after every iteration.

    Args:
        optimizer: whose rate.
        kind: ``step``, the paper's, a tenth from the middle of the epochs on (after pre-training); or ``cosine``, a
            linear rise and then half a cosine to 0 over all epochs, an addition to the paper.
        iterations: per epoch.
        epochs: without those of pre-training.
        pretraining: epochs in front of them.
        warmup_steps: of the rise.

    Raises:
        InputError: another kind.
    """
    if choice(kind, "schedule", ("step", "cosine")) == "step":
        return MultiStepLR(optimizer, [iterations * (pretraining + max(1, epochs // 2))], gamma=0.1)
    warmup = quantity(warmup_steps, "warmup_steps", least=0, whole=True)
    return WarmupCosineSchedule(optimizer, warmup, iterations * (pretraining + epochs))


def expected_seconds(
    network: nn.Module,
    device: Any,
    crops: int,
    crop_pixels: int,
    trainer: Any,
    held_out: LesionSlices,
    validations: int,
) -> float:
    """Estimated time of a run from the machine's convolution rate, measured in a moment.

    Args:
        network: the generator.
        device: where.
        crops: training crops per epoch.
        crop_pixels: low-resolution pixels of a crop.
        trainer: the ``AdversarialTrainer``, or None for an evaluation.
        held_out: what is validated each time.
        validations: validations in all.
    """
    pixels = 2.0 * validations * held_out.pixels()  # with context about twice the region
    if trainer is not None:
        passes = trainer.passes_left(generator=STEP, discriminator=CRITIC_STEP, game=1.0)
        pixels += passes * crops * crop_pixels
    return multiplications(bare(network)) * pixels / convolution_rate(device)


def announce(
    budget: dict[str, Any],
    network: nn.Module,
    device: Any,
    train: Any,
    trainer: Any,
    held_out: LesionSlices,
    val_interval: int,
    weights: str,
    folder: Any,
) -> None:
    """Says before training what is going to happen.

    Args:
        budget: chosen numbers, with "epochs" and "crop".
        network, device: what is trained, and where.
        train: the training crops.
        trainer: the ``AdversarialTrainer``.
        held_out: validation items.
        val_interval: epochs between validations.
        weights: where the starting weights come from.
        folder: the run's folder.
    """
    validations = budget["epochs"] // val_interval + 1
    pixels = (budget["crop"] // 4) ** 2
    seconds = expected_seconds(network, device, len(train), pixels, trainer, held_out, validations)
    data = (
        f"{len(train.volumes)} training volumes, {len(train)} crops per epoch;"
        f" {len(held_out)} slices of {len(held_out.volumes)} held-out volume(s)"
    )
    start_lines("training", budget, device, data, weights, seconds, folder)


def announce_evaluation(network: nn.Module, device: Any, held_out: LesionSlices, weights: str) -> None:
    """Says before an evaluation what is going to happen, and how long the network will take."""
    seconds = expected_seconds(network, device, 0, 0, None, held_out, 1)
    data = f"{len(held_out)} slices of {len(held_out.volumes)} volume(s)"
    evaluation_line(weights, data, seconds, device)


def compared_networks(given: Any, device: Any) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Other trained generators to compare with, by name; the kind of network is told by the weights.

    As in the paper (sec. 3), they are applied to the whole slice and judged in the region.

    Args:
        given: ``{"srresnet": "runs/short-2/best.pt", ...}``, or that as text.
        device: where they run.

    Raises:
        InputError: no such mapping, a name that cannot be, a file that is missing, or weights of neither generator.
    """
    plain = value(given)
    if plain is None:
        return {}
    if not isinstance(plain, Mapping):
        raise InputError(f"compared must be like {{'srresnet': 'best.pt'}}, got {given!r}")
    known = {str(name).replace(" ", "_"): str(path) for name, path in plain.items()}
    for name in known:
        if name in NAMES or not re.fullmatch(r"\w[\w.+-]*", name):  # it becomes a folder, and a key beside the others
            raise InputError(f"compared: {name!r} is taken or no plain name; choose another")
    return {name: _whole_slice(generator_of(path), device) for name, path in known.items()}


def weights_of(folder: str, variant: Any) -> str:
    """File of the shipped weights of the key ``variant``: ``mse``, trained with MSE alone, or ``msgan``, with a critic.

    Raises:
        InputError: another name.
    """
    name = choice(variant, "variant", list(VARIANTS))
    return os.path.join(folder, VARIANTS[name])


def generator_of(path: str) -> nn.Module:
    """The generator that a weights file belongs to, ready for inference."""
    return fold(load_into(build(SRResNet, path, {}), path))


def _whole_slice(network: nn.Module, device: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    network = network.to(device, memory_format=torch.channels_last)

    def apply(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(image.to(device).contiguous(memory_format=torch.channels_last)).cpu()

    return apply
