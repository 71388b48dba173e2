# SPDX-License-Identifier: Apache-2.0
"""Every score is written down, once, and summed up in a line and a table."""

import csv
import locale

import pytest
import torch
from ignite.engine import Engine

from common.handlers import ScoreTable
from common.handlers import scores as module
from common.handlers.scores import markdown_table, mean_and_sd
from common.report.tables import Scores
from common.transforms.geometry import extent_of

CASES = [("a", "2x2x2"), ("a", "3x3x3"), ("b", "2x2x2"), ("b", "3x3x3")]
METRICS = ["psnr_foreground", "ssim_foreground"]


def evaluator(table, shift=0.0):
    """An evaluator over four items, with metric details as MONAI's handlers leave them."""
    engine = Engine(lambda engine, batch: [{}] * len(batch))

    @engine.on(module.Events.EPOCH_COMPLETED)
    def details(engine):
        values = torch.tensor([[30.0], [25.0], [32.0], [26.0]]) + shift
        engine.state.metric_details = {
            "psnr_foreground": values,
            "ssim_foreground": values / 40,
            "baseline_psnr_foreground": values - shift - 1,
            "baseline_ssim_foreground": (values - shift) / 50,
        }

    table.attach(engine)
    return engine


def validate(table, epoch, shift=0.0, cases=CASES):
    engine = evaluator(table, shift)
    engine.load_state_dict({"epoch": epoch - 1, "epoch_length": 2, "max_epochs": epoch})
    items = [{"case": case, "setting": setting} for case, setting in cases]
    engine.run([items[:2], items[2:]])


@pytest.fixture
def table(tmp_path):
    return ScoreTable(tmp_path / "run", baseline="spline", units={"psnr": "dB"})


def test_a_line_per_case_setting_and_epoch(table):
    validate(table, 1)
    validate(table, 2, shift=1.0)
    with table.path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["case"], row["setting"]) for row in rows] == [(e, *c) for e in "12" for c in CASES]
    assert [float(row["psnr_foreground"]) for row in rows] == [30, 25, 32, 26, 31, 26, 33, 27]
    assert [float(row["baseline_psnr_foreground"]) for row in rows][:4] == [29, 24, 31, 25]
    assert len(table.rows(2)) == 4 and len(table.rows()) == 8 and table.rows(7) == []


def test_an_epoch_that_is_validated_again_counts_once(table):
    validate(table, 1)
    validate(table, 2)
    validate(table, 2, shift=5.0)
    assert [row["epoch"] for row in table.rows()] == ["1"] * 4 + ["2"] * 4
    assert float(table.rows(2)[0]["psnr_foreground"]) == 35


def test_a_resumed_run_adds_to_the_file(table, tmp_path):
    validate(table, 1)
    validate(ScoreTable(tmp_path / "run", "spline"), 2)
    assert len(table.rows()) == 8


def test_an_evaluation_aside_is_not_written(table):
    engine = evaluator(table)
    engine.state.aside = True
    engine.run([[{"case": "a", "setting": "x"}]])
    assert not table.path.exists()


def test_the_summary_gives_both_methods_and_the_gain_at_each_setting(table):
    validate(table, 3, shift=0.5)
    line = table.summary(3, METRICS)
    assert line == (
        "psnr_foreground / ssim_foreground on 2 held-out volume(s) -- "
        "2x2x2: spline 30.00 dB / 0.6200, network 31.50 dB / 0.7875, gain +1.50 dB; "
        "3x3x3: spline 24.50 dB / 0.5100, network 26.00 dB / 0.6500, gain +1.50 dB"
    )


def test_the_summary_says_what_a_case_is(tmp_path):
    table = ScoreTable(tmp_path, "spline", items="slice(s)")
    validate(table, 1)
    assert "held-out slice(s) -- " in table.summary(1, METRICS)


def test_a_loss_is_called_one(table):
    validate(table, 1, shift=-3.0)
    assert "gain -2.00 dB" in table.summary(1, METRICS)


def test_the_table_lists_cases_and_mean_with_standard_deviation(tmp_path, capsys):
    table = ScoreTable(tmp_path, "spline", table=True)
    validate(table, 1)
    text = (tmp_path / "scores.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert lines[0][:4] == ["case", "setting", "psnr_foreground spline", "psnr_foreground network"]
    assert lines[2] == ["a", "2x2x2", "29.00", "30.00", "0.6000", "0.7500"]
    assert lines[6] == ["mean ± sd of 2", "2x2x2", "30.00 ± 1.41", "31.00 ± 1.41", "0.6200 ± 0.0283", "0.7750 ± 0.0354"]
    assert len(lines) == 2 + 4 + 2


def test_scores_of_a_part_say_so_wherever_they_stand(tmp_path):
    rows = [
        {"epoch": "1", "case": case, "setting": "2x2x2", **extent_of([64, 64, 32]), "psnr": "31", "baseline_psnr": "30"}
        for case in "ab"
    ]
    table = ScoreTable(tmp_path, "spline")
    table._append(rows)
    assert table.rows() == rows
    assert table.text(rows).count("| 2x2x2, middle 64x64x32 |") == 3 and "extent" not in table.text(rows)
    assert "-- 2x2x2, middle 64x64x32: spline" in table.summary(1, ["psnr"])
    scores = Scores(table, 1)
    assert scores.names == ["psnr"] and scores.counted("2x2x2") == "2 volumes (middle 64x64x32)"
    assert extent_of(None) == {} and extent_of([16], "slices") == {"extent": "middle 16 slices"}


def test_a_score_without_a_baseline_has_a_dash_there(tmp_path):
    rows = [{"epoch": "1", "case": "a", "setting": "low", "key": "0.5", "ssnr": "6", "baseline_ssnr": "5"}]
    header, _, row = ScoreTable(tmp_path, baseline="input").text(rows).splitlines()
    cells = dict(zip(*([c.strip() for c in line.strip("|").split("|")] for line in (header, row)), strict=True))
    assert cells["key input"] == "-" and cells["key network"] == "0.5000" and cells["ssnr input"] == "5.0000"


def test_files_do_not_depend_on_the_locale(tmp_path):
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")  # as libraries leave it behind; then text files are ASCII by default
        table = ScoreTable(tmp_path / "run", "spline", table=True)
        validate(table, 1, cases=[("Zoë", "2x2x2")] * 4)
        assert table.rows()[0]["case"] == "Zoë"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert "Zoë" in (tmp_path / "run" / "scores.md").read_text(encoding="utf-8")


def test_further_processes_write_nothing(table, monkeypatch):
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    validate(table, 1)
    assert not table.path.exists()


def test_mean_and_standard_deviation():
    assert mean_and_sd([31.204], 2) == "31.20"
    assert mean_and_sd([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"


def test_columns_of_the_table_line_up():
    lines = markdown_table(["a", "long name"], [["1", "2"], ["wide cell", "3"]]).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    assert set(lines[1]) == {"|", "-"}


def test_scores_that_are_not_there_are_left_out_of_the_mean():
    assert mean_and_sd([float("nan"), 2.0, 4.0], 1) == "3.0 ± 1.4"
    assert mean_and_sd([float("nan")], 1) == "-"


def test_the_summary_names_further_methods(tmp_path):
    table = ScoreTable(tmp_path, baseline="best input", others=["regression"])
    scores = {"psnr": "3", "baseline_psnr": "1", "regression_psnr": "2"}
    table._append([{"epoch": "1", "case": "a", "setting": "t1c", **scores}])
    text = table.summary(1, ["psnr"])
    assert "best input 1.0000, regression 2.0000, network 3.0000, gain +2.00" in text
