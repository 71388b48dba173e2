# SPDX-License-Identifier: Apache-2.0
"""A result says where it comes from, and nothing about the machine it was made on."""

import json
import os
import sys

import pytest

from common.io.hashes import INPUT, file_hash, fingerprint
from common.io.provenance import SUFFIX, command_line_overrides, describe, is_finished, without_folders, write


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--scale", "[2,2,2]"], {"scale": [2, 2, 2]}),
        (["--scale=2"], {"scale": 2}),
        (["--seed", "-1"], {"seed": -1}),
        (["--validate::dataset::crop", "48"], {"validate::dataset::crop": 48}),
        (["--network_def#num_layers", "10"], {"network_def#num_layers": 10}),
        (["--amp", "--seed", "3"], {"amp": True, "seed": 3}),
        (["--integers"], {"integers": True}),
        (["--run-name", "x"], {"run_name": "x"}),
        (["run", "training", "config.json"], {}),
        (["--dataset_dir", "Doe^Jane", "--output_dir=x", "--ckpt_dir", "y", "--device", "cpu", "--memory_gb", "2"], {}),
        (["--config_file", "['a.json']", "--bundle_root", "z"], {}),
        ([], {}),
    ],
)
def test_keys_of_the_command_line_are_kept(arguments, kept):
    assert command_line_overrides(arguments) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/jane/scans/a.nii.gz", "a.nii.gz"),
        ("/home/jane/scans/", "folder"),
        ("/home/[jane 'doe\"]/my scans", "my scans"),
        ("/home/jane doe, jane/{a}: b=[c/x,y.nii]", "x,y.nii]"),
        (r"C:\Users\Jane Doe\scan.nii", "scan.nii"),
        ("../a.nii", "a.nii"),
        ("['/home/jane doe/a.json','/home/jane/b.json']", ["a.json", "b.json"]),
        ("['/home/[jane] \"doe\", o/a.json', 7]", ["a.json", 7]),
        ("{'t1c': '/home/jane/a.nii'}", {"t1c": "a.nii"}),
        ("[/home/jane/a.json,/home/jane/b.json]", "b.json]"),
        ("t1n", "t1n"),
    ],
)
def test_folders_are_cut_to_their_last_part(text, kept):
    for arguments in (["--key", text], [f"--key={text}"]):
        assert command_line_overrides(arguments) == {"key": kept}


def test_an_existing_folder_has_no_name(tmp_path):
    (tmp_path / "Doe^Jane").mkdir()
    assert without_folders({"reference": tmp_path / "Doe^Jane", "mask": str(tmp_path / "Doe^Jane" / "m.nii")}) == {
        "reference": "folder",
        "mask": "m.nii",
    }


def test_a_result_names_bundle_version_weights_and_input(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text('{"name": "a bundle", "version": "1.2.3"}', encoding="utf-8")
    (tmp_path / "model.pt").write_bytes(b"weights")
    monkeypatch.setattr(sys, "argv", ["monai", "--dataset_dir", "/home/jane/scans", "--scale", "2"])
    (tmp_path / "mask.pt").write_bytes(b"other weights")
    settings = {"scale": [2, 2, 2], "mask": "/home/jane/masks/m.nii", "guides": ["/home/jane/t2.nii", "t1c"]}
    files = {"detector": str(tmp_path / "mask.pt"), "reference": None}
    facts = describe(str(tmp_path), str(tmp_path / "model.pt"), settings, files)
    path = write(tmp_path / "a_sr.nii.gz", facts, "/home/jane/scans/a.nii.gz")
    assert path.name == "a_sr.nii.gz" + SUFFIX
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {
        "bundle": "a bundle",
        "version": "1.2.3",
        "weights_sha256": file_hash(tmp_path / "model.pt"),
        "detector_sha256": file_hash(tmp_path / "mask.pt"),
        "reference_sha256": None,
        "settings": {"scale": [2, 2, 2], "mask": "m.nii", "guides": ["t2.nii", "t1c"]},
        "overrides": {"scale": 2},
        "not_for": "diagnosis",
        "input": "a.nii.gz",
    }
    assert "jane" not in text and str(tmp_path) not in text


def test_without_weights_there_is_no_hash(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text('{"name": "a", "version": "1"}', encoding="utf-8")
    assert describe(str(tmp_path), None)["weights_sha256"] is None
    assert describe(str(tmp_path), str(tmp_path / "gone.pt"))["weights_sha256"] is None


@pytest.fixture
def finished(tmp_path):
    """A result of a folder of slices with its sidecar, and a question whether it is finished under other facts."""
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"slice")
    result, facts = tmp_path / "result.nii.gz", {"settings": {"scale": [2, 2, 2]}, "detector_sha256": "a"}
    write(result, {**facts, INPUT: fingerprint([tmp_path / "series"])}, "series")
    result.write_bytes(b"image")
    return lambda **other: is_finished(result, {**facts, **other}, "series", [tmp_path / "series"])


def test_a_result_is_finished_under_the_same_settings_alone(finished):
    assert finished()
    assert not finished(settings={"scale": [3, 3, 3]})  # as a configuration file or a program may set it
    assert not finished(detector_sha256="b")


def test_a_result_is_not_finished_once_a_slice_of_its_series_was_overwritten(finished, tmp_path):
    later = (tmp_path / "result.nii.gz").stat().st_mtime + 10
    os.utime(tmp_path / "series" / "1.dcm", (later, later))
    assert not finished()


def test_a_slice_replaced_by_an_older_file_is_noticed(finished, tmp_path):
    before = (tmp_path / "series" / "1.dcm").stat().st_mtime - 1000
    (tmp_path / "series" / "1.dcm").write_bytes(b"other")  # as cp -p and rsync -a leave it
    for path in (tmp_path / "series" / "1.dcm", tmp_path / "series"):
        os.utime(path, (before, before))
    assert not finished()


def test_a_sidecar_without_a_fingerprint_tells_of_no_input(finished, tmp_path):
    sidecar = tmp_path / ("result.nii.gz" + SUFFIX)
    told = json.loads(sidecar.read_text(encoding="utf-8"))
    for known in (None, told.pop(INPUT)):
        sidecar.write_text(json.dumps({**told, INPUT: known} if known else told), encoding="utf-8")
        assert finished() == bool(known)


def test_a_folder_that_decides_about_results_is_told_by_its_content(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text('{"name": "a", "version": "1"}', encoding="utf-8")
    (tmp_path / "probe").mkdir()
    told = set()
    for content in ("a", "b"):
        (tmp_path / "probe" / "1.png").write_text(content, encoding="utf-8")
        told.add(describe(str(tmp_path), None, files={"reference": str(tmp_path / "probe")})["reference_sha256"])
    assert len(told) == 2 and None not in told


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "5", '{"overrides": 3}', "\0\1\2", ""])
def test_a_sidecar_of_any_content_is_at_worst_no_sidecar(tmp_path, text):
    (tmp_path / "a.nii").write_bytes(b"input")
    (tmp_path / "a_sr.nii.gz").write_bytes(b"result")
    (tmp_path / f"a_sr.nii.gz{SUFFIX}").write_text(text, encoding="utf-8")
    assert not is_finished(tmp_path / "a_sr.nii.gz", {"bundle": "b"}, "a.nii", [tmp_path / "a.nii"])
