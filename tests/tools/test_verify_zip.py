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

TRUST = ("--trust", "true")
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
    status, lines = verify(zipped(root), *TRUST)
    assert lines[-1] == "rslm_denoise: all checks passed" and status == 0
    assert len(lines) == len(verifying.CHECKS) + 2 and not any(line.startswith("FAIL") for line in lines)


def _syntax(common):
    (common / "data" / "sample_data" / "brain.py").write_text("def broken(:", encoding="utf-8")


def _other(common):
    with (common / "io" / "weights.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef load_into(*_):\n    raise OSError('of the zip')\n")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_syntax, {"layout": None, "imports": "SyntaxError: invalid syntax (brain.py", "weights": "brain.py"}),
        (_other, {"layout": None, "imports": None, "weights": "OSError: of the zip"}),
    ],
)
def test_a_zip_is_checked_with_its_own_packages(root, spoil, told, verify, monkeypatch):
    spoil(root / "common")
    shorter = f"import tools.verify\nfor title in {SLOW}:\n    del tools.verify.CHECKS[title]\nsys.exit("
    monkeypatch.setattr(verifying, "CHILD", verifying.CHILD.replace("sys.exit(", shorter))
    status, lines = verify(zipped(root), *TRUST)
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


WITNESS = """
import pathlib
pathlib.Path({path!r}).touch()
"""


def test_a_zips_code_does_not_run_untrusted(root, tmp_path, verify):
    for module in ("common/__init__.py", "common/io/inputs.py", "bundles/rslm_denoise/rslm_denoise_lib/__init__.py"):
        with (root / module).open("a", encoding="utf-8") as file:
            file.write(WITNESS.format(path=str(tmp_path / "ran")))
    for name in ("jsonschema.py", "monai.py", "sitecustomize.py", "tools.py"):  # what the checks themselves import
        (root / "bundles" / "rslm_denoise" / name).write_text(WITNESS.format(path=str(tmp_path / "ran")))
    status, lines = verify(zipped(root))
    assert status == 1 and not (tmp_path / "ran").exists()
    titles = [line[5:].split(":")[0] for line in lines[:-2]]
    assert titles == ["archive", "layout", "metadata", "paths", "shared blocks"]
    assert "run the code in the zip, with your rights" in lines[-2] and lines[-1].endswith(".zip --trust true")


def member(name, mode=0o100644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


BAD = {
    "a parent as top folder": ([("../a", b"")], "would lie outside"),
    "a parent inside": ([("b/a", b""), ("b/../../a", b"")], "would lie outside"),
    "an absolute path": ([("/tmp/a", b"")], "would lie outside"),
    "a drive": ([("C:/a", b"")], "would lie outside"),
    "a backslash": ([("b\\..\\..\\a", b"")], "would lie outside"),
    "a dot": ([("./a", b"")], "would lie outside"),
    "a control character": ([("b/a\nb", b"")], "would lie outside"),
    "a link": ([("b/a", b"/etc/passwd", 0o120777)], "is a link"),
    "a pipe": ([("b/a", b"", 0o010644)], "is a link or another special file"),
    "one file twice": ([("b/a", b"1"), ("b/A", b"2")], "is there twice"),
    "a file that is a folder": ([("b/a", b"1"), ("b/a/c", b"2")], "is a file and a folder"),
    "a file beside": ([("b/a", b"1"), ("a", b"2")], "lies in no folder"),
    "two folders": ([("one/a", b""), ("two/a", b"")], "holds 2 top folders instead of one"),
    "nothing": ([], "holds 0 top folders instead of one"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_would_write_elsewhere_is_refused_before_it_does(tmp_path, verify, kind, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    members, reason = BAD[kind]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data, *mode in members:
            archive.writestr(member(name, *mode), data)
    status, _ = verify(tmp_path / "x.zip", *TRUST)
    assert reason in status and status.endswith("; nothing was unpacked") and "\n" not in status


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, verify, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(65):
            archive.writestr(f"b/{number}", bytes(2**24))
    assert (tmp_path / "x.zip").stat().st_size < 2**21
    status, _ = verify(tmp_path / "x.zip", *TRUST)
    assert "1.0 GiB unpacked; at most 1 GiB is unpacked; nothing was unpacked" in status


def test_a_member_larger_than_it_says_is_not_unpacked(root, tmp_path, verify):
    path = Path(zipped(root))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("rslm_denoise/docs/README.md")
    for sign, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # directory, member
        start = 0
        while (start := data.find(sign, start)) >= 0:
            if info.filename.encode() in data[start : start + 100]:
                data = data[: start + at] + (10).to_bytes(4, "little") + data[start + at + 4 :]
            start += 4
    path.write_bytes(data)
    status, _ = verify(path, *TRUST)
    assert "is damaged" in status


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is no JSON ("),
        ("[" * 100_000, "is nested too deeply"),
        ("[]", "is no JSON object"),
        (" " * (2**20 + 1), "is over 1 MB"),
    ],
)
def test_bad_json_is_told_before_anything_is_unpacked(root, verify, content, reason, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    (root / "bundles" / "rslm_denoise" / "configs" / "paper" / "wgan.json").write_text(content, encoding="utf-8")
    status, lines = verify(zipped(root), *TRUST)
    assert status == 1 and lines[0].startswith(f"FAIL archive: configs/paper/wgan.json {reason}")
    assert lines[1:] == ["rslm_denoise: not fit to be shared; nothing was unpacked"]
