# SPDX-License-Identifier: Apache-2.0
"""Super-resolution of MRI: inference, degradation and training data."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.inferers.utils import dense_patch_slices
from scipy import ndimage
from torch import nn

import mri_sr3d_lib
from common.inferers import ForegroundInferer
from common.io.weights import in_format
from common.samplers import RandomPatches, SliceProfile
from common.transforms.degradation import degrade, low_resolution_size, profile_matrix, profile_sigma, spline_matrix
from common.utils.console import multiplications, say
from mri_sr3d_lib.data import parse_scales
from mri_sr3d_lib.networks import ReCNN
from mri_sr3d_lib.training import parameter_groups

from .compare import Comparison, check_counts, chosen_device, in_turn, report, seconds_text, timed

WINDOW, OVERLAP = 64, 0.25  # of the sliding window
FACTOR = 2.0  # of the degradation that is compared
EDGE = 12  # voxels at the volume's borders that are no interior
BATCHES = 20  # batches of training data timed together


def sr3d(
    edge: int = 96,
    device: str = "cpu",
    markdown: str | None = None,
    layers: int = 20,
    filters: int = 64,
    volume: tuple[int, int, int] = (256, 256, 180),
    repeats: int = 2,
) -> None:
    """Measure mri_sr3d: whole-volume inference, degradation and training data against stock ways, as ratios.

    The defaults take about five minutes on two free CPU cores, most of it for the sliding window.

    Args:
        edge: edge of the cube that inference runs on, in voxels
        device: such as cpu or cuda
        markdown: file to write the table to
        layers: convolutions of the network
        filters: filters of its hidden layers
        volume: voxels of the volume that is degraded and trained on, such as "[256,256,180]"
        repeats: timed runs of each side in inference and degradation
    """
    if not (isinstance(volume, Sequence) and len(volume) == 3 and all(isinstance(n, int) and n > 0 for n in volume)):
        raise ValueError(f"volume must be three sizes such as [256,256,180], got {volume}")
    check_counts(edge=edge, layers=layers, filters=filters, repeats=repeats)
    where = chosen_device(device)
    torch.manual_seed(0)
    network = in_format(ReCNN(layers, filters), torch.channels_last_3d, where)
    comparisons, notes = [], []
    for part in (
        lambda: _inference(network, filters, edge, repeats, where),
        lambda: _degradation(volume, repeats, where),
        lambda: _training_data(network, volume, where),
    ):
        more, note = part()
        for comparison in more:
            say(f"{comparison.what}: ratio {comparison.row()[3]}")
        comparisons += more
        notes.append(note)
    title = f"sr3d: {layers} layers of {filters} filters, inference on {edge}^3 voxels"
    report(title, where, comparisons, notes, markdown)


def _inference(
    network: nn.Module, filters: int, edge: int, repeats: int, device: torch.device
) -> tuple[list[Comparison], str]:
    """Whole volume in one pass, against bare convolutions with as many multiplications, and against sliding windows."""
    image = torch.rand(1, 1, edge, edge, edge, device=device)
    ours, windows = ForegroundInferer(foreground=False), SlidingWindowInferer(WINDOW, 1, OVERLAP, mode="gaussian")
    layer = in_format(nn.Conv3d(filters, filters, 3, padding=1), torch.channels_last_3d, device)
    features = torch.rand(1, filters, edge, edge, edge, device=device).to(memory_format=torch.channels_last_3d)
    work = multiplications(network)
    passes = max(1, round(work / layer.weight.numel()))  # as long as the network, so that other load meets both alike

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(passes):
                layer(features)

    # as a stock configuration has it: torch's default memory layout
    stock = in_format(copy.deepcopy(network), torch.contiguous_format)

    def sliding() -> None:
        with torch.inference_mode():
            windows(image, stock)

    jobs = [bare, lambda: ours(image, network), sliding]
    bare_time, time, sliding_time = in_turn(jobs, repeats, device, warm_up=device.type == "cuda")
    rate, peak = work * edge**3 / time, passes * layer.weight.numel() * edge**3 / bare_time
    padded = [max(edge, WINDOW)] * 3
    count = len(dense_patch_slices(padded, [WINDOW] * 3, [int(WINDOW * (1 - OVERLAP))] * 3))
    return [
        Comparison(
            "whole-volume inference against a bare convolution, multiplications per second",
            f"{rate / 1e9:.1f} G/s",
            f"{peak / 1e9:.1f} G/s",
            rate / peak,
            least=0.9,
        ),
        Comparison(
            "whole-volume inference against MONAI's stock SlidingWindowInferer, times as fast",
            seconds_text(time),
            seconds_text(sliding_time),
            sliding_time / time,
            least=2.5,
        ),
    ], (
        f"Inference: {work} multiplications per voxel; the {count} windows hold {count * WINDOW**3 / edge**3:.2f} times"
        f" the volume's voxels (windows of {WINDOW}^3, overlap {OVERLAP}, Gaussian)"
        " and run in torch's default memory layout."
    )


def _degradation(volume: Sequence[int], repeats: int, device: torch.device) -> tuple[list[Comparison], str]:
    """Slice profile, sampling and spline as matrices, against scipy.ndimage at the same physical positions."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random(tuple(volume), dtype=np.float32), 2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    image = torch.as_tensor(smooth, device=device)
    factors, low = (FACTOR,) * 3, tuple(low_resolution_size(n, FACTOR) for n in volume)
    results = {}

    def ours() -> None:
        results["ours"] = degrade(image, factors)[1]

    def other() -> None:
        blurred = ndimage.gaussian_filter(smooth, profile_sigma(FACTOR))
        sampled = ndimage.affine_transform(
            blurred, factors, (FACTOR - 1) / 2, output_shape=low, order=3, mode="nearest"
        )
        back = (1 / FACTOR,) * 3, (1 / FACTOR - 1) / 2
        results["other"] = ndimage.affine_transform(sampled, *back, output_shape=volume, order=3, mode="nearest")

    profile_matrix.cache_clear()
    spline_matrix.cache_clear()
    cold = timed(ours, device)
    time, other_time = in_turn([ours, other], repeats, device)
    inside = tuple(slice(border, n - border) for n, border in ((n, min(EDGE, n // 4)) for n in volume))
    difference = float(np.abs(results["ours"].cpu().numpy()[inside] - results["other"][inside]).max())
    spread = float(np.abs(smooth - results["other"])[inside].max())
    size = "x".join(map(str, volume))
    return [
        Comparison(
            f"degradation of {size} voxels by 2x2x2 against scipy.ndimage, share of its time",
            seconds_text(time),
            seconds_text(other_time),
            time / other_time,
            most=0.03,
        )
    ], (
        f"Degradation: first call, which builds the matrices, {seconds_text(cold)}; largest difference of both results"
        f" {difference:.1e} of the intensity range in the interior, degraded by up to {spread:.1e}."
    )


def _training_data(network: nn.Module, volume: Sequence[int], device: torch.device) -> tuple[list[Comparison], str]:
    """Drawing and degrading a batch against the training step on it, with the recipe of ``train.json``."""
    recipe = _recipe()
    budget = recipe["budgets"]["short"]
    size, batch_size = budget["patch_size"], budget["batch_size"]
    volumes = [{"image": torch.rand(1, *volume, device=device)} for _ in range(2)]
    profile = SliceProfile(parse_scales(recipe["default_scales"]), guide_dropout=recipe["guide_dropout"])
    patches = RandomPatches(volumes, profile, size, 1000 * batch_size, orient=recipe["orient"])
    numbers = itertools.count()

    def draw() -> dict[str, torch.Tensor]:
        start = next(numbers) * batch_size
        return patches.batch([i % len(patches) for i in range(start, start + batch_size)])

    cold = timed(draw, device)
    batch = draw()
    rate = budget["learning_rate"]
    optimizer = torch.optim.Adam(parameter_groups(network, rate), rate)
    loss_function = nn.MSELoss()

    def draw_many() -> None:
        for _ in range(BATCHES):
            draw()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            loss = loss_function(network(batch["image"]), batch["label"])
        loss.backward()
        optimizer.step()

    draw_time, step_time = in_turn([draw_many, step], 2, device)
    draw_time /= BATCHES
    return [
        Comparison(
            f"a batch of {batch_size} training patches of {size}^3 against the training step, share of its time",
            seconds_text(draw_time),
            seconds_text(step_time),
            draw_time / step_time,
            most=0.05,
        )
    ], f"Training data: the first batch, which finds the foreground and builds matrices, took {seconds_text(cold)}."


def _recipe() -> dict:
    """The bundle's ``train.json``, from its own folder, the repository's root or the installed package's folder."""
    installed = Path(mri_sr3d_lib.__file__).parents[1]
    for root in (installed, Path("bundles/mri_sr3d"), Path(".")):
        path = root / "configs" / "train.json"
        if (root / "mri_sr3d_lib").is_dir() and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"configs/train.json of mri_sr3d is not in {installed}; run from the repository's root")
