# SPDX-License-Identifier: Apache-2.0
"""Stacks of slices: which slices, where they are cut, and that they repeat."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from common.samplers import RandomStacks, slice_stacks
from common.samplers.slices import _turned

SHAPE = (10, 12, 14)


def volume(seed=0, shape=SHAPE):
    random = torch.Generator().manual_seed(seed)
    image = torch.zeros(3, *shape)
    image[:, 2:8, 3:9, 4:12] = 0.1 + torch.rand(3, 6, 6, 8, generator=random)
    tumour = torch.zeros(1, *shape)
    tumour[:, 4:6, 4:6, 5:7] = 1
    return {"image": image, "label": torch.cat([image.sum(dim=0, keepdim=True), tumour])}


class Counted(Dataset):
    """Volumes that are made anew each time, and how often."""

    def __init__(self, count):
        self.count, self.reads = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        item = volume(index)
        return {key: value + 100 * (index + 1) * (value != 0) for key, value in item.items()}


def plain(volumes=None, **kwargs):
    settings = {"size": 16, "pad": 16, "stacks": 40, "flip": 0, "turn": 0, **kwargs}
    return RandomStacks([volume()] if volumes is None else volumes, **settings)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_stacks_are_the_neighbouring_slices_of_every_channel(axis, neighbours):
    image = torch.rand(2, 5, 6, 7)
    length = image.shape[axis + 1]
    stacks = slice_stacks(image, axis, range(length), neighbours)
    for i in range(length):
        for channel in range(2):
            for k in range(neighbours):
                position = i + k - neighbours // 2
                inside = 0 <= position < length
                expected = image[channel].select(axis, position) if inside else torch.zeros_like(stacks[0, 0])
                assert torch.equal(stacks[i, channel * neighbours + k], expected)
        assert torch.equal(slice_stacks(image, axis, [i], neighbours)[0], stacks[i])


def test_samples_are_slices_that_hold_something_with_their_truth():
    for index in range(40):
        sample = plain()[index]
        assert sample["image"].shape == (9, 16, 16) and sample["label"].shape == (2, 16, 16)
        middle = sample["image"][[1, 4, 7]]
        assert middle.abs().sum() > 0
        torch.testing.assert_close(middle.sum(dim=0), sample["label"][0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_padding_is_even_and_cropping_stays_inside(axis):
    sample = plain(axes=[axis], size=20, pad=20)[3]
    height, width = [n for a, n in enumerate(SHAPE) if a != axis]
    used = torch.nonzero(sample["label"][0])
    first = [(20 - n) // 2 for n in (height, width)]
    box = [(2, 8), (3, 9), (4, 12)]
    low, high = zip(*[b for a, b in enumerate(box) if a != axis], strict=True)
    assert (used.amin(dim=0) >= torch.tensor([f + n for f, n in zip(first, low, strict=True)])).all()
    assert (used.amax(dim=0) < torch.tensor([f + n for f, n in zip(first, high, strict=True)])).all()
    corners = {
        tuple(torch.nonzero(plain(axes=[axis], size=12, pad=20)[i]["label"][0] > 0)[0].tolist()) for i in range(30)
    }
    assert len(corners) > 5  # cropped at many places


@pytest.mark.parametrize("flip_axis", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_sample_is_that_of_the_flipped_volume(axis, flip_axis):
    item = volume()
    mirrored = {key: value.flip(flip_axis + 1) for key, value in item.items()}
    settings = {"axes": [axis], "size": 20, "pad": 20, "stacks": 60}
    flipped = plain([item], flip=1, flip_axis=flip_axis, **settings)
    # the mirrored volume's own samples come in another order
    found = {sample["image"].numpy().tobytes() for sample in plain([mirrored], **settings)}
    straight = {sample["image"].numpy().tobytes() for sample in plain([item], **settings)}
    made = {sample["image"].numpy().tobytes() for sample in flipped}
    assert made <= found and not made & straight


def test_samples_of_half_precision_volumes_are_float32():
    item = {key: value.half() for key, value in volume().items()}
    sample = plain([item], turn=1)[0]
    assert sample["image"].dtype == sample["label"].dtype == torch.float32


def test_a_transform_s_randomness_is_that_of_the_sample():
    def brighten(image, label, random):
        return image * random.random(), label

    first, again = (plain(transform=brighten) for _ in range(2))
    for index in (7, 3):
        assert torch.equal(first[index]["image"], again[index]["image"])
        ratio = first[index]["image"] / plain()[index]["image"]
        assert 0 < float(ratio.nan_to_num().max()) < 1
        assert torch.equal(first[index]["label"], plain()[index]["label"])


def test_turns_are_those_of_scipy_about_the_slice_s_middle():
    turned = plain(axes=[2], size=24, pad=24, turn=1, angle=15, neighbours=1)
    straight = plain(axes=[2], size=24, pad=24, neighbours=1)
    angles = set()
    for index in range(6):
        image, label = turned[index]["image"][0], turned[index]["label"]
        before = straight[index]["image"][0].numpy()
        # the middle of a slice of 10 x 12 pixels lies at the middle of 24 x 24
        best = min(
            (abs(ndimage.rotate(before, angle, reshape=False, order=1) - image.numpy()).mean(), angle)
            for angle in [a / 2 for a in range(-31, 32)]
        )
        assert best[0] < 0.01
        angles.add(best[1])
        assert set(label[1].unique().tolist()) <= {0.0, 1.0}  # masks stay masks
    assert len(angles) > 3 and max(map(abs, angles)) <= 15.5


@pytest.mark.parametrize("degrees", [-15.0, 3.0, 40.0])
def test_a_window_of_a_turned_part_is_cut_from_the_turned_slice(degrees):
    whole, label = torch.zeros(3, 20, 26), torch.zeros(2, 20, 26)
    whole[:, 5:12, 9:20], label[:, 5:12, 9:20] = torch.rand(3, 7, 11), 1
    full = _turned(whole, label, (20, 26), (0, 0), (-4, -2), (28, 30), degrees)
    part = (slice(None), slice(5, 12), slice(9, 20))
    for start, size in (((-4, -2), (28, 30)), ((3, 8), (6, 9)), ((17, 0), (5, 5))):
        made = _turned(whole[part], label[part], (20, 26), (5, 9), start, size, degrees)
        for one, other in zip(made, full, strict=True):
            window = [slice(s + shift, s + shift + n) for s, shift, n in zip(start, (4, 2), size, strict=True)]
            torch.testing.assert_close(one, other[(slice(None), *window)], atol=1e-5, rtol=0)


def test_a_sample_follows_from_seed_epoch_and_index_alone():
    volumes = [volume(i) for i in range(3)]
    one, other = (RandomStacks(volumes, 12, 30, pad=14, seed=4) for _ in range(2))
    for data in (one, other):
        data.set_epoch(2)
    forward = [one[i]["image"] for i in range(30)]
    for i in reversed(range(30)):
        assert torch.equal(other[i]["image"], forward[i])
    other.set_epoch(3)
    assert not all(torch.equal(other[i]["image"], forward[i]) for i in range(30))
    loader = DataLoader(one, batch_size=5, num_workers=0)
    assert torch.equal(torch.cat([b["image"] for b in loader]), torch.stack(forward))


def test_each_volume_gives_its_share():
    volumes = Counted(4)
    data = RandomStacks(volumes, 16, 42, pad=16, turn=0)
    owners = [int(data[i]["label"].max() // 100) for i in range(42)]
    assert sorted(owners.count(n) for n in range(1, 5)) == [10, 10, 11, 11]
    assert owners[:10] != sorted(owners[:10])  # shuffled


@pytest.mark.parametrize("resident", [1, 2, 3])
def test_memory_is_bounded_and_each_volume_is_read_once(resident):
    volumes = Counted(6)
    data = RandomStacks(volumes, 16, 60, pad=16, resident=resident)
    for index in range(60):
        data[index]
        assert len(data._held) <= resident
    assert sorted(volumes.reads) == list(range(6))


def test_an_empty_volume_and_a_small_epoch_pass():
    empty = {"image": torch.zeros(3, *SHAPE), "label": torch.zeros(2, *SHAPE)}
    assert not plain([empty])[0]["image"].any()
    assert len(plain([volume(i) for i in range(9)], stacks=2)) == 2


@pytest.mark.parametrize("kwargs", [{"neighbours": 2}, {"neighbours": 0}, {"size": 20, "pad": 16}, {"size": 0}])
def test_settings_that_cannot_work(kwargs):
    with pytest.raises(ValueError, match="need odd neighbours"):
        plain(**kwargs)
