# SPDX-License-Identifier: Apache-2.0
"""Synthesis of MR sequences: training stacks, nine-view inference, and the memory of a large training set."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import (
    Compose,
    ConcatItemsd,
    LoadImaged,
    RandFlipd,
    RandRotated,
    RandSpatialCropd,
    SpatialPadd,
)

import brasyn_synthesis_lib
from brasyn_synthesis_lib.data import inputs_of, training_cases
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.standardisation import fit
from common.data.sample_data import write_brain_cases
from common.data.sample_data.brain import SEQUENCES
from common.samplers import RandomStacks, slice_stacks
from common.utils.console import say

from .compare import Comparison, chosen_device, in_turn, report, seconds_text, timed

SIZE, PAD, ANGLE = 256, 288, 15.0  # the paper's (sec. 2.3)
MEMORY_GB = 16.0
CONFIGS = Path(brasyn_synthesis_lib.__file__).parents[1] / "configs"
TARGET = "t1c"
MEMORY_BATCHES = 4


def synthesis(
    device: str = "cpu",
    markdown: str | None = None,
    volume: tuple[int, int, int] = (240, 240, 155),
    width: int = 28,
    stacks: int = 60,
    cases: int = 0,
    repeats: int = 2,
) -> None:
    """Measure brasyn_synthesis: the slice sampler against files, and a nine-view case against its network alone.

    The defaults take about three minutes on one free CPU core; 100 cases another half an hour and 25 GB of disk.

    Args:
        device: such as cpu or cuda
        markdown: file to write the table to
        volume: voxels of the case, such as "[240,240,155]"
        width: channels of the generator's first level
        stacks: training stacks that are timed
        cases: also train for an epoch on so many generated cases with the cache on disk, and measure the memory
        repeats: timed runs of each side of the sampler
    """
    if not (isinstance(volume, Sequence) and len(volume) == 3 and all(isinstance(n, int) and n >= 16 for n in volume)):
        raise ValueError(f"volume must be three sizes of at least 16 such as [240,240,155], got {volume}")
    for name, number, least in (
        ("width", width, 1),
        ("stacks", stacks, 1),
        ("cases", cases, 0),
        ("repeats", repeats, 1),
    ):
        if not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {number}")
    where = chosen_device(device)
    item = _case(volume)
    comparisons, notes = [], []
    parts = [lambda: _sampler(item, stacks, repeats), lambda: _views(volume, width, where)]
    if cases:
        parts.append(lambda: _memory(volume, cases))
    for part in parts:
        comparison, note = part()
        say(f"{comparison.what}: ratio {comparison.row()[3]}")
        comparisons.append(comparison)
        notes.append(note)
    report(f"synthesis: {' x '.join(map(str, volume))} voxels, width {width}", where, comparisons, notes, markdown)


def _case(volume: Sequence[int]) -> dict[str, torch.Tensor]:
    """An ellipsoid as large as a brain in BraTS images, with fine structure, its truth, and a tumour."""
    random = np.random.default_rng(0)
    axes = [(np.arange(n) - (n - 1) / 2) / (share * n) for n, share in zip(volume, (0.29, 0.36, 0.45), strict=True)]
    brain = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 1
    image = torch.as_tensor(random.random((3, *volume), dtype=np.float32) * brain)
    tumour = torch.as_tensor(
        (axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 0.05) * np.float32(1)
    )
    return {"image": image, "label": torch.stack([image.mean(dim=0), tumour])}


def _sampler(item: dict[str, torch.Tensor], stacks: int, repeats: int) -> tuple[Comparison, str]:
    """The sampler against MONAI's transforms on a file per slice and sequence, both with the paper's augmentation."""
    data = RandomStacks([item], SIZE, stacks, PAD)
    names = [f"s{i}" for i in range(9)]
    keys = [*names, "label", "tumour"]
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for number in range(stacks):
            axis = number % 3
            position = item["image"].shape[axis + 1] // 2 + (number // 3) % 20 - 10
            slices = [*slice_stacks(item["image"], axis, [position], 3)[0], *item["label"].select(axis + 1, position)]
            entry = {}
            for key, values in zip(keys, slices, strict=True):
                entry[key] = f"{folder}/{number}-{key}.nii"
                nib.save(nib.Nifti1Image(values.numpy(), np.eye(4)), entry[key])
            entries.append(entry)
        angle = np.deg2rad(ANGLE)
        both = ["image", "label", "tumour"]
        stock = Compose(
            [
                LoadImaged(keys, image_only=True, ensure_channel_first=True),
                ConcatItemsd(names, "image"),
                SpatialPadd(both, (PAD, PAD)),
                RandSpatialCropd(both, (SIZE, SIZE), random_size=False),
                RandFlipd(both, 0.5, spatial_axis=1),
                RandRotated(
                    both, range_x=angle, prob=0.5, mode=("bilinear", "bilinear", "nearest"), padding_mode="zeros"
                ),
            ]
        )

        def ours() -> None:
            for index in range(stacks):
                data[index]

        def other() -> None:
            for entry in entries:
                stock(entry)

        time_ours, time_other = in_turn([ours, other], repeats, torch.device("cpu"))
    return (
        Comparison(
            "training stacks from volumes in memory against one file per slice with MONAI's transforms, times as fast",
            f"{stacks / time_ours:.0f} stacks/s",
            f"{stacks / time_other:.0f} stacks/s",
            time_other / time_ours,
            least=10,
        ),
        (
            f"Stacks: 9 slices in, truth and tumour, padded to {PAD}, cropped to {SIZE}, flipped, turned by up to"
            f" {ANGLE:g} degrees; uncompressed files, warm in the system's cache."
        ),
    )


def _views(volume: Sequence[int], width: int, device: torch.device) -> tuple[Comparison, str]:
    """One case by ``inference.json``, from its files to the result's: the share of its time that is not the network's.

    The weights are random; what they hold makes no difference to the time.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, case = _made_case(folder, volume), folder / "case"
        _link_case(source, case, inputs_of(TARGET))
        overrides: dict[str, Any] = {
            "dataset_dir": str(case),
            "output_dir": str(folder / "results"),
            "ckpt_dir": str(folder / "models"),
            "device": str(device),
            "inferer::progress": False,
        }
        workflow = ConfigWorkflow(
            str(CONFIGS / "inference.json"), workflow_type="infer", logging_file=False, **overrides
        )
        workflow.initialize()
        torch.manual_seed(0)
        weights = folder / "models" / "model.pt"
        weights.parent.mkdir()
        network = Generator(width=width)
        fit(training_cases(source.parent), TARGET).write(network)
        torch.save(network.state_dict(), weights)
        evaluator, dataset = (workflow.parser.get_parsed_content(key) for key in ("evaluator", "dataset"))
        clock = _NetworkClock(workflow.parser.get_parsed_content("inferer"), device)
        total = timed(evaluator.run, device)
        dataset.finish()  # says so if the case failed
        results = len(list((folder / "results").rglob("*.nii.gz")))
    if results != 1:
        raise RuntimeError(f"the timed case left {results} results")
    outside = total - clock.seconds
    return (
        Comparison(
            "one case by nine views, from its files to the result's, share of its time outside the network",
            seconds_text(outside),
            seconds_text(total),
            outside / total,
            most=0.15,
        ),
        f"Nine views as inference.json does them: {clock.stacks} stacks; reading, standardising, loading the weights,"
        " cutting, turning, fusing, restoring and saving are outside the network.",
    )


class _NetworkClock:
    """Times the network inside a ``TargetInferer``, and counts its stacks.

    Args:
        inferer: of the bundle; from now on its networks are timed.
        device: where they run.
    """

    def __init__(self, inferer: Any, device: torch.device) -> None:
        self.seconds, self.stacks, self.device = 0.0, 0, device
        self.network_for = inferer.network_for
        inferer.network_for = self._timed_network_for

    def _timed_network_for(self, meta: Any, network: Any) -> Callable[..., torch.Tensor]:
        chosen = self.network_for(meta, network)

        def run(stack: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            made = []
            self.seconds += timed(lambda: made.append(chosen(stack, *args, **kwargs)), self.device)
            self.stacks += len(stack)
            return made[0]

        return run


def _made_case(folder: Path, volume: Sequence[int]) -> Path:
    (source,) = write_brain_cases(folder / "made", 1, volume, progress=False)
    return source


def _link_case(source: Path, case: Path, kinds: Sequence[str]) -> None:
    case.mkdir(parents=True)
    for kind in kinds:
        os.link(source / f"{source.name}-{kind}.nii.gz", case / f"{case.name}-{kind}.nii.gz")


def _memory(volume: Sequence[int], cases: int) -> tuple[Comparison, str]:
    """An epoch of the bundle's own training on generated cases in a process of its own, and its peak memory.

    Batches, their size and the validation are those of the budget that a CPU gets; only the batches are few.
    """
    config = CONFIGS / "train.json"
    budget = json.loads(config.read_text(encoding="utf-8"))["budgets"]["short"]
    batch, size = budget["batch_size"], budget["patch_size"]
    batches = max(MEMORY_BATCHES, -(-2 * cases // batch))  # enough that every case is asked for
    budget |= {"epochs": 1, "patches": batches * batch}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _made_case(folder, volume)
        for number in range(cases):  # one brain under many names: each is decoded by itself
            _link_case(source, folder / "cases" / f"case-{number:03d}", (*SEQUENCES, "seg"))
        overrides = {
            "dataset_dir": str(folder / "cases"),
            "output_dir": str(folder / "runs"),
            "ckpt_dir": str(folder / "models"),
            "from_scratch": "true",
            "cache_dir": str(folder / "cache"),
            "device": "cpu",
            "budgets": str({"short": budget}),
            "memory_gb": str(MEMORY_GB),
        }
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
        start = time.perf_counter()
        subprocess.run(
            [*command, *[word for key, text in overrides.items() for word in (f"--{key}", text)]],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
        files = [path.stat().st_size for path in (folder / "cache").rglob("*.pt")]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return Comparison(
        f"peak memory of training on {cases} cases with the cache on disk (short budget: {batch} stacks of {size} x"
        f" {size}, here {batches} batches), share of {MEMORY_GB:g} GiB",
        f"{peak:.2f} GiB",
        f"{MEMORY_GB:g} GiB",
        peak / MEMORY_GB,
        most=1.0,
    ), (
        f"Memory: an epoch of train.json in a process of its own, {seconds:.0f} s with decoding;"
        f" {len(files)} cached cases of {sum(files) / max(len(files), 1) / 2**20:.3g} MiB,"
        f" {sum(files) / 2**30:.3g} GiB on disk."
    )
