# SPDX-License-Identifier: Apache-2.0
"""Despeckling of ultrasound: the network against a bare convolution, and beside classical filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import us_despeckle_lib
from common.data.sample_data import sample_probes
from common.errors import InputError
from common.handlers.scores import markdown_table
from common.io.weights import build, in_format, load_into
from common.metrics import ssim_map
from common.utils.console import multiplications, say
from tools.rivals.us_despeckle import filters
from us_despeckle_lib.data import HeldOutFrames, ProbeFrames, probe_entries
from us_despeckle_lib.inferers import FrameInferer
from us_despeckle_lib.metrics import KINDS, histogram, kl_divergence
from us_despeckle_lib.networks import DRNN
from us_despeckle_lib.reference import pooled_histogram
from us_despeckle_lib.transforms import LoadFramesd

from .compare import Comparison, check_counts, chosen_device, in_turn, report, seconds_text, timed

FILTERS = {name: job for name, _, job in filters().values() if job is not None}
PAPER_SECONDS = 16.5  # of a frame on the paper's CPU, which it does not name


def despeckle(
    edge: int = 512,
    device: str = "cpu",
    markdown: str | None = None,
    repeats: int = 3,
    weights: str | None = None,
    dataset_dir: str | None = None,
    channels: int | None = None,
    blocks: int | None = None,
) -> None:
    """Measure us_despeckle: speed of a frame, and time, KL, SSNR and SSIM beside classical filters.

    The defaults take about three minutes on two free CPU cores.

    Args:
        edge: edge of the square frame that inference runs on, in pixels
        device: such as cpu or cuda
        markdown: file to write the tables to
        repeats: timed runs of each side
        weights: of the network; by default the bundle's own
        dataset_dir: folder with low/ and high/ for the filters' table; by default the sample probes
        channels: of the network, by default as the weights say; without weights the paper's 64
        blocks: of the network, by default as the weights say; without weights the paper's 6
    """
    sizes = {name: size for name, size in (("channels", channels), ("blocks", blocks)) if size is not None}
    check_counts(edge=edge, repeats=repeats, **sizes)
    where = chosen_device(device)
    torch.manual_seed(0)
    path = Path(weights) if weights else Path(us_despeckle_lib.__file__).parents[1] / "models" / "model.pt"
    known = bool(weights) or path.is_file()
    network = build(DRNN, path, {"channels": 64, "blocks": 6}, not known, **sizes)
    network = in_format(network, torch.channels_last, where).eval()
    if known:
        load_into(network, path)
    width, depth = network.tail.in_channels, len(network.body)
    comparison, note = _speed(network, width, edge, repeats, where)
    say(f"{comparison.what}: ratio {comparison.row()[3]}")
    table = _filters(network, where, dataset_dir or str(sample_probes()))
    title = f"despeckle: {3 * depth + 2} convolutions of {width} channels, a frame of {edge} x {edge} pixels"
    report(title, where, [comparison], [note], markdown)
    print(table, flush=True)
    if markdown:
        with Path(str(markdown)).open("a", encoding="utf-8") as file:
            file.write("\n" + table + "\n")


def _speed(network: nn.Module, channels: int, edge: int, repeats: int, device: torch.device) -> tuple[Comparison, str]:
    """A frame through the network against bare convolutions with as many multiplications."""
    image = torch.rand(1, 1, edge, edge, device=device)
    ours = FrameInferer()
    layer = in_format(nn.Conv2d(channels, channels, 3, padding=1), torch.channels_last, device)
    features = torch.rand(1, channels, edge, edge, device=device).to(memory_format=torch.channels_last)
    work = multiplications(network)
    passes = max(1, round(work / layer.weight.numel()))

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(passes):
                layer(features)

    bare_time, time = in_turn([bare, lambda: ours(image, network)], repeats, device)
    rate, peak = work * edge**2 / time, passes * layer.weight.numel() * edge**2 / bare_time
    return Comparison(
        "a frame through the network against a bare convolution, multiplications per second",
        f"{rate / 1e9:.1f} G/s",
        f"{peak / 1e9:.1f} G/s",
        rate / peak,
        least=0.85,
    ), (
        f"The frame took {seconds_text(time)}, normalisation folded into the convolutions, {work} multiplications per"
        f" pixel. The paper tells of {PAPER_SECONDS} s on a CPU and 0.3 s on a GPU; it gives no frame size."
    )


def _filters(network: nn.Module, device: torch.device, dataset_dir: str) -> str:
    """Table of the network and classical filters on the held-out frames of two probes."""
    entries = probe_entries(dataset_dir, 0.25, 0, 3)
    load = LoadFramesd("image")
    frames = ProbeFrames(entries["reference"], load)
    reference = pooled_histogram(frames[number] for number in range(len(frames)))
    items = [HeldOutFrames(entries["validate"], load)[i] for i in range(len(entries["validate"]))]
    inferer = FrameInferer()

    def ours(image: np.ndarray) -> np.ndarray:
        return inferer(torch.from_numpy(image)[None, None].to(device), network)[0, 0].cpu().numpy()

    rows = []
    for name, job in {"input": lambda image: image, **FILTERS, "network": ours}.items():
        seconds, counts, scores = 0.0, torch.zeros(256, dtype=torch.float64), []
        for item in items:
            image, label = item["image"][0].numpy(), item["label"]
            results: list[np.ndarray] = []
            try:
                seconds += timed(lambda: results.append(job(image)), device)  # noqa: B023 - called at once
            except (InputError, ImportError) as error:
                say(f"{name} left out: {error}")
                break
            result = torch.from_numpy(np.asarray(results[0], np.float32)).clamp(0, 1)
            counts += histogram(result, label[1])
            similar = float(ssim_map(result, label[0])[label[1] > 0].mean())
            scores.append([KINDS["ssnr"](result, label), similar, KINDS["width_lateral"](result, label)])
        if len(scores) == len(items):
            mean = np.mean(scores, axis=0)
            cells = [f"{float(kl_divergence(reference, counts)):.3f}", *(f"{number:.2f}" for number in mean)]
            time = "-" if name == "input" else seconds_text(seconds / len(items))
            rows.append([name, time, *cells])
    header = ["method", "time per frame", "KL(y, x^)", "SSNR", "SSIM to the input", "lateral width (pixels)"]
    size = "x".join(str(n) for n in items[0]["image"].shape[1:])
    return f"{len(items)} held-out frames of {size} pixels\n\n" + markdown_table(header, rows)
