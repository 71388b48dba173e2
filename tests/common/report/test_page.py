# SPDX-License-Identifier: Apache-2.0
"""The page says what ran and what came of it, holds everything itself, and believes no name."""

import csv
import json
import re
from importlib import util

import pytest
import torch
from made_reports import HOSTILE, inference, metadata, training
from torch import nn

from common.handlers import ScoreTable
from common.report import Report, Scores, facts, page
from common.report.figures import losses
from common.report.tables import better, title_of


@pytest.fixture
def table(tmp_path):
    """Two epochs of two cases at two settings, the second of which has no truth's score."""
    made = ScoreTable(tmp_path, "spline", {"psnr": "dB"}, others=["median"])
    rows = []
    for epoch in (0, 3):
        for case, setting, before, after in (("a", "2x2x2", 30, 31), ("b", "2x2x2", 28, 27), ("a", "1x1x4", 25, 26)):
            scores = {"psnr_whole": after + epoch, "baseline_psnr_whole": before, "median_psnr_whole": 29}
            scores |= {"kl_input": 0.5 if case == "a" else "nan", "baseline_kl_input": 1, "median_kl_input": 1}
            rows.append({"epoch": epoch, "case": case, "setting": setting, **scores})
    with made.path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return made


def test_scores_stand_beside_the_baseline_with_the_gain(table):
    scores = Scores(table, 0, ["psnr_whole"])
    first, second = scores.groups()
    assert scores.names == ["psnr_whole", "kl_input"]
    assert [line["method"] for line in first["lines"]] == ["spline", "median", "network"]
    assert first["lines"][0]["cells"][0] == "29.00 ± 1.41" and first["lines"][2]["cells"] == ["29.00 ± 2.83", "0.5000"]
    assert first["gains"] == [{"text": "+0.00", "kind": ""}, {"text": "-0.5000", "kind": "better"}]
    assert (first["cases"], second["cases"], second["gains"][0]["kind"]) == ("2 volumes", "1 volume", "better")


def test_sentences_say_who_is_ahead(table):
    first, second = Scores(table, 0, ["psnr_whole"]).sentences()
    assert first == (
        "At 2x2x2, on 2 volumes: PSNR, whole is 29.00 dB with the network and 29.00 dB with spline; "
        "the network is ahead in 1 of 2."
    )
    assert second.endswith("25.00 dB with spline, so the network is ahead.")
    assert "is ahead in 1 of 1" not in " ".join(Scores(table, 0, ["kl_input"]).sentences())


def test_metrics_are_named_and_known_by_their_direction():
    assert title_of("psnr_foreground") == "PSNR, foreground" and title_of("roughness") == "Roughness"
    assert [better(name) for name in ("ssim_whole", "kl_reference", "width_axial")] == [1, -1, 0]


def test_a_training_has_curves_scores_and_pictures_in_one_small_file(tmp_path):
    text = training(tmp_path).read_text(encoding="utf-8")
    assert len(text) < 5_000_000
    assert text.count("data:image/svg+xml;base64,") == 2
    assert "PSNR, whole is 31.00 dB" in text and "the network is ahead" in text
    assert len(json.loads(re.search(r'id="cases">(.*?)</script>', text, re.DOTALL)[1])) == 2
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_names_are_escaped(tmp_path):
    text = inference(tmp_path).read_text(encoding="utf-8")
    assert HOSTILE not in text and "<img src=x" not in text and "&lt;img src=x" in text
    assert text.count("</script>") == 2  # none of a name's


def test_names_that_are_no_text_are_written(tmp_path):
    report = Report(tmp_path, metadata(tmp_path), [])
    report.write("inference", "one", {}, results=[{"input": "caf\udce9\n.nii", "files": []}])
    assert "caf\\udce9\\n.nii" in report.path.read_text(encoding="utf-8")


def test_the_loss_of_an_epoch_is_the_mean_of_its_iterations(tmp_path):
    lines = ["iteration,epoch,term,value", "1,1,loss,1", "2,1,loss,2", "2,1,adversarial,9", "3,2,loss,0.5"]
    (tmp_path / "terms.csv").write_text("\n".join(lines), encoding="utf-8")
    assert losses(tmp_path / "terms.csv") == {1: 1.5, 2: 0.5}
    assert losses(tmp_path / "nothing.csv") == {}


def test_without_the_packages_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "matplotlib" else util.find_spec(name))
    assert Report(tmp_path, metadata(tmp_path), []).write("training", "", {}) is None
    assert capsys.readouterr().out == "no report is written: matplotlib missing (pip install matplotlib)\n"
    monkeypatch.setattr(page, "is_main_process", lambda: False)
    assert Report(tmp_path, metadata(tmp_path), []).write("training", "", {}) is None
    assert not (tmp_path / "report.html").exists()


class Chain(nn.Linear):
    @staticmethod
    def form_of(state):
        return {"features": state["weight"].shape[0]}


def test_what_ran_names_no_folder(tmp_path):
    assert facts.network_text(Chain(3, 2)) == "Chain (features 2), 8 parameters"
    assert facts.network_text(nn.Linear(3, 2)) == "Linear, 8 parameters"
    torch.save({}, tmp_path / "model.pt")
    assert re.fullmatch(r"model\.pt, SHA-256 [0-9a-f]{64}", facts.weights_text(tmp_path / "model.pt"))
    assert facts.weights_text("random initialisation") == "random initialisation"
    sources = {tmp_path / "out" / "sub-1" / "a_sr.nii.gz": "/data/Zzyzx/a.nii.gz"}
    assert facts.restored(sources, tmp_path / "out") == [{"input": "a.nii.gz", "files": ["sub-1/a_sr.nii.gz"]}]
    assert facts.restored(sources, tmp_path / "out", "/data")[0]["input"] == "Zzyzx/a.nii.gz"
    assert facts.restored(sources, tmp_path / "out", "/data/Zzyzx/a.nii.gz")[0]["input"] == "a.nii.gz"
    failures = [("/data/Zzyzx/b.nii", "constant image"), ("c.nii", "would overwrite that of /data/Zzyzx/b.nii")]
    assert facts.failed(failures) == [
        {"input": "b.nii", "reason": "constant image"},
        {"input": "c.nii", "reason": "failed, see the log"},
    ]
