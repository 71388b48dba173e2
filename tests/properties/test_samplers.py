# SPDX-License-Identifier: Apache-2.0
"""Patches and slice stacks of all shapes: cut out of their volume, the same in any order of calls."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from common.samplers import RandomPatches, RandomStacks
from common.samplers.slices import slice_stacks

SHAPES = st.tuples(*[st.integers(1, 20)] * 3)
SEEDS = st.integers(0, 2**31 - 1)


def counted(shape, channels=1, start=1):
    """A volume whose voxels all differ."""
    count = channels * shape[0] * shape[1] * shape[2]
    return torch.arange(start, start + count, dtype=torch.float64).reshape(channels, *shape)


def cut(patches, size):
    windows = [(slice(None), *(slice(c, c + n) for c, n in zip(p.corner, size, strict=True))) for p in patches]
    images = torch.stack([patch.volume[window] for patch, window in zip(patches, windows, strict=True)])
    return {"image": images, "label": images}


@given(st.data(), st.lists(SHAPES, min_size=1, max_size=3), st.integers(1, 12), SEEDS, st.booleans(), st.integers(0, 3))
def test_patches_lie_in_their_volumes_and_are_the_same_in_any_order(data, shapes, count, seed, orient, epoch):
    size = tuple(data.draw(st.integers(1, min(shape[axis] for shape in shapes))) for axis in range(3))
    volumes = [{"image": counted(shape, start=1 + 10_000 * i)} for i, shape in enumerate(shapes)]

    def sampler():
        made = RandomPatches(volumes, cut, size, count, seed=seed, orient=orient)
        made.check()
        made.set_epoch(epoch)
        return made

    samples = [sampler()[i]["image"] for i in range(count)]
    backwards = sampler().__getitems__(list(reversed(range(count))))
    assert all(torch.equal(one, other["image"]) for one, other in zip(reversed(samples), backwards, strict=True))
    for sample in samples:
        assert sample.shape == (1, *size)
        owner = volumes[int(sample.min() - 1) // 10_000]["image"]
        found = torch.isin(owner, sample.contiguous())
        assert int(found.sum()) == sample.numel()  # each of its voxels, once
        box = torch.nonzero(found[0])
        extent = (box.max(dim=0).values - box.min(dim=0).values + 1).tolist()
        assert sorted(extent) == sorted(size) and (orient or extent == list(size))
    owners = Counter(int(sample.min() - 1) // 10_000 for sample in samples)
    assert len(samples) < len(shapes) or max(owners.values()) - min(owners[i] for i in range(len(shapes))) <= 1


@given(SHAPES, st.integers(1, 3), st.integers(0, 2), st.integers(0, 3), st.data())
def test_stacks_hold_the_neighbours_in_order(shape, channels, axis, radius, data):
    image, k = counted(shape, channels), 2 * radius + 1
    length = shape[axis]
    indices = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=5))
    stacks = slice_stacks(image, axis, indices, k)
    others = [n for a, n in enumerate(shape) if a != axis]
    assert stacks.shape == (len(indices), channels * k, *others)
    for stack, middle in zip(stacks, indices, strict=True):
        for channel in range(channels):
            for offset in range(-radius, radius + 1):
                place = middle + offset
                there = image[channel].select(axis, place) if 0 <= place < length else torch.zeros(others).double()
                assert torch.equal(stack[channel * k + radius + offset], there)


@given(
    st.lists(SHAPES, min_size=1, max_size=3),
    st.tuples(*[st.integers(1, 24)] * 2),
    st.integers(0, 8),
    st.sampled_from([1, 3, 5]),
    st.integers(0, 2),
    SEEDS,
    st.one_of(st.none(), st.integers(1, 3)),
    st.sampled_from([torch.float16, torch.float32]),
)
def test_random_stacks_have_one_size_and_are_the_same_in_any_order(shapes, size, more, k, flip, seed, resident, dtype):
    volumes = [
        {"image": torch.rand(2, *shape).to(dtype), "label": torch.rand(2, *shape).round().to(dtype)} for shape in shapes
    ]

    def sampler():
        return RandomStacks(
            volumes, size, 6, pad=max(size) + more, neighbours=k, flip_axis=flip, resident=resident, seed=seed
        )

    forwards, backwards = ([sampler()[i] for i in order] for order in (range(6), range(5, -1, -1)))
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert one["image"].shape == (2 * k, *size) and one["label"].shape == (2, *size)
        assert one["image"].dtype == one["label"].dtype == torch.float32
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert set(one["label"][1].unique().tolist()) <= {0.0, 1.0}  # masks stay masks


@given(SHAPES, st.integers(1, 24), st.integers(0, 8), SEEDS)
def test_a_stack_that_is_not_turned_is_a_window_of_its_padded_slice(shape, edge, more, seed):
    image = counted(shape).float()
    samples = RandomStacks(
        [{"image": image, "label": image}], edge, 4, pad=edge + more, neighbours=1, flip=0, turn=0, seed=seed
    )
    for index in range(4):
        sample = samples[index]
        assert torch.equal(sample["image"], sample["label"])
        windows = []
        for axis in range(3):
            planes = image[0].movedim(axis, 0)
            missing = [max(edge + more - n, 0) for n in planes.shape[1:]]
            before = [m // 2 for m in missing]
            padded = F.pad(planes, (before[1], missing[1] - before[1], before[0], missing[0] - before[0]))
            windows.append(padded.unfold(1, edge, 1).unfold(2, edge, 1).flatten(0, 2))
        assert any((window == sample["image"][0]).flatten(1).all(dim=1).any() for window in windows)
