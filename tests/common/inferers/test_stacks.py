# SPDX-License-Identifier: Apache-2.0
"""A slice network over a volume."""

from __future__ import annotations

import pytest
import torch

from common.inferers import SliceStackInferer
from common.samplers import slice_stacks


def masked(shape=(9, 13, 11)):
    image = torch.zeros(1, 2, *shape)
    image[:, :, 2:7, 3:12, 1:8] = 0.5 + torch.rand(1, 2, 5, 9, 7)
    return image


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("multiple", [1, 8])
def test_each_slice_is_predicted_from_its_stack(axis, batch_size, multiple):
    image = masked()
    layer = torch.nn.Conv2d(6, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        result = SliceStackInferer(axis, 3, batch_size, multiple)(image, layer)
        stacks = slice_stacks(image[0], axis, range(image.shape[axis + 2]), 3)
        filled = (image[0] != 0).any(0).movedim(axis, 0).flatten(1).any(1)
        expected = layer(stacks)[:, 0] * filled[:, None, None]
    found = result[0, 0].movedim(axis, 0)
    inside = (image[0] != 0).any(0).movedim(axis, 0).any(0)
    # the network's rim around the box is not computed where the box's multiple ends there
    torch.testing.assert_close(found[:, inside], expected[:, inside], atol=1e-5, rtol=0)
    assert not found[~filled].any()


def test_sizes_given_to_the_network_are_multiples():
    seen = []

    def network(stack):
        seen.append(tuple(stack.shape[2:]))
        return stack[:, 1:2]

    image = masked()
    result = SliceStackInferer(2, 3, 4, 8)(image, network)
    torch.testing.assert_close(result[0, 0], image[0, 0])
    assert all(edge % 8 == 0 for size in seen for edge in size)
    assert not SliceStackInferer()(torch.zeros(1, 2, 8, 8, 8), network).any()  # nothing there


def test_settings_and_shapes_that_cannot_work():
    for kwargs in ({"axis": 3}, {"neighbours": 2}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="need an axis"):
            SliceStackInferer(**kwargs)
    with pytest.raises(ValueError, match="one volume"):
        SliceStackInferer()(torch.zeros(2, 1, 4, 4, 4), torch.nn.Identity())
