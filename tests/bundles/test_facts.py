# SPDX-License-Identifier: Apache-2.0
"""Sidecars tell every key that decides what a result is; else a finished case of other keys would be left alone."""

import json
import sys

import pytest
from monai.bundle import ConfigParser

from common.utils.values import amp_pays
from tools.bundles import keys_of
from tools.package import ROOT, bundle_names

TOLD_OTHERWISE = {
    **dict.fromkeys(
        ["device", "memory_gb", "num_workers", "output_dir", "ckpt_dir", "bundle_root"],
        "where a result is made, not which",
    ),
    **dict.fromkeys(["dataset_dir", "pattern", "sequence", "t1n", "t1c", "t2w", "t2f"], "input_sha256"),
    **dict.fromkeys(["save_residual", "save_std", "histograms"], "which files there are"),
    "target": "the result's name, and weights_sha256",
    "estimate_noise": "prints a line",
    "bids": "how results are called, and a sidecar of its own",
    "detector_weights": "detector_sha256",
}


def facts(name, **keys):
    """What the saver of a bundle's inference tells of its results."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / name / "configs" / "inference.json"))
    for key, value in {"bundle_root": str(ROOT / "bundles" / name), "device": "cpu", **keys}.items():
        parser[key] = value
    if "keys" in parser:
        parser.get_parsed_content("keys")
    transforms = parser["postprocessing"]["transforms"]
    index = next(i for i, transform in enumerate(transforms) if "facts" in transform)
    told = parser.get_parsed_content(f"postprocessing::transforms::{index}::facts")
    return told["t1c"] if name == "brasyn_synthesis" else told


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test"])


@pytest.mark.parametrize("name", bundle_names())
def test_the_cards_keys_are_told(name):
    told = facts(name)
    known = {*told["settings"], *(key.removesuffix("_sha256") for key in told if key.endswith("_sha256"))}
    keys = {key.name for key in keys_of(name) if "inference" in key.defaults}
    assert keys - known - set(TOLD_OTHERWISE) == set()
    assert known & keys  # the card's table was read


@pytest.mark.parametrize("name", bundle_names())
def test_mixed_precision_is_told_as_what_it_comes_to(name):
    on, off = facts(name, amp=True), facts(name, amp="false")
    assert (on["settings"]["amp"], off["settings"]["amp"]) == (True, False)
    pays = amp_pays("cpu") and name != "rslm_denoise"  # whose network would show bfloat16 as steps of grey
    assert facts(name) == (on if pays else off)
    json.dumps(on)
