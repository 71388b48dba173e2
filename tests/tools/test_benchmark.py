# SPDX-License-Identifier: Apache-2.0
"""The benchmark's command line: what it measures and writes, never how fast."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.sample_data import write_probe_frames
from tools import benchmark
from tools.benchmark.compare import Comparison, in_turn, seconds_text
from us_despeckle_lib.networks import DRNN

TOOL = benchmark
SMALL = "--edge", 20, "--layers", 2, "--filters", 4, "--volume", "[40,36,32]", "--repeats", 1


def test_sr3d_writes_a_table_of_finite_ratios(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.sr3d, "BATCHES", 1)
    measured, report = [], benchmark.sr3d.report

    def keep(title, device, comparisons, *rest):
        measured.extend(comparisons)
        report(title, device, comparisons, *rest)

    monkeypatch.setattr(benchmark.sr3d, "report", keep)
    path = tmp_path / "sr3d.md"
    command("sr3d", *SMALL, "--markdown", path)
    text = path.read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert text.startswith("## sr3d: 2 layers of 4 filters, inference on 20^3 voxels\n")
    assert f"{torch.get_num_threads()} threads" in text and f"torch {torch.__version__}" in text
    header, _, *rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    assert header == ["what", "ours", "other", "ratio", "target", "met"]
    told = ["bare convolution", "SlidingWindowInferer", "40x36x32 voxels by 2x2x2", "8 training patches of 21^3"]
    assert len(rows) == 4 and all(words in row[0] for words, row in zip(told, rows, strict=True))
    assert [row[4] for row in rows] == ["at least 0.90", "at least 2.50", "at most 3 %", "at most 5 %"]
    assert rows == [comparison.row() for comparison in measured]
    # the ratios as measured: on a busy machine their two decimals, and the rates', may be 0.00
    assert all(math.isfinite(comparison.ratio) and comparison.ratio > 0 for comparison in measured)
    for _, ours, other, ratio, _, met in rows:
        assert all(math.isfinite(float(cell.split()[0])) for cell in (ours, other, ratio)) and met in ("yes", "no")
    found = re.search(r"largest difference .*? ([\d.e-]+) of the .* degraded by up to ([\d.e-]+)\.", text)
    difference, change = map(float, found.groups())  # the same work as scipy's
    assert difference < 1e-3 and change > 20 * difference


def test_jobs_run_in_turn_and_the_best_time_of_each_counts(monkeypatch):
    calls = []
    taken = iter([3.0, 5.0, 2.0, 7.0])
    monkeypatch.setattr("tools.benchmark.compare.timed", lambda job, device: (job(), next(taken))[1])
    best = in_turn([lambda: calls.append("a"), lambda: calls.append("b")], 2, torch.device("cpu"))
    assert calls == list("ababab") and best == [2.0, 5.0]


@pytest.mark.parametrize(
    ("ratio", "bounds", "cells"),
    [
        (0.904, {"least": 0.9}, ["0.90", "at least 0.90", "yes"]),
        (2.4, {"least": 2.5}, ["2.40", "at least 2.50", "no"]),
        (0.0123, {"most": 0.03}, ["1.23 %", "at most 3 %", "yes"]),
        (0.06, {"most": 0.05}, ["6.00 %", "at most 5 %", "no"]),
    ],
)
def test_a_row_tells_whether_the_target_is_met(ratio, bounds, cells):
    assert Comparison("it", "1 s", "2 s", ratio, **bounds).row() == ["it", "1 s", "2 s", *cells]


def test_times_are_told_with_their_unit():
    assert [seconds_text(s) for s in (12.345, 1.0, 0.0456)] == ["12.3 s", "1 s", "45.6 ms"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--volume", "[16,18]"), "volume must be three sizes"),
        (("--edge", "large"), "edge must be a whole number"),
        (("--repeats", "0"), "repeats must be a whole number"),
        (("--device", "toaster"), "device toaster cannot be used"),
    ],
)
def test_wrong_values_are_told_in_one_line(command, words, message):
    with pytest.raises(SystemExit) as caught:
        command("sr3d", *words)
    assert str(caught.value).startswith("error: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_denoise_tells_speed_and_quality_beside_bm4d(command, tmp_path, monkeypatch):
    brain = np.full((24, 24, 24), 100, np.float32)
    brain[6:18, 6:18, 6:18] = np.linspace(300, 1000, 12)
    nib.save(nib.Nifti1Image(brain, np.eye(4)), tmp_path / "brain.nii.gz")
    told = []

    def exact(noisy, sigma):
        told.append((noisy.shape, sigma))
        return (brain - 100) / 900

    monkeypatch.setattr(benchmark.denoise, "bm4d", SimpleNamespace(bm4d=exact))
    monkeypatch.setattr(benchmark.denoise, "has_bm4d", True)
    path = tmp_path / "denoise.md"
    command("denoise", "--edge", 24, "--scan", tmp_path / "brain.nii.gz", "--level", 9, "--markdown", path)
    text = path.read_text(encoding="utf-8")
    assert told == [((24, 24, 24), 0.09)]
    assert text.startswith("## denoise: 24x24x24 voxels, 9 % Rician noise\n")
    assert " convolution, multiplications per second" in text and "at least 10.00" in text
    noisy, network, other = (float(dB) for dB in re.findall(r" ([\d.]+) dB", text))
    assert 15 < noisy < 25 and noisy < network < 40 and other > 60  # the network's own weights, the faked perfect BM4D


def test_denoise_without_bm4d_says_how_to_get_it(command, monkeypatch):
    monkeypatch.setattr(benchmark.denoise, "has_bm4d", False)
    with pytest.raises(SystemExit, match="error: the package bm4d is missing: pip install"):
        command("denoise")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--edge", "0"), "edge must be a whole number"),
        (("--level", "-1"), "noise_level must be"),
        (("--scan", "nowhere.nii"), "nowhere.nii: "),
    ],
)
def test_denoise_tells_wrong_values_in_one_line(command, monkeypatch, words, message):
    monkeypatch.setattr(benchmark.denoise, "has_bm4d", True)
    with pytest.raises(SystemExit) as caught:
        command("denoise", *words)
    assert str(caught.value).startswith("error: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_despeckle_tells_speed_and_the_filters_beside_the_network(command, tmp_path, monkeypatch):
    write_probe_frames(tmp_path / "probes", 2, 96, progress=False)
    torch.manual_seed(0)
    torch.save(DRNN(4, 1).state_dict(), tmp_path / "small.pt")

    def missing(image):
        raise ImportError("not here")

    filters = {"median 5x5 (scipy)": benchmark.despeckle.FILTERS["median 5x5 (scipy)"], "absent": missing}
    monkeypatch.setattr(benchmark.despeckle, "FILTERS", filters)
    path = tmp_path / "despeckle.md"
    small = "--channels", 4, "--blocks", 1, "--weights", tmp_path / "small.pt", "--dataset_dir", tmp_path / "probes"
    command("despeckle", "--edge", 40, "--repeats", 1, *small, "--markdown", path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("## despeckle: 5 convolutions of 4 channels, a frame of 40 x 40 pixels\n")
    assert "at least 0.85" in text and "16.5 s" in text
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line[:1] == "|"}
    assert "absent" not in rows
    ssnr = {name: float(rows[name][2]) for name in ("input", "median 5x5 (scipy)", "network")}
    assert ssnr["median 5x5 (scipy)"] > 1.3 * ssnr["input"]
    assert float(rows["input"][3]) == 1
    with pytest.raises(SystemExit, match="error: channels must be a whole number"):
        command("despeckle", "--channels", 0)


def test_synthesis_writes_a_table_of_finite_ratios(command, tmp_path):
    path = tmp_path / "synthesis.md"
    command("synthesis", "--volume", "[40,36,32]", "--width", 2, "--stacks", 2, "--repeats", 1, "--markdown", path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("## synthesis: 40 x 36 x 32 voxels, width 2\n")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"][2:]
    assert [row[4] for row in rows] == ["at least 10.00", "at most 15 %"]
    for row in rows:
        assert math.isfinite(float(row[3].split()[0])) and row[5] in ("yes", "no")
    assert int(re.search(r"does them: (\d+) stacks", text)[1]) > 200
    outside, total = (_seconds(cell) for cell in rows[1][1:3])
    assert 0 < outside < total and "from its files to the result's" in rows[1][0]


def _seconds(cell):
    number, unit = cell.split()
    return float(number) * {"s": 1, "ms": 1e-3}[unit]


def test_memory_is_that_of_a_run_with_the_cache_on_disk(command, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.synthesis, "MEMORY_GB", 1e-5)
    monkeypatch.setattr(benchmark.synthesis, "MEMORY_BATCHES", 2)
    monkeypatch.setattr(benchmark.synthesis, "_sampler", lambda *_: (Comparison("a", "", "", 1.0, least=1), ""))
    monkeypatch.setattr(benchmark.synthesis, "_views", lambda *_: (Comparison("b", "", "", 1.0, least=1), ""))
    command("synthesis", "--volume", "[24,24,24]", "--cases", 3)
    out = capsys.readouterr().out
    assert "peak memory of training on 3 cases with the cache on disk" in out
    assert "(short budget: 8 stacks of 192 x 192, here 2 batches)" in out
    files, size, total = re.search(r"(\d+) cached cases of ([\d.]+) MiB, ([\d.e-]+) GiB on disk", out).groups()
    decoded = (4 * 2 + 2) * 24**3 / 2**20  # four sequences as float16, tumour and brain as bytes, of the head's box
    assert int(files) == 3 and 0.8 * decoded < float(size) < 1.1 * decoded
    assert float(total) == pytest.approx(3 * float(size) / 1024, rel=0.02)
    peak = float(re.search(r"\| ([\d.]+) GiB \|", out)[1])
    assert 0.2 < peak < 16  # a process with torch and a network in it


@pytest.mark.parametrize("words", [("--volume", 20), ("--volume", "[8,20,20]"), ("--width", 0), ("--cases", -1)])
def test_synthesis_settings_that_cannot_work(command, words):
    with pytest.raises(SystemExit, match="error: "):
        command("synthesis", *words)


def test_lesion_tells_what_the_region_saves(command, tmp_path):
    path = tmp_path / "lesion.md"
    words = "--height", 20, "--width", 24, "--region", 4, "--slices", 1, "--repeats", 1
    command("lesion", *words, "--markdown", path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("## lesion: 1 slices of 20 x 24, region of 4 x 4 low-resolution pixels")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"][2:]
    assert [row[0].split()[0] for row in rows] == ["the", "generator", "MS-GAN's"]
    assert [row[4] for row in rows] == ["at least 1.00", "at least 0.85", "at most 115 %"]
    assert all(float(row[3].split()[0]) > 0 for row in rows)
    assert "multiplications per low-resolution pixel" in text
    with pytest.raises(SystemExit, match="error: region 30 is larger than the slice"):
        command("lesion", "--height", 20, "--region", 30)
