# SPDX-License-Identifier: Apache-2.0
"""A bundle beside its rivals: every bundle on small cases, with its own weights; stopped, resumed and failing runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scipy.stats import wilcoxon

import us_despeckle_lib
from common.data.sample_data import write_brain_cases, write_probe_frames
from tools import benchmark
from tools.benchmark.scoreboard import NETWORK, Scoreboard, across, significance
from tools.rivals import BUNDLES, Rival, rivals_of

TOOL = benchmark
BRAINS = {"mri_sr3d": "t1c", "rslm_denoise": "t1c", "lesion_msgan": "t1c"}
KEYS = {
    "mri_sr3d": {"test_scales": [[1, 1, 3]]},
    "rslm_denoise": {"test_levels": [5]},
    "us_despeckle": {},
    "brasyn_synthesis": {"views": 1},
    "lesion_msgan": {},
}
CHEAP = {
    "mri_sr3d": ["linear", "lanczos", "tv", "authors", "eclare"],
    "rslm_denoise": ["gaussian", "fondue"],
    "us_despeckle": ["median", "dpad", "sbf"],
    "brasyn_synthesis": ["regression", "brats"],
    "lesion_msgan": ["bilinear", "lanczos", "srresnet"],
}
ABSENT = {"authors", "fondue", "sbf", "brats", "srresnet"}


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brains")
    write_brain_cases(folder, 1, (36, 40, 24), progress=False)
    return folder


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    write_probe_frames(folder, 4, 96, progress=False)
    return folder


def lines(stem):
    with stem.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", BUNDLES)
def test_every_bundle_is_scored_beside_its_rivals(name, command, brains, probes, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no docker, no run-eclare
    keys = KEYS[name] | ({"sequence": BRAINS[name]} if name in BRAINS else {})
    data = probes if name == "us_despeckle" else brains
    stem = tmp_path / "kept" / "numbers"
    words = "--keys", keys, "--rivals", json.dumps(CHEAP[name]), "--out", stem
    command("quality", name, "--dataset_dir", data, *words)
    module, rows, facts = rivals_of(name), lines(stem), json.loads(stem.with_suffix(".json").read_text("utf-8"))
    here = [key for key in CHEAP[name] if key not in ABSENT | {"eclare"}] + [facts["baseline"], NETWORK]
    by_method = {key: [row for row in rows if row["method"] == key] for key in here}
    assert {row["method"] for row in rows} == set(here)
    cases = [(row["case"], row["setting"]) for row in by_method[NETWORK]]
    assert cases
    headline = module.SCORES[0]
    for key in here:
        assert [(row["case"], row["setting"]) for row in by_method[key]] == cases
        assert all(np.isfinite(float(row[headline])) for row in by_method[key])
    assert all(float(row["seconds"]) > 0 for row in by_method[NETWORK])
    if name == "us_despeckle":
        assert all(float(row["kl_tissue"]) > 0 and row["ssnr"] for row in rows)
    assert facts["methods"][NETWORK]["work"] > 100
    text, out = stem.with_suffix(".md").read_text("utf-8"), capsys.readouterr().out
    assert text in out
    assert out.count(": patches of tissue [[") == (len(cases) if name == "us_despeckle" else 0)
    for key in set(CHEAP[name]) - set(here):
        assert f"- {facts['methods'][key]['name']}: left out, " in text
    # the same command again has nothing to do
    before = stem.with_suffix(".csv").read_bytes()
    monkeypatch.setattr(benchmark.quality.BundleEvaluation, "predict", lambda *_: pytest.fail("done already"))
    command("quality", name, "--dataset_dir", data, *words)
    assert stem.with_suffix(".csv").read_bytes() == before


def test_the_networks_scores_are_those_of_the_bundles_evaluation(command, probes, tmp_path):
    command("quality", "us_despeckle", "--dataset_dir", probes, "--rivals", "none", "--out", tmp_path / "numbers")
    configs = Path(us_despeckle_lib.__file__).parents[1] / "configs"
    files = [str(configs / f"{name}.json") for name in ("train", "evaluate")]
    keys = {"dataset_dir": str(probes), "output_dir": str(tmp_path / "eval"), "run_name": "own"}
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **keys)
    workflow.initialize()
    workflow.run()
    with (tmp_path / "eval" / "own" / "scores.csv").open(newline="", encoding="utf-8") as file:
        own = {row["case"]: row for row in csv.DictReader(file)}
    rows = lines(tmp_path / "numbers")
    ours = [row for row in rows if row["method"] == NETWORK]
    assert {row["case"] for row in ours} == set(own)
    for prefix, method in (("", NETWORK), ("baseline_", "input")):
        for row in (row for row in rows if row["method"] == method):
            for score in ("kl_reference", "ssnr", "ssim_input"):
                assert float(row[score]) == pytest.approx(float(own[row["case"]][prefix + score]), rel=1e-4, abs=1e-4)


def test_a_failing_rival_is_told_and_the_others_go_on(command, probes, tmp_path, monkeypatch, capsys):
    def broken(item):
        raise RuntimeError("no memory left")

    def empty(item):
        return item["image"] * float("nan")

    made = [
        Rival("input", "input", lambda item: item["image"], baseline=True),
        Rival("broken", "broken filter", broken),
        Rival("empty", "empty filter", empty),
        Rival("half", "half", lambda item: item["image"] / 2, work=1),
    ]
    monkeypatch.setattr(rivals_of("us_despeckle"), "rivals", lambda evaluation, given: made)
    command("quality", "us_despeckle", "--dataset_dir", probes, "--out", tmp_path / "numbers")
    assert {row["method"] for row in lines(tmp_path / "numbers")} == {"input", "half", NETWORK}
    text = (tmp_path / "numbers.md").read_text("utf-8")
    assert "- broken filter: left out, failed at low (no memory left)." in text
    assert "- empty filter: left out, failed at low (" in text
    # the next run tries again
    monkeypatch.setattr(rivals_of("us_despeckle"), "rivals", lambda evaluation, given: [*made[:1], made[3]])
    command("quality", "us_despeckle", "--dataset_dir", probes, "--out", tmp_path / "numbers")
    assert "broken filter" not in (tmp_path / "numbers.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("mri_sr4d",), "bundle 'mri_sr4d' is unknown; choose one of mri_sr3d, "),
        (("us_despeckle", "--rivals", "[medain]"), "no rival medain; choose of input, median, "),
        (("us_despeckle", "--keys", "fast"), "keys must be like {'name': value}"),
    ],
)
def test_wrong_words_are_told_in_one_line(command, probes, words, told):
    with pytest.raises(SystemExit) as caught:
        command("quality", *words, "--dataset_dir", probes)
    assert str(caught.value).startswith("error: ") and told in str(caught.value)


FACTS = {"bundle": "rslm_denoise", "data": "d", "keys": {}, "seed": 0, "weights": "a", "scores": ["psnr"]}
FACTS |= {"methods": {"noisy": {"name": "noisy input"}, NETWORK: {"name": NETWORK, "work": 12345}}, "lower": False}


def board_of(stem, ours, other):
    board = Scoreboard(stem, FACTS)
    for i, (a, b) in enumerate(zip(ours, other, strict=True)):
        board.add(NETWORK, i, f"case-{i}", "3%", 1.5, {"psnr": a})
        board.add("noisy", i, f"case-{i}", "3%", None, {"psnr": b})
    return board


def test_numbers_of_other_weights_or_data_are_not_mixed(tmp_path):
    board_of(tmp_path / "b", [30.0], [20.0])
    kept = Scoreboard(tmp_path / "b", FACTS)
    assert kept.has(NETWORK, 0) and kept.has("noisy", 0) and not kept.has(NETWORK, 1)
    newer = Scoreboard(tmp_path / "b", {**FACTS, "weights": "b"})
    assert not newer.has(NETWORK, 0) and newer.has("noisy", 0)
    with pytest.raises(ValueError, match="another data"):
        Scoreboard(tmp_path / "b", {**FACTS, "data": "e"})


def test_significance_is_scipys_from_six_cases_on(tmp_path):
    ours, other = [31.0, 32.5, 30.2, 33.0, 31.7, 30.9], [30.0, 31.0, 29.9, 31.0, 29.6, 30.1]
    names = [f"case-{i}" for i in range(6)]
    p = significance(dict(zip(names, ours, strict=True)), dict(zip(names, other, strict=True)))
    assert p == pytest.approx(wilcoxon(ours, other).pvalue) == 2 / 2**6
    assert significance({n: 1.0 for n in names[:5]}, {n: 2.0 for n in names}) is None
    text = board_of(tmp_path / "six", ours, other).table(str)
    assert "| p " in text and "0.031" in text and "31.55 ± 1.06" in text and "12 345" in text
    assert "| p " not in board_of(tmp_path / "five", ours[:5], other[:5]).table(str)


def test_cases_of_one_subject_count_once_and_empty_scores_not_at_all():
    rows = [
        {"case": "a_1", "x": "1"},
        {"case": "a_2", "x": "3"},
        {"case": "b_1", "x": "5"},
        {"case": "b_2", "x": "nan"},
        {"case": "c_1"},
    ]
    assert across(rows, "x", lambda case: case[0]) == {"a": 2, "b": 5}


@pytest.mark.parametrize("case", ["scan_2-t1c_79", "scan_2-t1c_79_kspace"])
def test_slices_of_a_volume_are_one_case(case):
    assert rivals_of("lesion_msgan").subject(case) == "scan_2-t1c"


def test_a_rival_runs_or_says_why_not():
    with pytest.raises(ValueError, match="either a function or the reason"):
        Rival("a", "a")
    with pytest.raises(ValueError, match="either a function or the reason"):
        Rival("a", "a", torch.clone, "not here")


def test_scores_of_a_part_say_so(command, brains, tmp_path):
    stem = tmp_path / "part"
    keys = {"crop": [16, 16, 8], "test_levels": [5], "sequence": "t1c"}
    command("quality", "rslm_denoise", "--dataset_dir", brains, "--rivals", "none", "--keys", keys, "--out", stem)
    facts = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    assert "the middle 16 x 16 x 8 of the foreground" in facts["caption"]
    assert "whole volumes" not in facts["caption"]


def test_what_a_container_made_elsewhere_is_scored_on_the_same_cases(command, brains, tmp_path):
    case = next(brains.iterdir()).name
    made = tmp_path / "made"
    made.mkdir()
    truth = nib.load(brains / case / f"{case}-t1c.nii.gz")
    # in other units and with other axes: the truth, or the truth in a mirror
    for name, voxels in (("same", truth.get_fdata()), ("mirrored", truth.get_fdata()[::-1])):
        image = nib.Nifti1Image((3.5 * voxels).astype(np.float32), truth.affine)
        nib.save(image.as_reoriented([[1, -1], [0, 1], [2, 1]]), made / f"{case}-t1c.nii.gz")
        words = "--keys", KEYS["brasyn_synthesis"], "--rivals", '["brats"]', "--out", tmp_path / name
        command("quality", "brasyn_synthesis", "--dataset_dir", brains, *words, "--rival_weights", {"brats": str(made)})
    same, mirrored = (
        next(row for row in lines(tmp_path / name) if row["method"] == "brats") for name in ("same", "mirrored")
    )
    assert float(same["ssim_healthy"]) > 0.999 and float(same["psnr_tumour"]) > 60
    assert float(mirrored["ssim_healthy"]) < 0.9
    text = (tmp_path / "same.md").read_text("utf-8")
    assert "| BraTS 2023 winner's container (brats) |" in text and "left out" not in text
