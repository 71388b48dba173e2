# SPDX-License-Identifier: Apache-2.0
"""What a run says: before, at every validation, and at its end."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import nn

from common.console import convolution_rate, evaluation_line, finish_line, multiplications, say, start_lines
from common.handlers import WeightAverage
from common.inputs import InputError
from common.runs import is_main_process
from common.settings import boolean, quantity, value
from common.weights import bare

from .data import HeldOutFrames
from .metrics import speckle_width, ssnr
from .rois import find_rois
from .stages import StagePlan

__all__ = [
    "BrightnessLoss",
    "KeepMeand",
    "ValidationLog",
    "announce",
    "announce_evaluation",
    "finish",
    "finish_evaluation",
    "pixel_cost",
]

STEP = 4.0  # a generator step costs about four forward passes
GOAL_KL = 0.5  # of KL(y, x)
LEAST_CROP = 32  # pixels; the widest window of MS-SSIM has a sigma of 8


def with_keys(budget: Mapping[str, Any], crop_size: Any, brightness_weight: Any = None) -> dict[str, Any]:
    """The budget with the user's keys in place of its own numbers.

    Args:
        budget: chosen numbers with "crop" and "discriminator_crop".
        crop_size: edge of the generator's crops in pixels, the discriminator's follows in proportion; None for the
            budget's.
        brightness_weight: weight of ``BrightnessLoss``, None for the budget's.

    Raises:
        InputError: no whole number of at least 32.
    """
    own = value(crop_size)
    if value(brightness_weight) is not None:
        budget = {**budget, "brightness_weight": brightness_weight}
    if own is None:
        return dict(budget)
    if type(own) is not int or own < LEAST_CROP:
        raise InputError(f"crop_size must be a whole number of at least {LEAST_CROP} pixels, got {crop_size!r}")
    follows = max(LEAST_CROP, round(own * budget["discriminator_crop"] / budget["crop"]))
    return {**budget, "crop": own, "discriminator_crop": follows}


def structure_weights(weight: Any, brightness: Any = 0.0) -> dict[str, float]:
    """Weights of L1 and MS-SSIM, lambda for both (equation 3), and of ``BrightnessLoss``.

    Raises:
        InputError: not numbers of 0 or more.
    """
    plain = quantity(weight, "structure_weight", 0)
    return {"l1": plain, "ms_ssim": plain, "brightness": quantity(brightness, "brightness_weight", 0)}


class BrightnessLoss(nn.Module):
    """Mean absolute difference of the crops' mean grey levels, so that a result is as bright as its input.

    An addition to the paper, whose losses hardly hold a small shift of brightness: MS-SSIM's luminance term is flat
    near its optimum, and L1 is one of three voices.
    """

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar for results and inputs ``(B, 1, H, W)`` in [0, 1]."""
        return (image.mean(dim=(1, 2, 3)) - target.mean(dim=(1, 2, 3))).abs().mean()


class KeepMeand(MapTransform):
    """Multiplies each frame's prediction so that its mean over the ultrasound region is the input's, clipped to [0, 1].

    Departs from the paper, which says nothing of brightness; off with ``wanted`` False.

    Args:
        keys: predictions ``(N, H, W)``.
        ref_key: the input.
        label_key: where the region is its channel 1, see ``HeldOutFrames``; None where it is in the input's meta data.
        wanted: False leaves predictions as they are.
    """

    def __init__(
        self, keys: KeysCollection, ref_key: str = "image", label_key: str | None = None, wanted: Any = True
    ) -> None:
        super().__init__(keys)
        self.ref_key, self.label_key, self.wanted = ref_key, label_key, boolean(wanted)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        if not self.wanted:
            return out
        image = out[self.ref_key]
        region = out[self.label_key][1] if self.label_key else torch.as_tensor(image.meta["region"])
        for key in self.key_iterator(out):
            pred = out[key].clone()
            inside = region.to(pred.device) > 0
            for frame, before in zip(pred, image.to(pred.device), strict=True):
                wanted = before[inside].mean()
                for _ in range(3):  # clipping at white takes some of it away
                    made = frame[inside].clamp(0, 1).mean()
                    if made > 0:
                        frame.clamp_(0, 1).mul_(wanted / made)
            out[key] = pred.clamp(0, 1)
        return out


class ValidationLog:
    """Says at every validation KL(y, x^), SSIM and how far the weights have moved; remembers it for the last line.

    KL is that of the pooled histograms, see ``us_despeckle_lib.metrics``.

    Args:
        network: the generator; its weights at the first validation are where displacement is measured from.
        floor: SSIM to the input that weights must have to be kept.
    """

    def __init__(self, network: nn.Module, floor: float = 0.8) -> None:
        self.network, self.floor = network, float(floor)
        self.origin: torch.Tensor | None = None
        self.scores: dict[int, dict[str, float]] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if getattr(engine.state, "aside", False):
            return
        weights = self._weights()
        if self.origin is None:
            self.origin = weights
        moved = float((weights - self.origin).norm() / self.origin.norm())
        self.scores[int(engine.state.epoch)] = {
            **{name: float(score) for name, score in engine.state.metrics.items()},
            "moved": moved,
        }
        say(f"validation {engine.state.epoch}: {self.text(int(engine.state.epoch))}; weights moved by {moved:.2e}")

    def _weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten().cpu().double() for p in bare(self.network).parameters()])

    def text(self, epoch: int) -> str:
        """KL of input and network and SSIM between them."""
        now = self.scores[epoch]
        before, after = now["baseline_kl_reference"], now["kl_reference"]
        levels = f"mean grey level {255 * now['baseline_mean']:.1f} to {255 * now['mean']:.1f}"
        return (
            f"KL(y,x) of input {before:.4f}, KL(y,x^) of network {after:.4f}, SSIM(x,x^) {now['ssim_input']:.4f}, "
            f"SSNR {now['baseline_ssnr']:.2f} to {now['ssnr']:.2f}, {levels}"
        )

    def reached(self, epoch: int) -> bool:
        """Whether KL is at most half of the input's, and SSIM above the floor."""
        now = self.scores[epoch]
        return now["kl_reference"] <= GOAL_KL * now["baseline_kl_reference"] and now["ssim_input"] > self.floor

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        return {"origin": self.origin, "scores": {epoch: dict(scores) for epoch, scores in self.scores.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from an earlier run's record."""
        self.origin, self.scores = state["origin"], dict(state["scores"])


def pixel_cost(network: nn.Module) -> float:
    """Multiplications per pixel of a chain of convolutions that may have strides."""
    cost, stride = 0.0, 1
    for module in bare(network).modules():
        if isinstance(module, nn.Conv2d):
            stride *= module.stride[0]
            cost += module.weight.numel() / stride**2
    return cost


def _expected(plan: StagePlan, network: nn.Module, device: Any, budget: Mapping[str, Any], held_out: Any) -> float:
    """Seconds of the stages left to do, from the machine's convolution rate, measured in a moment."""
    generator, critic = multiplications(bare(network)), pixel_cost(plan.discriminator)
    large, small = budget["crop"] ** 2, budget["discriminator_crop"] ** 2
    step, critic_step = budget["generator_step"], budget["discriminator_step"]
    both = 2 * 3 * critic  # forward and backward of a real and of a made crop
    cost = {
        "identity": STEP * generator * large * budget["identity"]["batch"],
        "discriminator": 2 * (budget["discriminator"]["batch"] // 2) * small * (generator + both),
        "adversarial": step["steps"] * step["batch"] * (STEP * generator * large + 3 * critic * small)
        + critic_step["batch"] // 2 * (generator * large + both * small),
    }
    work = 0.0
    for name in plan.left:
        state = plan.trainers[name].state
        work += (state.max_epochs - state.epoch) * state.epoch_length * cost[name]
    validations = plan.trainers["adversarial"].state.max_epochs + 1 if "adversarial" in plan.left else 1
    return (work + validations * generator * held_out.pixels()) / convolution_rate(device)


def announce(
    budget: dict[str, Any],
    plan: StagePlan,
    network: nn.Module,
    device: Any,
    train: Any,
    reference: Any,
    held_out: HeldOutFrames,
    weights: str | None,
    folder: Any,
) -> None:
    """Says before training what is going to happen.

    Args:
        budget: chosen numbers, with the crops' edges.
        plan: the stages.
        network, device: what is trained, and where.
        train, reference: decoded frames of the two probes.
        held_out: validation frames.
        weights: where the starting weights come from.
        folder: the run's folder.
    """
    data = f"{len(train)} files of the low probe, {len(reference)} of the high one; {len(held_out)} held-out frame(s)"
    seconds = _expected(plan, network, device, budget, held_out)
    start_lines(f"training, stages {', '.join(plan.left)}", budget, device, data, str(weights), seconds, folder)
    if max(budget["generator_step"]["rate"], budget["discriminator_step"]["rate"]) <= 1e-6:
        say("learning rates of the paper: they move weights very little; the validations' lines say by how much")


def announce_evaluation(network: nn.Module, device: Any, held_out: HeldOutFrames, weights: str) -> None:
    """Says before an evaluation what is going to happen, and how long the network will take."""
    seconds = multiplications(bare(network)) * held_out.pixels() / convolution_rate(device)
    evaluation_line(weights, f"{len(held_out)} frame(s)", seconds, device)


def finish(
    plan: StagePlan,
    average: WeightAverage,
    evaluator: Engine,
    log: ValidationLog,
    best: Any,
    scores: Any,
    tensorboard: str | None,
    folder: Path,
) -> None:
    """The run's last line; validates first where no adversarial stage did.

    Args:
        plan, average, evaluator, log, best, scores: the run's own.
        tensorboard: TensorBoard's folder, or None.
        folder: the run's folder.
    """
    if not log.scores:
        average.network.load_state_dict(average.source.state_dict())  # it follows the adversarial stage alone
        evaluator.run()
    if not is_main_process():
        return
    now = log.scores[best.epoch]
    share = now["kl_reference"] / now["baseline_kl_reference"] if now["baseline_kl_reference"] else math.nan
    goal = "reached" if log.reached(best.epoch) else "not reached"
    wanted = f"goal at most 50 % with SSIM above {log.floor:g}"
    summary = f"{log.text(best.epoch)}; {share:.0%} of the input's divergence ({wanted}: {goal})"
    finish_line(summary, best, scores.path, tensorboard, folder)


def finish_evaluation(log: ValidationLog, reference: Any, folder: Path, scores: Path) -> None:
    """The last lines of an evaluation: pooled divergence, the reference probe's own speckle, and where everything lies.

    Args:
        log: of the evaluation.
        reference: decoded frames of the reference probe.
        folder: the evaluation's folder.
        scores: the CSV file.
    """
    (epoch,) = log.scores
    say(f"pooled over all frames (256 bins of [0, 1], 1e-10 added to each, ln): {log.text(epoch)}")
    ratios, lateral, axial = [], [], []
    for item in reference:
        frame, region = item["image"].as_tensor()[0].numpy(), item["image"].meta["region"].numpy() > 0
        rois = find_rois(frame, region)
        patches = [frame[_box(rois == number)] for number in np.unique(rois) if number > 0]
        ratios += [ssnr(patch) for patch in patches]
        lateral += [speckle_width(patch, 1) for patch in patches]
        axial += [speckle_width(patch, 0) for patch in patches]
    if ratios:
        numbers = f"SSNR {np.mean(ratios):.2f}, width {np.mean(lateral):.2f} lateral, {np.mean(axial):.2f} axial"
        say(f"reference probe, {len(ratios)} patches found in {len(reference)} file(s): {numbers} pixels")
    say(f"table {folder / 'scores.md'}, lines {scores}, histograms {folder / 'histograms.png'}, panels in it")


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.nonzero(mask)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
