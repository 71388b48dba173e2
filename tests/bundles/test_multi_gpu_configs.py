# SPDX-License-Identifier: Apache-2.0
"""The overlays for several processes do what the configurations below them do."""

import json

import pytest

from tools.package import ROOT, bundle_names

OLDER = [  # whose runs are lists of items
    name for name in bundle_names() if (ROOT / "bundles" / name / "configs" / "multi_gpu_train.json").is_file()
]


def config(name, kind):
    return json.loads((ROOT / "bundles" / name / "configs" / f"{kind}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["train", "evaluate", "inference"])
@pytest.mark.parametrize("name", OLDER)
def test_they_run_the_same_items_inside_a_group(name, kind):
    several = config(name, f"multi_gpu_{kind}")
    inside = [item for item in several["run"] if "common.distributed." not in item]
    assert inside == config(name, kind)["run"] and len(inside) == len(several["run"]) - 1
    assert several["finalize"] == ["$common.distributed.stop()"]


@pytest.mark.parametrize("name", OLDER)
def test_inference_shares_cases_by_its_own_dataset(name):
    assert config(name, "multi_gpu_inference").keys() == {"device", "run", "finalize"}


@pytest.mark.parametrize("name", OLDER)
def test_held_out_items_are_shared_alike(name):
    train, evaluate = config(name, "multi_gpu_train"), config(name, "multi_gpu_evaluate")
    for key in ("validate::sampler", "validate::dataloader::sampler", "device"):
        assert train[key] == evaluate[key]
