# SPDX-License-Identifier: Apache-2.0
"""Nine views: exact where they must be, and what they cost in sharpness elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from common.data.sample_data.brain import make_brain_case
from common.inferers import ViewsInferer
from common.inferers.views import canvas, turn, turn_back


def same(stack):
    """The middle slice of the first channel."""
    return stack[:, 1:2]


def blob(shape=(30, 26, 22)):
    axes = [torch.arange(n) - (n - 1) / 2 for n in shape]
    radius = (axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2).sqrt()
    image = (1 - radius / 9).clamp_min(0)
    return image * (1 + 0.5 * torch.sin(0.9 * axes[0])[:, None, None] * torch.cos(1.1 * axes[2]))


@pytest.mark.parametrize("shape", [(20, 20, 20), (17, 24, 12)])
def test_identity_is_exact_on_a_constant_volume(shape):
    image = torch.full((1, 1, *shape), 0.7)
    result = ViewsInferer(outputs=["mean", "sd", "straight"])(image, same)
    torch.testing.assert_close(result[:, [0]], image, atol=1e-5, rtol=0)
    assert result[:, 1].max() < 2e-3
    torch.testing.assert_close(result[:, [2]], image)


def test_identity_on_a_smooth_phantom_is_above_55_db():
    axes = [torch.arange(n) - (n - 1) / 2 for n in (44, 40, 36)]
    image = torch.exp(-(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2) / (2 * 8.0**2))
    result = ViewsInferer()(image[None, None], same)[0, 0]
    assert -10 * math.log10(float(((result - image) ** 2).mean())) > 55


def reference(image):
    """Mean over the nine views of turning there and back with scipy, each weighted with its turned ones."""
    image = image.numpy().astype(float)
    total, weights = 3 * image, np.full(image.shape, 3.0)
    for about in range(3):
        plane = [a for a in range(3) if a != about]
        matrix, size = np.eye(3), np.array(canvas(image.shape, about))
        cosine = math.cos(math.pi / 4)
        matrix[np.ix_(plane, plane)] = [[cosine, -cosine], [cosine, cosine]]
        parts = []
        for volume in (image, np.ones_like(image)):
            middle, target = (np.array(image.shape) - 1) / 2, (size - 1) / 2
            there = ndimage.affine_transform(
                volume, matrix, middle - matrix @ target, output_shape=tuple(size), order=1, mode="grid-constant"
            )
            parts.append(
                ndimage.affine_transform(
                    there, matrix.T, target - matrix.T @ middle, output_shape=image.shape, order=1, mode="grid-constant"
                )
            )
        total, weights = total + 2 * parts[0], weights + 2 * parts[1]  # two slice directions each
    return total / weights


def test_identity_is_the_mean_of_turning_there_and_back():
    image = blob()
    inferer = ViewsInferer()
    box = tuple(inferer.box(image[None, None]))
    result = inferer(image[None, None], same)[0, 0]
    np.testing.assert_allclose(result[box].numpy(), reference(image[box]), atol=2e-5)
    assert not result[0].any()


def test_identity_on_a_brain_is_the_mean_of_turning_there_and_back():
    # edges, vessels and noise, from the middle of the head to air above it and beside it
    image = torch.as_tensor(make_brain_case(3, (36, 172, 150))["t2w"])[:, 120:, 70:] / 1000
    assert 0.2 < float((image == 0).float().mean()) < 0.8 and image.max() > 0.5
    inferer = ViewsInferer(outputs=["mean", "straight"])
    box = tuple(inferer.box(image[None, None]))
    mean, straight = inferer(image[None, None], same)[0]
    np.testing.assert_allclose(mean[box].numpy(), reference(image[box]), atol=2e-5)
    torch.testing.assert_close(straight, image)
    assert float((mean - image)[box].abs().max()) > 0.05  # turning does cost sharpness here


def test_nine_views_have_nine_normals():
    inferer = ViewsInferer()
    normals = set()
    for about, axes in inferer._plan():
        for axis in axes:
            ramp = torch.zeros(1, 9, 9, 9)
            ramp[0] = torch.arange(9.0).view([-1 if a == axis else 1 for a in range(3)])
            size = canvas((9, 9, 9), about) if about is not None else [9, 9, 9]
            ramp = torch.arange(float(size[axis])).view([-1 if a == axis else 1 for a in range(3)]).expand(size)
            back = ramp if about is None else turn_back(ramp[None], about, (9, 9, 9))[0]
            slope = [float(back.movedim(a, 0)[5, 4, 4] - back.movedim(a, 0)[3, 4, 4]) / 2 for a in range(3)]
            normals.add(tuple(round(s, 2) for s in slope))
    assert len(normals) == 9
    assert all(sum(s * s for s in normal) == pytest.approx(1, abs=0.02) for normal in normals)


def test_three_turned_volumes_serve_six_views(monkeypatch):
    turns = []
    monkeypatch.setattr(
        "common.inferers.views.turn", lambda volume, about: turns.append(len(volume)) or turn(volume, about)
    )
    ViewsInferer()(blob()[None, None].repeat(1, 2, 1, 1, 1), same)
    assert turns.count(2) == 3  # the others turn ones


def test_nothing_is_lost_at_the_corners():
    image = torch.ones(1, 22, 26, 18)
    for about in range(3):
        assert float(turn(image, about).sum()) == pytest.approx(float(image.sum()), rel=0.01)


def test_deviation_over_the_views():
    image, calls = blob()[None, None], []

    def by_view(stack):  # one call per view: 1, 2, ... 9
        calls.append(len(calls) + 1)
        return torch.full_like(stack[:, :1], calls[-1])

    mean, deviation = ViewsInferer(batch_size=100, outputs=["mean", "sd"])(image, by_view)[0]
    assert calls == list(range(1, 10))
    assert float(mean[15, 13, 11]) == pytest.approx(5, abs=1e-3)
    assert float(deviation[15, 13, 11]) == pytest.approx(np.std(range(1, 10)), abs=1e-2)
    assert not ViewsInferer(views=1, outputs=["mean", "sd"])(image, same)[0, 1].any()


def test_one_view_is_the_slices_themselves():
    image = torch.rand(1, 2, 8, 9, 7)
    torch.testing.assert_close(ViewsInferer(views=1, axis=1)(image, same)[0, 0], image[0, 0])


def test_empty_volume_and_estimate():
    assert not ViewsInferer()(torch.zeros(1, 1, 6, 6, 6), same).any()
    stacks = ViewsInferer().stacks(torch.ones(1, 1, 10, 10, 10))
    assert len(stacks) == 9 and stacks[0] == (10, 10, 10)
    assert stacks[3] == (16, 10, 16)


@pytest.mark.parametrize("kwargs", [{"views": 3}, {"outputs": []}, {"outputs": ["median"]}])
def test_settings_that_cannot_work(kwargs):
    with pytest.raises(ValueError, match="views must be 1 or 9"):
        ViewsInferer(**kwargs)
    with pytest.raises(ValueError, match="one volume"):
        ViewsInferer()(torch.zeros(2, 1, 4, 4, 4), same)
