# SPDX-License-Identifier: Apache-2.0
"""A bundle that lacks a file of its inference, or has one of another network, is told; checks leave nothing behind."""

from __future__ import annotations

import importlib
import shutil

import pytest
import torch
from monai.bundle import ConfigParser

from common.data.sample_data import cache
from tools import package as packing
from tools.verify import files, inference, network

SMALL = {
    "brasyn_synthesis": {"width": 2, "depth": 3},
    "lesion_msgan": {"filters": 4, "blocks": 1, "middle_blocks": 1, "x2_head": True},  # training needs the head
    "us_despeckle": {"channels": 4, "blocks": 1},
}
CHECKS = {"weights": network.check_weights, "inference": inference.check_inference}


@pytest.fixture
def bundle(request, tmp_path, change, monkeypatch):
    """A copy of a bundle with a small network, as the working directory."""
    name = request.param
    folder = tmp_path / name
    shutil.copytree(packing.ROOT / "bundles" / name, folder, ignore=shutil.ignore_patterns("runs", "eval", "__py*"))
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser["network_def"] |= {"from_scratch": True, "form": SMALL[name]}
    made = parser.get_parsed_content("network_def")
    for path in (folder / "models/model.pt", *folder.glob("models/targets/*.pt")):
        if name == "brasyn_synthesis":
            write_histograms(made, path)
        torch.save(made.state_dict(), path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert not cache.cache_root().exists()
    return folder


def write_histograms(made, path):
    """Gives a network the standardisation that the bundle's own weights hold."""
    standardisation = importlib.import_module("brasyn_synthesis_lib.standardisation").Standardisation
    standardisation.read(path, "t1c" if path.stem == "model" else path.stem).write(made)


@pytest.mark.parametrize("bundle", SMALL, indirect=True)
def test_a_sound_bundle_infers_and_nothing_is_left_behind(bundle, tmp_path, capfd):
    before = sorted(path for path in bundle.rglob("*") if "__pycache__" not in path.parts)
    for check in (*CHECKS.values(), files.check_properties):
        assert check(bundle.name) == []
    assert sorted(path for path in bundle.rglob("*") if "__pycache__" not in path.parts) == before
    assert not cache.cache_root().exists()
    assert capfd.readouterr().out == ""


def _without(name):
    return lambda folder: (folder / "models" / name).unlink()


def _other(name):
    return lambda folder: torch.save({"x": torch.zeros(3)}, folder / "models" / name)


def _of_another(name, taken):
    return lambda folder: shutil.copy(folder / "models" / taken, folder / "models" / name)


FAULTS = {
    "target missing": (
        "brasyn_synthesis",
        _without("targets/t1n.pt"),
        {"weights": None, "inference": "target t1n: models/targets/t1n.pt: no such weights file"},
    ),
    "weights of another target": (
        "brasyn_synthesis",
        _of_another("targets/t2w.pt", "targets/t2f.pt"),
        {"weights": None, "inference": "target t2w: these weights make t2f, not t2w"},
    ),
    "target of another network": (
        "brasyn_synthesis",
        _other("targets/t2w.pt"),
        {
            "weights": "models/targets/t2w.pt: holds no weights of a Generator",
            "inference": "target t2w: models/targets",
        },
    ),
    "detector missing": (
        "lesion_msgan",
        _without("detector/model.pt"),
        {"weights": "models/detector/model.pt is missing", "inference": "detector is network, but ./models/detector"},
    ),
    "detector of another network": (
        "lesion_msgan",
        _of_another("detector/model.pt", "model.pt"),
        {
            "weights": "models/detector/model.pt: holds no weights of a LesionDetector",
            "inference": "holds no weights of a LesionDetector",
        },
    ),
    "weights of the detector": (
        "lesion_msgan",
        _of_another("model.pt", "detector/model.pt"),
        {"weights": "models/model.pt: holds no weights of a SRResNet", "inference": "holds no weights of a SRResNet"},
    ),
    "reference missing": (
        "us_despeckle",
        _without("reference.json"),
        {"weights": "models/reference.json is missing", "inference": None},
    ),
    "not a state": (
        "us_despeckle",
        lambda folder: torch.save([torch.zeros(3)], folder / "models/model.pt"),
        {"weights": "models/model.pt is not flat", "inference": "holds no network's weights"},
    ),
}


@pytest.mark.parametrize(
    ("bundle", "spoil", "told"), FAULTS.values(), ids=[fault.replace(" ", "-") for fault in FAULTS], indirect=["bundle"]
)
def test_what_inference_lacks_is_named(bundle, spoil, told):
    spoil(bundle)
    for title, reason in told.items():
        found = CHECKS[title](bundle.name)
        assert found == [] if reason is None else len(found) == 1 and reason in found[0], (title, found)
    assert not cache.cache_root().exists() and not (bundle / "runs").exists()
