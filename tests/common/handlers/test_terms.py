# SPDX-License-Identifier: Apache-2.0
"""Items of the batch reach the metrics on the engine's device."""

from types import SimpleNamespace

import torch

from common.handlers import KeepInOutput


def test_items_are_moved_to_the_device_of_image_and_label():
    item = {"image": torch.zeros(1), "baseline": torch.ones(1, 2), "name": "case", "not_asked_for": 1}
    state = SimpleNamespace(batch=[item], output=[{"pred": torch.zeros(1)}], device=torch.device("meta"))
    KeepInOutput(["baseline", "name"])(SimpleNamespace(state=state))
    (output,) = state.output
    assert output.keys() == {"pred", "baseline", "name"}
    assert output["baseline"].device.type == "meta" and output["baseline"].shape == (1, 2)
    assert output["name"] == "case" and item["baseline"].device.type == "cpu"
