# SPDX-License-Identifier: Apache-2.0
"""The lines at the terminal say what a person wants to know."""

import io
import time

import pytest
import torch
from torch import nn

from common.utils import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (39.6, "40 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (36000, "10.0 h")],
)
def test_durations_read_as_spoken(seconds, text):
    assert console.duration(seconds) == text


def test_multiplications_per_voxel_are_the_convolutions_weights():
    network = nn.Sequential(nn.Conv3d(2, 5, 3), nn.ReLU(), nn.Conv3d(5, 1, (1, 3, 5), bias=False))
    assert console.multiplications(network) == 2 * 5 * 27 + 5 * 15
    assert console.multiplications(nn.Conv2d(3, 4, 7)) == 3 * 4 * 49


def test_a_network_may_count_its_multiplications_itself():
    class Doubling(nn.Conv2d):
        multiplications = 36

    assert console.multiplications(Doubling(1, 1, 3)) == 36


def test_the_convolution_rate_foretells_a_convolutions_time():
    rate = console.convolution_rate("cpu", edge=16)
    layer, image = nn.Conv3d(32, 32, 3, padding=1), torch.zeros(1, 32, 24, 24, 24)
    with torch.inference_mode():
        layer(image)
        start = time.perf_counter()
        layer(image)
        spent = time.perf_counter() - start
    assert 0.02 < 27 * 32 * 32 * 24**3 / rate / spent < 50  # an order of magnitude, on whatever busy machine


def test_the_first_process_speaks_and_the_others_do_not(capsys, monkeypatch):
    console.say("hello")
    monkeypatch.setattr(console, "is_main_process", lambda: False)
    console.say("echo")
    assert capsys.readouterr().out == "hello\n"


def test_a_terminal_without_the_characters_gets_the_line_all_the_same(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.say("Zo\xeb: 31.2 \xb1 0.8 dB")
    assert raw.getvalue() == b"Zo?: 31.2 +- 0.8 dB\n"


def test_a_gpu_is_called_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Big GPU")
    assert console.device_text("cuda:1") == "cuda:1 (Big GPU)"
