# SPDX-License-Identifier: Apache-2.0
"""What the tools' tests share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import rslm_denoise_lib
from rslm_denoise_lib.networks import Generator
from tools import package as packing
from tools import verify as verifying

SIZES = [[3, 3, 1], 3, [3, 3, 1]]


@pytest.fixture
def command(request, monkeypatch):
    """Run the module's ``TOOL`` with the given words after its name."""

    def run(*words):
        tool = request.module.TOOL
        monkeypatch.setenv("PAGER", "cat")  # Fire pipes its help through a pager on a terminal
        monkeypatch.setattr("sys.argv", [tool.__name__.split(".")[-1], *map(str, words)])
        tool.main()

    return run


@pytest.fixture
def change():
    """Sets an entry of a JSON file, or takes it out."""
    return _change


def _change(path, *keys, to):
    content = json.loads(path.read_text(encoding="utf-8"))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def small_denoiser(tmp_path, monkeypatch):
    """A copy of a bundle with a small network, in a repository of its own."""
    source = Path(rslm_denoise_lib.__file__).parents[1]
    folder = tmp_path / "bundles" / source.name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("runs", "eval", "__pycache__"))
    _change(folder / "configs" / "metadata.json", "eval_metrics", to={"psnr": 30.0})
    torch.save(Generator(4, SIZES).state_dict(), folder / "models" / "model.pt")
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    return folder


@pytest.fixture
def verify(monkeypatch, capsys):
    """Run tools.verify on a bundle or zip; gives exit status and lines of the report."""

    def run(target, *words):
        monkeypatch.setattr("sys.argv", ["verify", str(target), *words])
        try:
            verifying.main()
            status = 0
        except SystemExit as end:
            status = end.code
        told = capsys.readouterr().out.splitlines()
        return status, [line for line in told if line.startswith(("ok ", "-  ", "FAIL ", "rslm"))]

    return run
