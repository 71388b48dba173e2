# SPDX-License-Identifier: Apache-2.0
"""The two trainings before the adversarial one (Mishra et al. 2018, section II B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.handlers import LrScheduleHandler
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from common.engine import Stage
from common.engine.engines import Trainer
from common.engine.sharing import batch_share
from common.engine.trainers import AdversarialTrainer
from common.errors import InputError
from common.io.weights import bare, fits, load_checkpoint
from common.losses import CriterionGAN
from common.utils.distributed import sampler

from .networks import DRNN, Discriminator
from .patches import UnpairedPatches

__all__ = ["FreezeNorm", "build_discriminator", "discriminator_stage", "identity_stage"]

Frames = Sequence[Mapping[str, Any]]


def build_discriminator(channels: Sequence[int], centred: bool = False, weights: str | None = None) -> Discriminator:
    """A discriminator, with the weights of an earlier run's where they are given.

    Args:
        channels: see ``Discriminator``.
        centred: see ``Discriminator``.
        weights: a checkpoint with a "discriminator", such as ``last.pt``.

    Raises:
        InputError: no such file, or no discriminator of this shape in it.
    """
    network = Discriminator(channels, centred=centred)
    if weights is not None:
        state = load_checkpoint(weights)
        state = state.get("discriminator") if isinstance(state, Mapping) else None
        if state is None or not fits(state, network):
            raise InputError("holds no discriminator of this shape", weights)
        network.load_state_dict(state)
    return network


class FreezeNorm:
    """Lets batch normalisation keep its statistics in a trainer, so that training and use are the same function.

    Departs from the paper, which says nothing: with its own batches' statistics a generator is judged by the
    discriminator as another function than the one that is used.

    Args:
        network: a ``DRNN``.
        wanted: False leaves the statistics to each batch.
    """

    def __init__(self, network: nn.Module, wanted: bool) -> None:
        self.network, self.wanted = network, wanted

    def attach(self, engine: Engine) -> None:
        """Acts when the trainer starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Freezes the statistics, or lets them follow each batch."""
        cast(DRNN, bare(self.network)).frozen = self.wanted


def _loader(patches: UnpairedPatches, batch_size: int, num_workers: int) -> DataLoader:
    return DataLoader(patches, batch_size=batch_share(batch_size), sampler=sampler(patches), num_workers=num_workers)


def identity_stage(
    frames: Frames,
    network: nn.Module,
    discriminator: nn.Module,
    epochs: int,
    samples: int,
    batch_size: int,
    learning_rate: float,
    cosine: bool,
    patch_size: int,
    seed: int = 0,
    num_workers: int = 0,
    **engine: Any,
) -> Stage:
    """Trains the generator to reproduce its input: L1 on random patches of the low probe (equation 1).

    Left out where weights are given: it would undo them.

    Args:
        frames: decoded frames of the low probe.
        network: the generator.
        discriminator: not trained, but kept in the checkpoint for the stages to come.
        epochs: how many.
        samples: patches per epoch.
        batch_size: half of the patches per step; in the adversarial stage, the paper halved it.
        learning_rate: of Adam.
        cosine: the rate rises over the first 5 % of the steps and then falls to 0 as a cosine; else it stays, as in the
            paper.
        patch_size: edge of the patches in pixels.
        seed: start of all randomness.
        num_workers: of the loader.
        engine: "device" and "amp" of ``common.engine.engines.Trainer``.
    """
    patches = UnpairedPatches(frames, None, patch_size, samples, seed=seed, jitter=True)
    loader = _loader(patches, 2 * batch_size, num_workers)
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    state, handlers = {"network": network, "optimizer": optimizer, "discriminator": discriminator}, []
    if cosine:
        steps = epochs * len(loader)
        schedule: Any = WarmupCosineSchedule(optimizer, max(1, steps // 20), steps)  # MONAI knows its older base
        state["schedule"] = schedule
        handlers = [LrScheduleHandler(schedule, epoch_level=False, print_lr=False)]
    trainer = Trainer(
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=nn.L1Loss(),
        train_handlers=handlers,
        **engine,
    )
    return Stage(trainer, state, from_scratch_only=True)


def discriminator_stage(
    frames: Frames,
    reference: Frames,
    network: nn.Module,
    discriminator: nn.Module,
    epochs: int,
    samples: int,
    batch_size: int,
    learning_rate: float,
    patch_size: int,
    frozen_norm: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    **engine: Any,
) -> Stage:
    """Trains the discriminator alone to tell the reference probe from the generator's output (equation 2).

    Args:
        frames: decoded frames of the low probe.
        reference: decoded frames of the high probe.
        network: the generator.
        discriminator: what is trained.
        epochs: how many.
        samples: patches per epoch, half of them of each kind.
        batch_size: patches per step, half of them of each kind.
        learning_rate: of Adam.
        patch_size: edge of the patches in pixels.
        frozen_norm: see ``FreezeNorm``.
        seed: start of all randomness.
        num_workers: of the loader.
        **engine: further arguments of the trainer.
    """
    patches = UnpairedPatches(frames, reference, patch_size, samples // 2, seed=seed, jitter=True)
    optimizer = torch.optim.Adam(discriminator.parameters(), learning_rate)
    trainer = AdversarialTrainer(
        max_epochs=epochs,
        train_data_loader=_loader(patches, batch_size // 2, num_workers),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.0),  # never stepped
        loss_function=nn.L1Loss(),
        discriminator=discriminator,
        discriminator_optimizer=optimizer,
        adversarial_loss=CriterionGAN("bce", factor=1.0),
        discriminator_warmup=epochs,
        paired=False,
        seed=seed,
        train_handlers=[FreezeNorm(network, frozen_norm)],
        **engine,
    )
    return Stage(trainer, {"network": network, "discriminator": discriminator, "optimizer": optimizer})
