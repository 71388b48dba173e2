# SPDX-License-Identifier: Apache-2.0
"""The bundles' keys as their cards tell them."""

import json

import pytest

from tools import bundles as listing
from tools import package as packing
from tools.package import ROOT, bundle_names

TOOL = listing


def test_all_bundles_are_listed(command, capsys):
    command()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == bundle_names()
    assert all(" MB)" in line for line in lines)


@pytest.mark.parametrize("name", bundle_names())
def test_the_card_tells_of_every_key_of_the_user_with_its_meaning(name):
    keys = {key.name: key for key in listing.keys_of(name)}
    assert all(key.meaning != "see the card" for key in keys.values())
    for config in ("train", "inference"):
        content = json.loads((ROOT / "bundles" / name / "configs" / f"{config}.json").read_text(encoding="utf-8"))
        own = list(content)[1 : list(content).index("bundle_root")]  # behind the imports
        assert own and not set(own) - set(keys), config


def test_keys_are_printed_with_defaults_and_meaning(command, capsys):
    command("rslm_denoise")
    text = capsys.readouterr().out
    assert text.startswith("rslm_denoise 0.")
    assert "--critic_steps 5 [train, evaluate]\n    critic's steps for one of the generator" in text
    assert "--test_levels" not in text or "[1, 3, 5, 7, 9] (evaluate)" in text
    assert "--memory_gb 4\n" in text  # the same in all


def test_a_key_of_two_defaults_is_printed_once_with_both(command, capsys):
    command("mri_sr3d")
    text = capsys.readouterr().out
    assert text.count("--output_dir ") == 1 and text.count("--test_scales ") == 1
    assert "[[2, 2, 2], [3, 3, 3]] (train)" in text and "[3, 3, 3]] (evaluate)" in text


def test_an_unknown_bundle_is_told_in_one_line(command):
    with pytest.raises(SystemExit, match="error: nothing: no such bundle, file or folder"):
        command("nothing")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("| `seed`, `sead` | 0 | a \\| b |\n", "the card tells of sead"),
        ("| `seed` | 0 | in training |\n| `seed` | 1 | in inference |\n", "the card has two rows for seed"),
    ],
)
def test_a_card_that_tells_of_an_unknown_key_or_twice_of_one_is_refused(rows, reason, tmp_path, monkeypatch):
    folder = tmp_path / "bundles" / "b"
    for name in ("train", "inference", "evaluate"):
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "configs" / f"{name}.json").write_text('{"seed": 0}', encoding="utf-8")
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text(
        f"## Keys\n\n| key | default | meaning |\n|---|---|---|\n{rows}", encoding="utf-8"
    )
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=reason):
        listing.keys_of("b")
