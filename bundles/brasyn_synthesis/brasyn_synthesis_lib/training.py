# SPDX-License-Identifier: Apache-2.0
"""Checks before training, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from common.console import evaluation_line, start_lines
from common.handlers import StartingWeights
from common.inferers import ViewsInferer
from common.inputs import InputError
from common.settings import boolean, number, optional, value
from common.weights import bare

from .data import SEQUENCES
from .heldout import regression_of

__all__ = [
    "announce",
    "announce_evaluation",
    "checked_objective",
    "expected_seconds",
    "start_linear",
]

TERMS = ("l1", "masked_l1", "ssim", "vgg", "frequency")
ENOUGH = 8  # volumes that settle four numbers
STEP = 3.5  # a training step of the generator costs about so many forward passes
DISCRIMINATOR = 2.0  # one of each network, with the discriminator as costly as the generator


def checked_objective(objective: Any, vgg_weights: Any = None, needs_vgg: Any = False) -> dict[str, float]:
    """Weights of the terms as numbers; that of the perceptual term is 0 where there are no weights for it.

    Args:
        objective: weights by term, or the text of that.
        vgg_weights: file with the weights of the perceptual term's network, or None.
        needs_vgg: whether the run is about the perceptual term, and makes no sense without it.

    Raises:
        InputError: no mapping, an unknown term, a weight that is no number of 0 or more, or no ``vgg_weights`` for a
            run that needs them.
    """
    weights, plain = {name: 0.0 for name in TERMS}, value(objective)
    if not isinstance(plain, Mapping):
        raise InputError(f"objective must name terms with their weights, such as {{'l1': 1}}; got {objective!r}")
    for name, given in plain.items():
        plain = number(given)
        if name not in TERMS or plain is None or plain < 0:
            raise InputError(f"objective takes weights of 0 or more for {', '.join(TERMS)}; got {name}: {given!r}")
        weights[name] = plain
    if optional(vgg_weights) is None:
        if boolean(needs_vgg):
            raise InputError("this experiment is about the perceptual loss; give --vgg_weights FILE")
        weights["vgg"] = 0.0
    return weights


def start_linear(wanted: Any, start: StartingWeights, volumes: Sequence[dict[str, Any]]) -> None:
    """Lets random weights start as the linear regression of the training volumes, which training then improves on.

    An addition to the paper: without it a short training spends most of its steps on getting that far.

    Args:
        wanted: whether to; a network without ``linear_skip`` cannot.
        start: the run's starting weights, once loaded; weights from a file stay as they are.
        volumes: training volumes, of which the first ones are enough.
    """
    network = bare(start.network)
    if boolean(wanted) and start.source.startswith("random") and network.last_skip is not None:
        *weights, bias = regression_of(volumes[i] for i in range(min(len(volumes), ENOUGH)))
        network.start_linear(weights, bias)
        start.source += ", last layer from the linear regression of the inputs"


def forward_seconds(network: nn.Module, device: Any, size: Sequence[int], batch: int = 4) -> float:
    """Time of the network for one stack, measured in a moment."""
    network, device = bare(network), torch.device(device)
    image = torch.zeros(batch, network.down[0][0].in_channels, *size, device=device)
    best, mode = float("inf"), network.training
    network.eval()
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
    network.train(mode)
    return best / batch


def expected_seconds(
    network: nn.Module,
    device: Any,
    size: Sequence[int],
    stacks: int,
    trainer: Any,
    shapes: Sequence[Sequence[int]],
    views: int,
    validations: int,
) -> float:
    """Estimated time of a run.

    Args:
        network: the generator.
        device: where.
        size: edge lengths of the training stacks.
        stacks: per epoch.
        trainer: the ``AdversarialTrainer``, or None for an evaluation.
        shapes: voxels of each held-out volume.
        views: of the inferer.
        validations: validations in all.
    """
    per_pixel = forward_seconds(network, device, size) / (size[0] * size[1])
    inferer, pixels = ViewsInferer(views), 0.0
    for shape in shapes:
        pixels += validations * sum(n * h * w for n, h, w in inferer.stacks(torch.ones(1, 1, *shape)))
    if trainer is not None:
        passes = trainer.passes_left(generator=STEP, discriminator=DISCRIMINATOR, game=DISCRIMINATOR)
        pixels += passes * stacks * size[0] * size[1]
    return per_pixel * pixels


def announce(
    budget: dict[str, Any],
    target: str,
    network: nn.Module,
    device: Any,
    train: Sequence,
    trainer: Any,
    held_out: Any,
    views: int,
    val_interval: int,
    weights: str,
    folder: Any,
) -> None:
    """Says before training what is going to happen.

    Args:
        budget: chosen numbers, with "epochs", "stacks" and "size".
        target: the sequence to make.
        network, device: what is trained, and where.
        train: training cases.
        trainer: the ``AdversarialTrainer``.
        held_out: the ``HeldOutCases``.
        views: of the validation.
        val_interval: epochs between validations.
        weights: where the starting weights come from.
        folder: the run's folder.
    """
    validations = budget["epochs"] // val_interval + 1
    seconds = expected_seconds(
        network, device, (budget["size"],) * 2, budget["stacks"], trainer, _shapes(held_out), views, validations
    )
    data = f"{len(train)} training cases, {budget['stacks']} stacks per epoch; {len(held_out)} held-out case(s)"
    start_lines(f"training for {target}", budget, device, f"{data}, {_task(target)}", weights, seconds, folder)


def announce_evaluation(network: nn.Module, device: Any, cases: Any, target: str, views: int, weights: str) -> None:
    """Says before an evaluation what is going to happen, and how long the network will take."""
    seconds = expected_seconds(network, device, (128, 128), 0, None, _shapes(cases), views, 1)
    evaluation_line(weights, f"{len(cases)} case(s), {_task(target)}; {views} view(s)", seconds, device)


def _shapes(cases: Any) -> list[tuple[int, ...]]:
    return [tuple(cases[i]["image"].shape[1:]) for i in range(min(len(cases), 1))] * len(cases)


def _task(target: str) -> str:
    return f"{target} of {', '.join(name for name in SEQUENCES if name != target)}"
