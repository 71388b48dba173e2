# SPDX-License-Identifier: Apache-2.0
"""Tables of the papers: every described row can be resolved, and rows are trained, evaluated, resumed and compared."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from tools import experiments as tool
from tools.package import bundle_folder, bundle_names

TOOL = tool
DESCRIBED = [
    (name, table)
    for name in bundle_names()
    if (bundle_folder(name) / "docs" / "experiments.json").is_file()
    for table in tool.tables_of(name)
]
TABLE = {
    "title": "Two depths",
    "metrics": ["psnr_foreground"],
    "evaluation": {"test_scales": [[2, 2, 2]]},
    "small": {"filters": 2, "epochs": 1, "patches_per_volume": 4, "batch_size": 2, "patch_size": 9, "amp": False},
    "overlays": ["paper/base"],
    "rows": {
        "shallow": {"keys": {"num_layers": 2}, "paper": {"2x2x2": 30.0}},
        "deep": {"keys": {"num_layers": 3}, "paper": {"": "better"}},
    },
}


@pytest.mark.parametrize(("name", "table"), DESCRIBED)
def test_every_overlay_of_a_table_is_there(name, table):
    content = tool.tables_of(name)[table]
    configs = bundle_folder(name) / "configs"
    overlays = [*content.get("overlays", []), *(o for row in content["rows"].values() for o in row.get("overlays", []))]
    wanted = [*content.get("train", ["train"]), *content.get("evaluate", ["evaluate"]), *overlays]
    assert not [each for each in wanted if not (configs / f"{each}.json").is_file()]
    assert content["title"] and content["metrics"]


@pytest.fixture
def scans(tmp_path):
    for number in range(3):
        folder = tmp_path / "scans" / f"s{number}"
        folder.mkdir(parents=True)
        volume = np.random.default_rng(number).random((24, 24, 24), np.float32).cumsum(0).cumsum(1)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"s{number}_T1w.nii.gz")
    return tmp_path / "scans"


def test_rows_are_trained_alike_compared_and_not_done_twice(command, tmp_path, scans, monkeypatch, capsys):
    monkeypatch.setattr(tool, "tables_of", lambda name: {"depth": TABLE})
    words = ["mri_sr3d", "depth", "--dataset_dir", str(scans), "--out", str(tmp_path / "out")]
    command(*words, "--rows", "shallow")
    command(*words)
    said = capsys.readouterr().out
    assert "shallow: done before" in said and "deep: done before" not in said
    assert "`python -m tools.experiments mri_sr3d depth --budget small --dataset_dir FOLDER" in said
    with (tmp_path / "out" / "mri_sr3d-depth-small.csv").open(newline="", encoding="utf-8") as file:
        shallow, deep = csv.DictReader(file)
    assert (shallow["row"], shallow["paper"], deep["row"], deep["paper"]) == ("shallow", "30.0", "deep", "better")
    assert (shallow["cases"], deep["cases"]) == ("1", "1")  # what was held out, not the folder
    assert int(shallow["parameters"]) < int(deep["parameters"])
    facts = [
        json.loads((tmp_path / "out" / "mri_sr3d-depth-small" / row / "row.json").read_text()) for row in TABLE["rows"]
    ]
    assert facts[0]["steps"] == facts[1]["steps"] == 4
    told = (tmp_path / "out" / "mri_sr3d-depth-small.md").read_text(encoding="utf-8")
    assert "Generator steps of each row: 4. The last weights stand for it." in told
    assert all(float(line["GB"]) > 0 and float(line["psnr_foreground"].split()[0]) > 0 for line in (shallow, deep))
    with pytest.raises(SystemExit, match="made with other settings"):
        command(*words, "--seed", "1")


def test_keys_and_weights_of_all_rows(command, tmp_path, monkeypatch, capsys):
    """What a user's own data need goes to training and evaluation alike; the small budget's numbers rule."""
    told = []
    monkeypatch.setattr(tool, "tables_of", lambda name: {"depth": {**TABLE, "weights": "best"}})
    monkeypatch.setattr(tool, "_command", lambda name, configs, keys, folder: told.append(keys) or {})
    monkeypatch.setattr(tool, "load_flat", lambda path: {})
    monkeypatch.setattr(tool, "report", lambda stem, table: tmp_path / "none.md")
    (tmp_path / "none.md").write_text("", encoding="utf-8")
    own = {"sequence": "T1w", "subjects_table": "people.csv"}
    command("mri_sr3d", "depth", "--rows", "deep", "--keys", str(own), "--weights", "last", "--out", str(tmp_path))
    assert len(told) == 2 and all(own.items() <= keys.items() and keys["num_layers"] == 3 for keys in told)
    assert told[1]["weights"].endswith("last.pt")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["unknown"], "no bundle is called unknown"),
        (["mri_sr3d", "table9"], "no table table9"),
        (["mri_sr3d", "table1", "--rows", "nothing"], "no row nothing"),
        (["mri_sr3d", "table1", "--budget", "large"], "budget must be small or paper"),
        (["mri_sr3d", "table1", "--weights", "middle"], "weights must be last or best"),
        (["mri_sr3d", "table1", "--keys", "[1]"], "keys must be like"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(command, words, reason):
    with pytest.raises(SystemExit, match=reason):
        command(*words)
