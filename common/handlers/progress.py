# SPDX-License-Identifier: Apache-2.0
"""Progress, sample epochs, and clipping of gradients and weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines.utils import IterationEvents
from monai.handlers import from_engine
from torch import nn
from torch.utils.hooks import RemovableHandle

from common.errors import InputError
from common.utils.distributed import is_main_process

try:
    from tqdm import tqdm
except ImportError:  # the bar is a comfort
    tqdm = None

__all__ = ["ClipGradientNorm", "ClipGradients", "ClipWeights", "EpochBar", "EpochLoss", "EpochSamples"]


class EpochSamples:
    """Tells a dataset of random samples which epoch it is, so that a resumed run draws what the first would have.

    Args:
        dataset: has ``set_epoch``, such as ``common.samplers.RandomPatches``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Follows the trainer's epochs."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda e: self.dataset.set_epoch(e.state.epoch))


class EpochBar:
    """Progress bar with loss and remaining time, one per epoch, in the first process; none without tqdm.

    Args:
        description: text before the bar.
    """

    def __init__(self, description: str = "training") -> None:
        self.description = description
        self.bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Follows the engine's iterations."""
        if tqdm is None or not is_main_process():
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _open(self, engine: Engine) -> None:
        text = f"{self.description} {engine.state.epoch}/{engine.state.max_epochs}"
        self.bar = tqdm(total=engine.state.epoch_length, desc=text, mininterval=1)

    def _step(self, engine: Engine) -> None:
        output = engine.state.output
        first = output[0] if isinstance(output, list) else output
        if isinstance(first, dict) and "loss" in first:
            self.bar.set_postfix(loss=f"{float(first['loss']):.3g}", refresh=False)
        self.bar.update()

    def _close(self, engine: Engine, *error: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()
        if error:
            raise error[0]


class EpochLoss:
    """Mean training loss of each epoch, over all processes, as the trainer's metric ``train_loss``.

    ``StatsHandler`` prints it and ``TensorBoardStatsHandler`` draws it.

    Raises:
        InputError: in the step whose loss is no finite number.
    """

    def attach(self, engine: Engine) -> None:
        """Follows the trainer's loss; attach before those that show it."""
        Average(output_transform=self._loss).attach(engine, "train_loss")

    def _loss(self, output: Any) -> float:
        loss = float(from_engine(["loss"], first=True)(output))
        if not math.isfinite(loss):
            raise InputError(f"the training diverged, its loss is {loss}: lower learning_rate, or try --amp false")
        return loss


class ClipGradients:
    """Adjustable gradient clipping: each gradient to ``[-bound / rate, +bound / rate]`` (Kim et al., VDSR, 2016).

    Pham et al. 2019, sec. 3.3, use it with SGD at high learning rates.

    Args:
        optimizer: its present learning rate and parameters count.
        bound: bound of a single step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, bound: float) -> None:
        if bound <= 0:
            raise ValueError(f"bound must be positive, got {bound}")
        self.optimizer = optimizer
        self.bound = bound

    def attach(self, engine: Engine) -> None:
        """Clips after each backward pass of a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clips the gradients of every group whose learning rate is above 0."""
        scaler = getattr(engine, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()  # of the gradients in mixed precision
        for group in self.optimizer.param_groups:
            if group["lr"] > 0:  # else nothing moves
                torch.nn.utils.clip_grad_value_(group["params"], scale * self.bound / group["lr"])


class ClipGradientNorm:
    """Scales a network's gradients down so that their Euclidean norm is at most ``max_norm``.

    Args:
        network: the network that is trained.
        max_norm: largest norm; None switches it off.
    """

    def __init__(self, network: nn.Module, max_norm: float | None) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Clips after each backward pass of a trainer."""
        if self.max_norm is not None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Scales the gradients of the whole network."""
        assert self.max_norm is not None  # else it is not attached
        scaler = getattr(engine, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()  # of the gradients in mixed precision
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), scale * self.max_norm)


class ClipWeights:
    """Keeps every weight that an optimizer steps in ``[-bound, bound]``: a Wasserstein critic's (Arjovsky et al. 2017).

    Clips once when training starts and after each step of the optimizer, wherever it is stepped.

    Args:
        optimizer: the critic's.
        bound: c of the paper, 0.01 there; None switches it off.

    Raises:
        ValueError: a bound that is not positive.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, bound: float | None) -> None:
        if bound is not None and bound <= 0:
            raise ValueError(f"bound must be positive, got {bound}")
        self.optimizer = optimizer
        self.bound = bound
        self._hook: RemovableHandle | None = None

    def attach(self, engine: Engine) -> None:
        """Works while the trainer runs."""
        if self.bound is None:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._stop)

    def _start(self, engine: Engine) -> None:
        self._clip()
        self._hook = self.optimizer.register_step_post_hook(self._clip)

    def _stop(self, engine: Engine, *error: BaseException) -> None:
        if self._hook is not None:
            self._hook.remove()
        if error:
            raise error[0]

    def _clip(self, *_: object) -> None:
        assert self.bound is not None  # else it is not attached
        with torch.no_grad():
            for group in self.optimizer.param_groups:
                for weight in group["params"]:
                    weight.clamp_(-self.bound, self.bound)
