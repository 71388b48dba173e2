# SPDX-License-Identifier: Apache-2.0
"""The page of results: made from stored numbers, honest about who is ahead."""

from __future__ import annotations

import shutil

import pytest

from tools import results
from tools.benchmark.scoreboard import NETWORK, Scoreboard

TOOL = results
HASH = "0" * 64


def stored(folder, bundle, lower, scores, weights=HASH):
    """A run with two settings; ``scores`` gives each method's numbers of two cases at each."""
    methods = {key: {"name": {"base": "simple way", "rival": "BM9D"}.get(key, key)} for key in scores}
    facts = {"bundle": bundle, "data": "two scans", "keys": {"levels": [1]}, "seed": 0, "weights": weights}
    facts |= {"baseline": "base", "scores": ["score", "other"], "lower": lower, "caption": "whole volumes"}
    facts |= {"methods": methods, "date": "2030-01-02", "machine": "a machine", "versions": {"torch": "9"}}
    board = Scoreboard(folder / f"{bundle}-two", facts)
    for key, settings in scores.items():
        for setting, numbers in settings.items():
            for case, number in enumerate(numbers):
                board.add(key, 10 * list(settings).index(setting) + case, f"c{case}", setting, 2, {"score": number})
    return board


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    kept = tmp_path / "docs" / "results"
    ours = {
        "base": {"a": [1, 2], "b": [1, 2]},
        "rival": {"a": [5, 6], "b": [1, 1]},
        NETWORK: {"a": [3, 4], "b": [7, 8]},
    }
    stored(kept, "rslm_denoise", False, ours)
    stored(kept, "us_despeckle", True, {"base": {"low": [2, 2]}, NETWORK: {"low": [1, 1]}})
    (kept / "papers.csv").write_text(
        "bundle,source,setting,method,score,value,differs\nrslm_denoise,their table 1,a slice,THEIRS,PSNR,44 dB,all\n"
    )
    head = f"# Title\n\n{results.START}\n\nold\n\n{results.END}\n\nrest\n"
    (tmp_path / "README.md").write_text(head, encoding="utf-8")
    return kept


def test_a_rival_that_is_ahead_is_said_to_be(folder):
    text = results.page(folder)
    assert "At a the network is behind BM9D (score 2.0000 behind BM9D)." in text
    assert "At b the network is ahead of all, of simple way by score 6.0000." in text
    assert "At low the network is ahead of all, of simple way by score 1.0000." in text  # less is better


def test_the_page_names_command_machine_paper_and_old_weights(folder, tmp_path):
    text = results.page(folder)
    assert "`python -m tools.benchmark quality rslm_denoise --dataset_dir FOLDER --keys" in text
    assert "2030-01-02, a machine, torch 9" in text and "THEIRS" in text and "44 dB" in text
    assert text.count("earlier weights than those shipped now") == 2
    assert text.count("No run is stored yet.") == 3
    models = tmp_path / "bundles" / "us_despeckle" / "models"
    models.mkdir(parents=True)
    (models / "model.pt").write_bytes(b"weights")
    ours = {"base": {"low": [2]}, NETWORK: {"low": [1]}}
    shutil.rmtree(folder)
    stored(folder, "us_despeckle", True, ours, results.file_hash(models / "model.pt"))
    assert "earlier weights" not in results.page(folder)


def test_the_summary_has_the_mean_over_settings_and_the_best_rival(folder):
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in results.summary_table(folder).splitlines()][2:]
    assert rows[0] == ["`rslm_denoise`", "two scans", "score", "simple way 1.5000", "BM9D 3.2500", "5.5000"]
    assert rows[1][2:] == ["score (less is better)", "simple way 2.0000", "-", "1.0000"]


def test_the_summary_leaves_sample_data_out_beside_real_scans(folder):
    made = stored(folder / "made", "rslm_denoise", False, {"base": {"a": [9]}, NETWORK: {"a": [9]}})
    Scoreboard(folder / "rslm_denoise-sample", {**made.facts, "data": "sample data"}).add(
        NETWORK, 0, "c0", "a", 2, {"score": 9}
    )
    assert "sample data" not in results.summary_table(folder) and "sample data" in results.page(folder)


def test_tables_of_experiments_stand_below_their_bundle(folder):
    (folder / "experiments").mkdir()
    (folder / "experiments" / "us_despeckle-table1-small.md").write_text("`command`\n\nTheir table 1\n\n| row |\n")
    after = results.page(folder).split("## us_despeckle\n")[1]
    assert "### Experiment table1\n\n`command`\n\nTheir table 1" in after


def test_files_are_written_and_checked(command, folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"error: results\.md, README\.md: not what python -m tools\.results makes"):
        command("--check", "true")
    command()
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# Title\n") and readme.endswith("\nrest\n") and "old" not in readme and "BM9D" in readme
    assert (folder.with_suffix(".md")).read_text(encoding="utf-8") == results.page(folder)
    capsys.readouterr()
    command("--check", "true")
    assert "nothing has changed" in capsys.readouterr().out


def test_the_collections_own_page_is_up_to_date(command):
    command("--check", "true")
