# SPDX-License-Identifier: Apache-2.0
"""A zip is checked alone, with the packages that it brings."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

import common
from tools import package as packing
from tools import verify as verifying
from tools.verify import files

for module in ("onnxruntime", "onnxscript", "jsonschema"):
    pytest.importorskip(module)

SLOW = ("properties", "shapes", "inference", "TorchScript", "torch.export", "ONNX")


@pytest.fixture
def root(small_denoiser):
    """A repository of one bundle and the shared package, which its zip takes along."""
    root = small_denoiser.parents[1]
    shutil.copytree(Path(common.__file__).parent, root / "common", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def zipped(root):
    return packing.package("rslm_denoise", str(root / "dist"))


def test_a_sound_zip_passes(root, verify):
    status, lines = verify(zipped(root))
    assert lines[-1] == "rslm_denoise: all checks passed" and status == 0
    assert len(lines) == len(verifying.CHECKS) + 1 and not any(line.startswith("FAIL") for line in lines)


def _no_common(common):
    shutil.rmtree(common)
    common.mkdir()


def _syntax(common):
    (common / "sample_data" / "brain.py").write_text("def broken(:", encoding="utf-8")


def _other(common):
    with (common / "weights.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef load_into(*_):\n    raise OSError('of the zip')\n")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            _no_common,
            {"layout": "common/__init__.py is missing", "imports": "common is not the zip's own", "weights": None},
        ),
        (_syntax, {"layout": None, "imports": "SyntaxError: invalid syntax (brain.py", "weights": "brain.py"}),
        (_other, {"layout": None, "imports": None, "weights": "OSError: of the zip"}),
    ],
)
def test_a_zip_is_checked_with_its_own_packages(root, spoil, told, verify, monkeypatch):
    spoil(root / "common")
    shorter = f"import tools.verify\nfor title in {SLOW}:\n    del tools.verify.CHECKS[title]\nsys.exit("
    monkeypatch.setattr(verifying, "CHILD", verifying.CHILD.replace("sys.exit(", shorter))
    status, lines = verify(zipped(root))
    report = {line[5:].split(":")[0]: line for line in lines[:-1]}
    for title, reason in {**told, "metadata": None}.items():
        assert report[title] == f"ok   {title}" if reason is None else reason in report[title]
    assert lines[-1] == "rslm_denoise: not fit to be shared" and status == 1


@pytest.mark.parametrize("missing", ["common/__init__.py", "common/losses/__init__.py"])
def test_a_zip_without_a_file_that_makes_a_package_is_told(root, missing, tmp_path, monkeypatch):
    (root / missing).unlink()
    with zipfile.ZipFile(zipped(root)) as archive:
        archive.extractall(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere" / "rslm_denoise")
    assert files.check_layout("rslm_denoise") == [f"{missing} is missing"]


@pytest.mark.parametrize(("words", "reason"), [("nothing", "neither a zip nor one of"), ("bad.zip", "not a zip file")])
def test_a_target_that_is_no_bundle_is_told_in_one_line(words, reason, tmp_path, verify, monkeypatch):
    (tmp_path / "bad.zip").write_text("text", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, _ = verify(words)
    assert status.startswith("error: ") and reason in status


def test_a_zip_with_several_folders_is_refused(tmp_path, verify):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("one/a", "")
        archive.writestr("two/a", "")
    status, _ = verify(tmp_path / "two.zip")
    assert "holds 2 top folders instead of one" in status
