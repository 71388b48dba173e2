# SPDX-License-Identifier: Apache-2.0
"""Adversarial training of image-to-image networks, with paired or unpaired data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from common.engine.image_pool import ImagePool
from common.engine.steps import BatchGroups, add_term, gradient_norm, last_output, not_stepped
from common.io.weights import bare
from common.losses.adversarial import gradient_penalty, last_logits
from common.losses.weighted import WeightedLoss

__all__ = ["AdversarialTrainer", "BatchGroups", "batches_per_iteration", "last_output", "not_stepped", "terms_of"]

NOT_TERMS = (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED)


def terms_of(output: Any) -> dict[str, float]:
    """The scalars in a trainer's output, for ``TensorBoardStatsHandler`` and the like (``output_transform``)."""
    first = output[0] if isinstance(output, list) else output
    return {name: float(term) for name, term in first.items() if name not in NOT_TERMS}


def batches_per_iteration(
    critic_steps: int = 1, generator_steps: int = 1, same_batches: bool = False, adversarial_weight: float = 1.0
) -> int:
    """Batches that an iteration of ``AdversarialTrainer`` takes for a step each; arguments as there."""
    if not adversarial_weight:  # the generator alone
        return generator_steps
    return max(critic_steps, generator_steps) if same_batches else critic_steps + generator_steps


class AdversarialTrainer(SupervisedTrainer):
    """Trains ``network`` as the generator against a discriminator, which is shown targets as real.

    MONAI's own ``AdversarialTrainer`` shows its discriminator the *input* as real, which would teach a denoiser to make
    noise. An iteration here takes ``(critic_steps + generator_steps) * accumulation_steps`` batches of the loader, so
    each step is on new data with fakes made anew; with ``same_batches`` the generator's steps take those of the critic.
    In a stage in which one network trains alone, it takes all of them; with an ``adversarial_weight`` of 0 there are
    ``generator_steps * accumulation_steps`` from the first.
    Channels of the target beyond the prediction's are masks for the loss; the discriminator is not shown them.

    A generator may return a list of images in training, coarse to fine: ``loss_function`` is given the list, the
    discriminator and the output the last of it.

    The generator's objective is ``loss_function`` plus ``adversarial_weight`` times the game's generator loss. The
    output holds, beside MONAI's keys, every term before its weight: ``loss_<name>`` for each of a ``WeightedLoss``,
    ``adversarial``, ``generator_gradient``, ``discriminator_loss``, ``score_gap`` (D(real) - D(fake)),
    ``gradient_penalty`` and ``discriminator_gradient``; gradients as Euclidean norms.

    All randomness derives from (``seed``, iteration, process), so a resumed run repeats it. Put both networks, both
    optimizers and the pool into ``common.handlers.RunCheckpoint``.

    Args:
        device, max_epochs, train_data_loader, network, optimizer, loss_function: as in ``SupervisedTrainer``; network
            and optimizer are the generator's. The loader has a length.
        discriminator: its output is a tensor of logits, or a list with them last.
        discriminator_optimizer: of it.
        adversarial_loss: a game such as ``common.losses.WassersteinGAN``.
        adversarial_weight: weight of its generator loss; with 0 the discriminator is not trained at all.
        penalty_weight: weight of the gradient penalty in the critic's loss.
        penalty: function of critic, real, fake and random generator that gives it.
        critic_steps, generator_steps: per iteration.
        same_batches: whether both networks step on the same batches, as in pix2pix, so that the generator sees all
            data of an epoch; else each step has a batch of its own.
        generator_warmup: first epochs, in which the generator trains alone and without the game.
        discriminator_warmup: the epochs after them, in which the discriminator trains alone.
        paired: whether the target belongs to the input; else ``loss_function`` compares the prediction with the input.
        pool: earlier fakes, or None.
        discriminator_crop: edge of the random crop of predictions that the discriminator is shown; None for all of
            them. Targets are not cropped.
        seed: start of all randomness.
        amp: autocast, bfloat16 where the device has it, else float16 with loss scaling.
        accumulation_steps: batches whose gradients are averaged in a step.
        kwargs: further arguments of ``SupervisedTrainer``.

    Raises:
        ValueError: a penalty with batch normalisation in the critic, where samples do not have a gradient of their own;
            step counts below 1, or negative weights.
        InputError: an epoch has fewer batches than an iteration takes.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: DataLoader,
        network: nn.Module,
        optimizer: Optimizer,
        loss_function: Callable,
        discriminator: nn.Module,
        discriminator_optimizer: Optimizer,
        adversarial_loss: Any,
        adversarial_weight: float = 1.0,
        penalty_weight: float = 0.0,
        penalty: Callable[..., torch.Tensor] = gradient_penalty,
        critic_steps: int = 1,
        generator_steps: int = 1,
        same_batches: bool = False,
        generator_warmup: int = 0,
        discriminator_warmup: int = 0,
        paired: bool = True,
        pool: ImagePool | None = None,
        discriminator_crop: int | None = None,
        seed: int = 0,
        amp: bool = False,
        accumulation_steps: int = 1,
        **kwargs: Any,
    ) -> None:
        if min(critic_steps, generator_steps, accumulation_steps) < 1 or min(adversarial_weight, penalty_weight) < 0:
            raise ValueError("step counts are at least 1 and weights not negative")
        if penalty_weight and any(isinstance(module, _BatchNorm) for module in discriminator.modules()):
            raise ValueError(
                "no gradient penalty with batch normalisation in the critic: samples would depend on others"
            )
        self.steps = batches_per_iteration(critic_steps, generator_steps, same_batches, adversarial_weight)
        groups = BatchGroups(train_data_loader, self.steps * accumulation_steps)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            epoch_length=len(groups),
            accumulation_steps=accumulation_steps,
            **kwargs,
        )
        self.data_loader = groups
        self.discriminator, self.discriminator_optimizer = discriminator, discriminator_optimizer
        self.adversarial_loss, self.adversarial_weight = adversarial_loss, float(adversarial_weight)
        self.penalty, self.penalty_weight = penalty, float(penalty_weight)
        self.critic_steps, self.generator_steps = critic_steps, generator_steps
        self.generator_warmup, self.discriminator_warmup = generator_warmup, discriminator_warmup
        self.paired, self.pool, self.seed = paired, pool, int(seed)
        self.discriminator_crop = discriminator_crop
        self._random = torch.Generator()
        self.add_event_handler(Events.STARTED, self._step_at_rest)
        kind = self.state.device.type
        half = torch.bfloat16 if kind != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
        self._autocast = {"device_type": kind, "dtype": half, "enabled": bool(amp)}
        scaled = bool(amp) and half == torch.float16
        self.scalers = [torch.amp.GradScaler(kind, enabled=scaled) for _ in range(2)]

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds beside the generator, by name."""
        own = {"optimizer": self.optimizer, "discriminator": self.discriminator}
        own |= {"discriminator_optimizer": self.discriminator_optimizer, "pool": self.pool}
        return {name: part for name, part in own.items() if part is not None}

    def _step_at_rest(self, _: Engine) -> None:
        """Steps both optimizers without gradients, so that nothing moves.

        Else PyTorch complains of the schedule of one whose network rests in the first epochs.
        """
        for optimizer in (self.optimizer, self.discriminator_optimizer):
            optimizer.zero_grad(set_to_none=True)
            optimizer.step()

    def stage(self, epoch: int) -> str:
        """Who trains in an epoch (counted from 1): ``generator``, ``discriminator`` or ``both``."""
        if not self.adversarial_weight or epoch <= self.generator_warmup:
            return "generator"
        return "discriminator" if epoch <= self.generator_warmup + self.discriminator_warmup else "both"

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        """All steps of an iteration; the output and the batch are those of the last step."""
        engine.network.train()
        engine.discriminator.train()
        self._random.manual_seed((self.seed * 1_000_003 + engine.state.iteration) * 1024 + engine.state.rank)
        stage, count = self.stage(engine.state.epoch), engine.accumulation_steps
        engine.state.output = {}
        steps = [batchdata[i : i + count] for i in range(0, len(batchdata), count)]
        critics, generators = {
            "generator": ([], steps),
            "discriminator": (steps, []),
            "both": (steps[: self.critic_steps], steps[-self.generator_steps :]),
        }[stage]
        for step, taken in ((self._critic_step, critics), (self._generator_step, generators)):
            for batches in taken:
                engine.state.batch = batches[-1]
                step(engine, batches)
        output = engine.state.output
        if stage == "discriminator":  # handlers expect a loss
            output[CommonKeys.LOSS] = output["discriminator_loss"]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _prepare(self, engine: AdversarialTrainer, batch: Any) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        batch = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        return batch if len(batch) == 4 else (*batch, (), {})

    def _critic_step(self, engine: AdversarialTrainer, batches: list[Any]) -> None:
        engine.discriminator_optimizer.zero_grad(set_to_none=True)
        scaler = self.scalers[1]
        sums: dict[str, torch.Tensor] = {}
        for batch in batches:
            inputs, real, args, kwargs = self._prepare(engine, batch)
            with not_stepped(engine.network), torch.no_grad(), torch.autocast(**self._autocast):
                made = last_output(engine.inferer(inputs, bare(engine.network), *args, **kwargs))
            made = self._cropped(made.detach().float())
            real = real[:, : made.shape[1]]
            fake = made if self.pool is None else self.pool.mix(made, self._random)
            with torch.autocast(**self._autocast):
                logits = last_logits(engine.discriminator(torch.cat([real.to(fake), fake])))
            of_real, of_fake = logits[: len(real)], logits[len(real) :]
            loss = self.adversarial_loss.discriminator(of_real, of_fake)
            add_term(sums, "discriminator_loss", loss, len(batches))
            add_term(sums, "score_gap", of_real.mean() - of_fake.mean(), len(batches))
            if self.penalty_weight:
                size = min(len(real), len(fake))
                penalty = self.penalty(bare(engine.discriminator), real[:size], fake[:size], self._random)
                add_term(sums, "gradient_penalty", penalty, len(batches))
                loss = loss + self.penalty_weight * penalty
            scaler.scale(loss / len(batches)).backward()
        scaler.unscale_(engine.discriminator_optimizer)
        norm = gradient_norm(engine.discriminator)
        scaler.step(engine.discriminator_optimizer)
        scaler.update()
        engine.state.output.update(
            {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: real, CommonKeys.PRED: made, **sums},
            discriminator_gradient=norm,
        )

    def _generator_step(self, engine: AdversarialTrainer, batches: list[Any]) -> None:
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        playing = self.stage(engine.state.epoch) == "both"
        scaler, output = self.scalers[0], engine.state.output
        sums: dict[str, torch.Tensor] = {}
        for batch in batches:
            inputs, real, args, kwargs = self._prepare(engine, batch)
            with not_stepped(engine.discriminator):
                with torch.autocast(**self._autocast):
                    outputs = engine.inferer(inputs, engine.network, *args, **kwargs)
                made = last_output(outputs)
                output.update({CommonKeys.IMAGE: inputs, CommonKeys.LABEL: real, CommonKeys.PRED: made})
                engine.fire_event(IterationEvents.FORWARD_COMPLETED)
                loss = self._objective(outputs, real if self.paired else inputs, len(batches), sums)
                if playing:
                    with torch.autocast(**self._autocast):
                        logits = last_logits(bare(engine.discriminator)(self._cropped(made)))
                    term = self.adversarial_loss.generator(logits)
                    add_term(sums, "adversarial", term, len(batches))
                    loss = loss + self.adversarial_weight * term
                output[CommonKeys.LOSS] = loss
                engine.fire_event(IterationEvents.LOSS_COMPLETED)
                add_term(sums, CommonKeys.LOSS, loss, len(batches))
                scaler.scale(loss / len(batches)).backward()
        scaler.unscale_(engine.optimizer)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        norm = gradient_norm(engine.network)
        scaler.step(engine.optimizer)
        scaler.update()
        output.update(sums, generator_gradient=norm)

    def _cropped(self, made: torch.Tensor) -> torch.Tensor:
        """What the discriminator sees of predictions ``(B, C, H, W[, D])``: one random window for the batch."""
        if self.discriminator_crop is None:
            return made
        window = []
        for length in made.shape[2:]:
            size = min(length, self.discriminator_crop)
            start = int(torch.randint(length - size + 1, (1,), generator=self._random))
            window.append(slice(start, start + size))
        return made[(slice(None), slice(None), *window)]

    def _objective(self, made: Any, target: torch.Tensor, share: int, sums: dict) -> torch.Tensor:
        """The generator's objective without the game; its terms are added to ``sums``."""
        made = [image.float() for image in made] if isinstance(made, list | tuple) else made.float()
        target = target.float()
        if not isinstance(self.loss_function, WeightedLoss):
            return self.loss_function(made, target).mean()
        terms = self.loss_function.terms(made, target)
        for name, term in terms.items():
            add_term(sums, f"loss_{name}", term, share)
        # a graph from every output even where weights are 0, since several processes wait for all gradients
        outputs = made if isinstance(made, list) else [made]
        return self.loss_function.total(terms) + 0.0 * sum(image.sum() for image in outputs)
