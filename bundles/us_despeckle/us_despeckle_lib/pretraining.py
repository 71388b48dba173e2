# SPDX-License-Identifier: Apache-2.0
"""The two trainings before the adversarial one (Mishra et al. 2018, section II B): trainers with own loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import DataLoader, DistributedSampler
from monai.handlers import LrScheduleHandler, StatsHandler, from_engine
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from common.distributed import processes
from common.engines import Trainer
from common.handlers import EpochBar, EpochLoss, EpochSamples
from common.losses import CriterionGAN
from common.runs import is_main_process
from common.sharing import batch_share
from common.trainers import AdversarialTrainer

from .crops import UnpairedCrops
from .stages import FreezeNorm, StageCheckpoint

__all__ = ["DiscriminatorTrainer", "IdentityTrainer"]


def _loader(crops: UnpairedCrops, batch: int, num_workers: int) -> DataLoader:
    sampler = DistributedSampler(crops, even_divisible=True, shuffle=False) if processes() > 1 else None
    return DataLoader(crops, batch_size=batch_share(batch), sampler=sampler, num_workers=num_workers)


def _handlers(crops: UnpairedCrops, name: str) -> list:
    handlers = [EpochSamples(crops), EpochBar(name), EpochLoss()]
    if is_main_process():
        loss = from_engine(["loss"], first=True)
        handlers.append(StatsHandler(name=name, tag_name="batch_loss", output_transform=loss, iteration_log=False))
    return handlers


class IdentityTrainer(Trainer):
    """Trains the generator to reproduce its input: L1 on random crops of the low probe (equation 1).

    Args:
        frames: decoded frames of the low probe.
        budget: "epochs", "samples" per epoch, "batch", "rate" of Adam and "cosine": whether the rate rises over the
            first 5 % of the steps and then falls to 0 as a cosine, or stays as in the paper.
        crop: edge of the crops in pixels.
        network: the generator.
        discriminator: not trained, but kept in the checkpoint for the stages to come.
        folder: the run's folder.
        seed: start of all randomness.
        device, amp: as in ``common.engines.Trainer``.
        num_workers: of the loader.

    Attributes:
        checkpoint: the stage's ``StageCheckpoint``.
    """

    def __init__(
        self,
        frames: Sequence[Mapping[str, Any]],
        budget: Mapping[str, Any],
        crop: int,
        network: nn.Module,
        discriminator: nn.Module,
        folder: Any,
        seed: int = 0,
        device: Any = "cpu",
        amp: bool = False,
        num_workers: int = 0,
    ) -> None:
        crops = UnpairedCrops(frames, None, crop, budget["samples"], seed=seed, jitter=True)
        optimizer = torch.optim.Adam(network.parameters(), budget["rate"])
        parts = {"network": network, "optimizer": optimizer, "discriminator": discriminator}
        loader, schedule = _loader(crops, budget["batch"], num_workers), []
        if budget["cosine"]:
            steps = budget["epochs"] * len(loader)
            parts["schedule"] = WarmupCosineSchedule(optimizer, max(1, steps // 20), steps)
            schedule = [LrScheduleHandler(parts["schedule"], epoch_level=False, print_lr=False)]
        self.checkpoint = StageCheckpoint(folder, parts, "identity")
        super().__init__(
            device=device,
            max_epochs=budget["epochs"],
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=nn.L1Loss(),
            train_handlers=[*_handlers(crops, "identity"), *schedule, self.checkpoint],
            amp=amp,
        )


class DiscriminatorTrainer(AdversarialTrainer):
    """Trains the discriminator alone to tell the reference probe from the generator's output (equation 2).

    Args:
        frames, reference: decoded frames of the low and of the high probe.
        budget: "epochs", "samples" per epoch, "batch", half of them of each kind, and "rate" of Adam.
        frozen_norm: see ``FreezeNorm``.
        crop, network, discriminator, folder, seed, device, amp, num_workers: as in ``IdentityTrainer``.

    Attributes:
        checkpoint: the stage's ``StageCheckpoint``.
    """

    def __init__(
        self,
        frames: Sequence[Mapping[str, Any]],
        reference: Sequence[Mapping[str, Any]],
        budget: Mapping[str, Any],
        crop: int,
        network: nn.Module,
        discriminator: nn.Module,
        folder: Any,
        frozen_norm: bool = False,
        seed: int = 0,
        device: Any = "cpu",
        amp: bool = False,
        num_workers: int = 0,
    ) -> None:
        crops = UnpairedCrops(frames, reference, crop, budget["samples"] // 2, seed=seed, jitter=True)
        own = torch.optim.Adam(discriminator.parameters(), budget["rate"])
        parts = {"network": network, "discriminator": discriminator, "optimizer": own}
        self.checkpoint = StageCheckpoint(folder, parts, "discriminator")
        freeze = FreezeNorm(network, frozen_norm)
        super().__init__(
            device=device,
            max_epochs=budget["epochs"],
            train_data_loader=_loader(crops, budget["batch"] // 2, num_workers),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), 0.0),  # never stepped
            loss_function=nn.L1Loss(),
            discriminator=discriminator,
            discriminator_optimizer=own,
            adversarial_loss=CriterionGAN("bce", factor=1.0),
            discriminator_warmup=budget["epochs"],
            paired=False,
            seed=seed,
            train_handlers=[*_handlers(crops, "discriminator"), freeze, self.checkpoint],
            amp=amp,
        )
