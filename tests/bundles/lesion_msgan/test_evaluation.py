# SPDX-License-Identifier: Apache-2.0
"""The evaluation from config to table, and from its pictures to the page of a reader who does not know the methods."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lesion_msgan_lib
from lesion_msgan_lib.networks import MultiScaleGenerator, SRResNet
from tools import opinion_score

CONFIGS = Path(lesion_msgan_lib.__file__).parents[1] / "configs"
BRAIN = (48, 52, 24)  # voxels
METHODS = ("bicubic", "bilinear", "srresnet", "network", "truth")


@pytest.fixture
def evaluate(brains, tmp_path, run):
    """Runs an evaluation of two untrained networks, which are bicubic interpolation."""

    def start(**keys):
        for name, network in (("small", MultiScaleGenerator(4, 1, 1)), ("srresnet", SRResNet(4, 1))):
            torch.save(network.state_dict(), tmp_path / f"{name}.pt")
        keys = {"dataset_dir": brains, "output_dir": tmp_path, "weights": tmp_path / "small.pt", "slices": 1, **keys}
        keys |= {"degradation": "bicubic"}
        run("train", "evaluate", compared=f"{{'srresnet': '{tmp_path / 'srresnet.pt'}'}}", **keys)

    return start


def test_evaluation_compares_all_methods(evaluate, tmp_path, capsys):
    evaluate(sequence="t1n")
    table = capsys.readouterr().out
    for method in ("bicubic", "bilinear", "srresnet", "network"):
        assert table.count(f"| {method} ") == 4  # three slices and the mean
    means = {line.split("|")[3].strip(): line for line in table.splitlines() if line.startswith("| mean")}
    assert means["bicubic"].split("|")[4:] == means["srresnet"].split("|")[4:] == means["network"].split("|")[4:]
    assert means["bilinear"].split("|")[4:] != means["bicubic"].split("|")[4:]
    page = (tmp_path / "evaluation-1" / "report.html").read_text(encoding="utf-8")
    assert page.count('"role": "result"') == 3


def test_a_reader_gets_a_page_of_the_evaluation(evaluate, tmp_path):
    left = tmp_path / "reader" / "pictures" / "truth" / "old.png"  # of an earlier evaluation
    left.parent.mkdir(parents=True)
    left.write_bytes(b"")
    evaluate(sequence="t1c", run_name="reader", slices=2)
    pictures = tmp_path / "reader" / "pictures"
    assert sorted(p.name for p in pictures.iterdir()) == sorted(METHODS)
    files = {name: sorted(p.name for p in (pictures / name).iterdir()) for name in METHODS}
    assert len(files["truth"]) == 6 and all(names == files["truth"] for names in files.values())
    for file in files["truth"]:
        images = {name: np.asarray(Image.open(pictures / name / file)).astype(int) for name in METHODS}
        assert len({image.shape for image in images.values()}) == 1 and 32 <= max(images["truth"].shape) < 48
        assert np.abs(images["network"] - images["bicubic"]).max() <= 1
        assert np.abs(images["truth"] - images["bicubic"]).mean() > 2
        # one grey scale: the truth's own levels are those of its interpolation
        assert images["truth"].max() > 200 and abs(images["truth"].mean() - images["bicubic"].mean()) < 4

    methods = {name: str(pictures / name) for name in METHODS}
    opinion_score.page(str(tmp_path / "scores.html"), **methods)
    text = (tmp_path / "scores.html").read_text(encoding="utf-8")
    shown = json.loads(re.search(r"const pictures = (\[.*\]);", text)[1])
    assert len(shown) == 30
    for picture in shown:
        assert 480 <= max(Image.open(io.BytesIO(base64.b64decode(picture["png"]))).size) <= 512
    known = json.loads((tmp_path / "scores.key.json").read_text(encoding="utf-8"))
    answers = {number: {"score": 4 if p["method"] == "truth" else 1} for number, p in known["pictures"].items()}
    given = {"page": known["page"], "answers": answers}
    (tmp_path / "answers.json").write_text(json.dumps(given), encoding="utf-8")
    opinion_score.table(str(tmp_path / "answers.json"), str(tmp_path / "scores.key.json"), str(tmp_path / "table.md"))
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    rows = {
        cells[1]: cells[2:4] for cells in ([cell.strip() for cell in line.split("|")] for line in lines) if cells[1:]
    }
    assert rows["truth"] == ["6", "4.00 ± 0.000"] and rows["network"] == ["6", "1.00 ± 0.000"]
