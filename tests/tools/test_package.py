# SPDX-License-Identifier: Apache-2.0
"""Packed bundles: the same bytes every time, nothing of a run in them, and at work without this repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import package as packing

TOOL = packing
NAMES = packing.bundle_names()


@pytest.fixture
def little(tmp_path, monkeypatch):
    """A repository with one small bundle that was trained in."""
    files = {
        **{"bundles/b/configs/metadata.json": '{"version": "1.2.0"}', "bundles/b/models/model.pt": "weights"},
        **{
            "bundles/b/b_lib/networks.py": "net",
            "bundles/b/b_lib/__pycache__/networks.pyc": "",
            "bundles/b/LICENSE": "",
        },
        **{"bundles/b/runs/short-1/best.pt": "", "bundles/b/eval/a.nii.gz": "", "bundles/b/models/model.ts": ""},
        **{"bundles/b/models/model.pt.partial": "half", "bundles/b/models/targets/.t2w.pt.partial": "half"},
        **{"bundles/b/models/model.pt.replaced": "", "bundles/b/dist/b.zip": "", "bundles/b/mlruns/0/meta.yaml": ""},
        **{"bundles/b/models/targets/t2w.pt": "other", "bundles/b/.hidden": "", "common/__init__.py": "parts"},
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    return tmp_path


def test_a_zip_holds_one_folder_without_what_runs_wrote(command, little, capsys):
    command("b", "--out", little / "dist")
    with zipfile.ZipFile(little / "dist" / "b.zip") as archive:
        names = archive.namelist()
        assert archive.read("b/common/__init__.py") == b"parts"
    assert names == [
        *["b/LICENSE", "b/b_lib/networks.py", "b/common/__init__.py", "b/configs/metadata.json"],
        *["b/models/model.pt", "b/models/targets/t2w.pt"],
    ]
    assert "6 files" in capsys.readouterr().out


def test_own_weights_take_the_place_of_the_shipped_ones_with_what_belongs_to_them(command, little):
    (little / "bundles" / "b" / "models" / "reference.json").write_text("shipped", encoding="utf-8")
    run = little / "run"
    run.mkdir()
    for name in ("best.pt", "reference.json", "scores.csv"):
        (run / name).write_text(f"own {name}", encoding="utf-8")
    command("b", "--out", little / "dist", "--weights", run / "best.pt")
    with zipfile.ZipFile(little / "dist" / "b.zip") as archive:
        assert archive.read("b/models/model.pt") == b"own best.pt"
        assert archive.read("b/models/reference.json") == b"own reference.json"
        assert archive.read("b/models/targets/t2w.pt") == b"other" and "b/models/scores.csv" not in archive.namelist()


def test_the_same_files_give_the_same_bytes(command, little):
    command("b", "--out", little / "one")
    os.utime(little / "common" / "__init__.py", (0, 0))
    command("b", "--out", little / "two")
    assert (little / "one" / "b.zip").read_bytes() == (little / "two" / "b.zip").read_bytes()


def test_the_entry_for_the_zoo_has_the_zip_s_checksum(command, little):
    (little / "dist").mkdir()
    (little / "dist" / "model_info.json").write_text('{"other_v1.0.0": {}}', encoding="utf-8")
    command("b", "--out", little / "dist", "--url", "https://example.org/zips/")
    entries = json.loads((little / "dist" / "model_info.json").read_text(encoding="utf-8"))
    checksum = hashlib.sha1((little / "dist" / "b.zip").read_bytes()).hexdigest()
    wanted = {"checksum": checksum, "source": "https://example.org/zips/b.zip"}
    assert entries == {"b_v1.2.0": wanted, "other_v1.0.0": {}}


@pytest.mark.parametrize(
    ("urls", "kept"),
    [
        ((None, None), []),
        (("https://example.org/zips", "https://example.org/zips/"), []),
        ((None, "https://example.org/zips"), []),  # the file of 1.2.0 is no more
        (("https://example.org/1.2", "https://example.org/1.3"), ["b_v1.2.0"]),
        (("https://example.org/1.2", None), ["b_v1.2.0"]),
    ],
)
def test_a_new_version_in_the_same_place_takes_the_earlier_one_s_entry_away(command, little, urls, kept):
    for version, url in zip(("1.2.0", "1.3.0"), urls, strict=True):
        (little / "bundles/b/configs/metadata.json").write_text(f'{{"version": "{version}"}}', encoding="utf-8")
        command("b", "--out", little / "dist", *(("--url", url) if url else ()))
    entries = json.loads((little / "dist" / "model_info.json").read_text(encoding="utf-8"))
    checksum = hashlib.sha1((little / "dist" / "b.zip").read_bytes()).hexdigest()
    assert list(entries) == [*kept, "b_v1.3.0"] and entries["b_v1.3.0"]["checksum"] == checksum


def test_large_files_are_listed_with_their_hash(command, little, monkeypatch):
    monkeypatch.setattr(packing, "LARGE", 6)
    (little / "bundles/b/LICENSE").write_text("short", encoding="utf-8")
    (little / "bundles/b/configs/metadata.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"error: models/model\.pt: larger than 25 MB; say with --url"):
        command("b", "--out", little / "dist")
    (little / "bundles/b/configs/metadata.json").write_text('{"version":"1"}', encoding="utf-8")
    command("b", "--out", little / "dist", "--url", "https://example.org/b")
    with zipfile.ZipFile(little / "dist" / "b.zip") as archive:
        text = archive.read("b/large_files.yml").decode()
    assert text.startswith("large_files:\n") and '  - path: "models/model.pt"\n' in text
    assert f'    hash_val: "{hashlib.sha256(b"weights").hexdigest()}"\n    hash_type: "sha256"\n' in text
    assert '    url: "https://example.org/b/models/model.pt"\n' in text


@pytest.mark.parametrize(
    ("words", "message"), [(("c",), "error: no bundle is called c; there are b"), (("b",), "error: b has no weights")]
)
def test_what_cannot_be_packed_is_told_in_one_line(command, little, words, message):
    (little / "bundles/b/models/model.pt").unlink()
    with pytest.raises(SystemExit) as caught:
        command(*words)
    assert str(caught.value).startswith(message)


TWO_IN_ONE_PROCESS = """
import sys
from monai.bundle import download, load, load_bundle_config
folder, names = sys.argv[1], sys.argv[2:]
for name in names:
    assert load_bundle_config(f"{folder}/{name}.zip", "inference.json")["network_def"]
    download(name=name, url=f"file://{folder}/{name}.zip", bundle_dir=folder + "/loaded", progress=False)
    sys.path.insert(0, f"{folder}/loaded/{name}")
kinds = {type(load(name=name, bundle_dir=folder + "/loaded", source="github")).__module__ for name in names}
assert kinds == {f"{name}_lib.networks" for name in names}, kinds
import common
assert "loaded" in common.__file__
"""


@pytest.mark.package
def test_monai_downloads_and_loads_all_zips_in_one_process(command, tmp_path):
    for name in NAMES:
        command(name, "--out", tmp_path)
    words = [sys.executable, "-c", TWO_IN_ONE_PROCESS, str(tmp_path), *NAMES]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.package
@pytest.mark.parametrize("name", NAMES)
def test_an_unzipped_bundle_uses_its_own_copy_of_everything(command, tmp_path, name):
    command(name, "--out", tmp_path)
    with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
        archive.extractall(tmp_path)
    program = (
        "import os; from monai.bundle import ConfigParser; p = ConfigParser(); p.read_config('configs/train.json');"
        f" root = p.get_parsed_content('bundle_root'); import common, {name}_lib as lib;"
        " print(root, *(os.path.relpath(os.path.dirname(m.__file__)) for m in (common, lib)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=120, cwd=tmp_path / name
    )
    assert done.stdout.split()[-3:] == [".", "common", f"{name}_lib"], done.stderr[-2000:]
    assert not Path(tmp_path / name / "runs").exists()


# In place of the hub's client: writes down what it would create, upload and tag.
RECORDING_HUB = """
import json
from pathlib import Path

class HfApi:
    def __init__(self, token=None):
        pass

    def note(self, *call):
        with open("calls.jsonl", "a", encoding="utf-8") as file:
            print(json.dumps(call), file=file)

    def create_repo(self, repo_id, private, exist_ok):
        self.note("create", repo_id, private)

    def upload_folder(self, repo_id, folder_path):
        folder = Path(folder_path)
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        self.note("upload", repo_id, files)
        return "https://huggingface.co/" + repo_id

    def create_tag(self, repo_id, tag, exist_ok):
        self.note("tag", repo_id, tag)
"""


@pytest.mark.package
@pytest.mark.parametrize("name", NAMES)
def test_what_the_how_to_pushes_to_the_hub_is_the_package(command, tmp_path, name):
    command(name, "--out", tmp_path / "dist")
    with zipfile.ZipFile(tmp_path / "dist" / f"{name}.zip") as archive:
        archive.extractall(tmp_path / "hub")
        packed = {str(Path(path).relative_to(name)) for path in archive.namelist()}
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "huggingface_hub.py").write_text(RECORDING_HUB, encoding="utf-8")
    page = (Path(__file__).parents[2] / "docs" / "sharing.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if " push_to_hf_hub " in line]
    python, *words = line.replace("mri_sr3d", name).split()
    assert python == "python"
    # a machine without a UTF-8 locale: MONAI reads the card in the locale's encoding
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(tmp_path / "client")}
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        cwd=tmp_path,
        env=os.environ | plain,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "calls.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = {kind: rest for kind, *rest in map(json.loads, lines)}
    repository, files = kinds["upload"]
    assert repository == f"USER/{name}" and kinds["create"] == [repository, True]
    assert set(files) == packed | {"README.md"}  # the card, which MONAI puts where the hub shows it
    assert {"common/__init__.py", "models/model.pt", "configs/train.json"} <= set(files)
    assert kinds["tag"] == [repository, "0.2.0"]
    card = (tmp_path / "hub" / name / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\ntags:\n") and "license: apache-2.0" in card
