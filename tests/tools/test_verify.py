# SPDX-License-Identifier: Apache-2.0
"""Each check passes a sound bundle and names what is wrong with a broken one."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import rslm_denoise_lib
from rslm_denoise_lib.networks import Generator
from tools import package as packing
from tools import verify as verifying

BUNDLE = Path(rslm_denoise_lib.__file__).parents[1]
SIZES = [[3, 3, 1], 3, [3, 3, 1]]
for module in ("onnxruntime", "onnxscript", "jsonschema"):
    pytest.importorskip(module)


def change(path, *keys, to):
    """Sets an entry of a JSON file, or takes it out."""
    content = json.loads(path.read_text(encoding="utf-8"))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A copy of a bundle with a small network, in a repository of its own."""
    folder = tmp_path / "bundles" / BUNDLE.name
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("runs", "eval", "__pycache__"))
    for name in ("train", "inference"):
        change(folder / "configs" / f"{name}.json", "network_def", "filters", to=4)
        change(folder / "configs" / f"{name}.json", "network_def", "filter_sizes", to=SIZES)
    change(folder / "configs" / "metadata.json", "eval_metrics", to={"psnr": 30.0})
    torch.save(Generator(4, SIZES).state_dict(), folder / "models" / "model.pt")
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    monkeypatch.setattr(verifying, "ROOT", tmp_path)
    return folder


def verify(target, monkeypatch, capsys):
    """Exit status and lines of the report."""
    monkeypatch.setattr("sys.argv", ["verify", str(target)])
    try:
        verifying.main()
        status = 0
    except SystemExit as end:
        status = end.code
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok ", "FAIL ", "rslm"))]
    return status, lines


def test_a_sound_bundle_passes_by_name_and_as_a_zip(bundle, monkeypatch, capsys):
    status, lines = verify("rslm_denoise", monkeypatch, capsys)
    assert lines == [*(f"ok   {title}" for title in verifying.CHECKS), "rslm_denoise: all checks passed"]
    assert status == 0
    (bundle.parents[1] / "common").mkdir()
    packed = packing.package("rslm_denoise", str(bundle.parents[1] / "dist"))
    status, lines = verify(packed, monkeypatch, capsys)
    assert status == 0 and lines[-1] == "rslm_denoise: all checks passed"


def _spoil_weights(folder):
    torch.save({"model": Generator(4, SIZES).state_dict()}, folder / "models" / "model.pt")


def _other_weights(folder):
    torch.save(Generator(8, SIZES).state_dict(), folder / "models" / "model.pt")


def _infinite(folder):
    state = Generator(4, SIZES).state_dict()
    state["layers.0.bias"][0] = float("inf")
    torch.save(state, folder / "models" / "model.pt")


def _write(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def _change(name, *keys, to):
    return lambda folder: change(folder / "configs" / f"{name}.json", *keys, to=to)


FAULTS = {
    "no card": (lambda folder: (folder / "docs/README.md").unlink(), "layout", "docs/README.md is missing"),
    "licence": (_write("LICENSE", "mine"), "layout", "LICENSE is not the Apache License"),
    "no task": (_change("metadata", "task", to=None), "metadata", "'task' is a required property"),
    "version": (_change("metadata", "version", to="9.0.0"), "metadata", "changelog does not tell of version 9.0.0"),
    "name": (_change("metadata", "name", to="other"), "metadata", "name is 'other'"),
    "channels": (
        _change("metadata", "network_data_format", "inputs", "image", "channel_def", to={"first": "x"}),
        "metadata",
        "network_data_format.inputs.image.channel_def",
    ),
    "property": (
        _change("train", "train", "trainer", "postprocessing", to="@validate::postprocessing"),
        "properties",
        "train.json: train_postprocessing",
    ),
    "unused": (_change("train", "forgotten", to=1), "keys", "train.json: forgotten is not used"),
    "overlay": (_change("wgan", "forgotten", to=1), "keys", "wgan.json: forgotten is not used"),
    "path": (_change("inference", "pattern", to="/home/me/x"), "keys", "inference.json: absolute path /home/"),
    "shared": (_change("inference", "memory_gb", to=3), "shared blocks", "memory_gb differs"),
    "nested weights": (_spoil_weights, "weights", "model.pt is not flat"),
    "other weights": (_other_weights, "weights", "belong to another network shape"),
    "infinite": (_infinite, "weights", "not finite"),
    "output": (
        _change("metadata", "network_data_format", "outputs", "pred", "scale_factor", to=4),
        "shapes",
        "gives (2, 1, 20, 16, 28) where (2, 1, 80, 64, 112) is told",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_named_in_the_line_of_its_check(bundle, fault, monkeypatch, capsys):
    spoil, title, reason = FAULTS[fault]
    spoil(bundle)
    names = {title: verifying.CHECKS[title]}
    monkeypatch.setattr(verifying, "CHECKS", names)
    status, lines = verify("rslm_denoise", monkeypatch, capsys)
    assert status == 1
    assert lines[0].startswith(f"FAIL {title}: ") and reason in lines[0]
    assert lines[1] == "rslm_denoise: not fit to be shared"


@pytest.mark.parametrize(("words", "reason"), [("nothing", "neither a zip nor one of"), ("bad.zip", "not a zip file")])
def test_a_target_that_is_no_bundle_is_told_in_one_line(words, reason, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.zip").write_text("text", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, _ = verify(words, monkeypatch, capsys)
    assert status.startswith("error: ") and reason in status


def test_a_zip_with_several_folders_is_refused(tmp_path, monkeypatch, capsys):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("one/a", "")
        archive.writestr("two/a", "")
    status, _ = verify(tmp_path / "two.zip", monkeypatch, capsys)
    assert "holds 2 top folders instead of one" in status


# torch.export ties a size of brasyn_synthesis's network to another where an enlarged level is cut to its skip
NOT_YET = pytest.mark.xfail(reason="torch.export with free sizes", strict=True)


@pytest.mark.package
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=NOT_YET) if n == "brasyn_synthesis" else n for n in packing.bundle_names()],
)
def test_every_bundle_of_the_collection_passes(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["verify", name])
    verifying.main()
    assert f"{name}: all checks passed" in capsys.readouterr().out
