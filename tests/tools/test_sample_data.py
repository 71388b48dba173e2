# SPDX-License-Identifier: Apache-2.0
"""The command line that makes sample data."""

from __future__ import annotations

import sys

import nibabel as nib
import pytest

from common.data.sample_data.anatomy import load_template
from tools import sample_data

TOOL = sample_data


def test_brain_writes_the_cases_asked_for(command, tmp_path, capsys):
    out = tmp_path / "brains"
    command("brain", "--out", out, "--subjects", 2, "--shape", "[16,18,20]", "--seed", 5)
    assert capsys.readouterr().out == f"2 cases in {out}\n"
    assert [f.name for f in sorted(out.iterdir())] == ["sample-000", "sample-001"]
    assert nib.load(out / "sample-001" / "sample-001-t2f.nii.gz").shape == (16, 18, 20)


def test_brain_resumes(command, tmp_path):
    words = "brain", "--out", tmp_path, "--shape", "[16,18,20]", "--subjects"
    command(*words, 1)
    stamp = (tmp_path / "sample-000" / "sample-000-t1n.nii.gz").stat().st_mtime_ns
    command(*words, 2)
    assert (tmp_path / "sample-000" / "sample-000-t1n.nii.gz").stat().st_mtime_ns == stamp
    assert (tmp_path / "sample-001").is_dir()


def test_ultrasound_writes_two_probes(command, tmp_path, capsys):
    command("ultrasound", "--out", tmp_path, "--frames", 2, "--size", 96, "--fan")
    assert capsys.readouterr().out == f"4 frames in {tmp_path}\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["high", "low", "truth"]
    with pytest.raises(SystemExit, match="error: frames must be a whole number"):
        command("ultrasound", "--out", tmp_path, "--frames", "few")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shape", "[16,18]"), "three sizes of at least 16 voxels"),
        (("--shape", "large"), "three sizes of at least 16 voxels"),
        (("--subjects", "many"), "subjects must be a whole number"),
        (("--seed", "-3"), "seed must be a whole number"),
    ],
)
def test_wrong_values_are_told_in_one_line(command, tmp_path, words, message):
    with pytest.raises(SystemExit) as caught:
        command("brain", "--out", tmp_path, *words)
    assert str(caught.value).startswith("error: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_nilearn_is_told_in_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    load_template.cache_clear()
    with pytest.raises(SystemExit, match=r"^error: .*pip install nilearn"):
        command("brain", "--out", tmp_path, "--subjects", 1)


def test_help_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command("brain", "--help")
    text = capsys.readouterr()
    assert caught.value.code == 0
    assert all(
        option in text.out + text.err for option in ("OUT", "--subjects", "--shape", "--seed", "not for diagnosis")
    )
