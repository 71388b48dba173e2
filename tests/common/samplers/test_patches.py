# SPDX-License-Identifier: Apache-2.0
"""Patches equal their whole volume's, and follow from (seed, epoch, index) alone."""

import itertools

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, DistributedSampler, MetaTensor

from common.errors import InputError
from common.handlers import EpochSamples
from common.samplers import Patch, RandomPatches, SliceProfile
from common.transforms.degradation import degrade
from common.transforms.intensity import foreground_mask

SHAPES = ((31, 24, 27), (22, 35, 26), (25, 23, 40))
SIZE = (9, 7, 11)
SCALES = [(2, 2, 2), (2.5, 1.5, 3), (1, 1, 4), (1, 6, 1)]


def volume(shape, channels=1, seed=0):
    """Random voxels in a box of foreground, zero around it."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(channels, *shape)
    image[:, 4:-6, 5:-3, 3:-5] = 0.2 + torch.rand(channels, *[n - m for n, m in zip(shape, (10, 8, 8))], generator=generator)  # fmt: skip # noqa: B905, E501
    return image


def volumes(channels=1):
    return [{"image": volume(shape, channels, seed)} for seed, shape in enumerate(SHAPES)]


def patches(scales=SCALES, size=SIZE, count=24, seed=3, channels=1, orient=False, dropout=0.0):
    return RandomPatches(volumes(channels), SliceProfile(scales, guide_dropout=dropout), size, count, seed, orient)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def close(one, two):
    """Equal but for the order of summation, which may differ with the batch."""
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-6, rtol=0)


# degradation


@pytest.mark.parametrize("scale", SCALES)
def test_a_patch_equals_its_whole_volume_degraded_and_cut(scale):
    chosen = []
    for number, shape in enumerate(SHAPES):
        ends = [(0, 6, n - p) for n, p in zip(shape, SIZE, strict=True)]  # both borders and the middle
        chosen += [(number, corner) for corner in itertools.product(*ends)]
    data = [volume(shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    drawn = [Patch(data[number], corner, np.random.default_rng(0)) for number, corner in chosen]
    batch = SliceProfile([scale])(drawn, SIZE)
    assert batch["image"].shape == batch["label"].shape == (len(drawn), 1, *SIZE)
    whole = [degrade(v, scale)[1] for v in data]
    for i, (number, corner) in enumerate(chosen):
        window = (slice(None), *[slice(c, c + n) for c, n in zip(corner, SIZE, strict=True)])
        torch.testing.assert_close(batch["label"][i], data[number][window])
        torch.testing.assert_close(batch["image"][i], whole[number][window], atol=1e-4, rtol=0)


def test_the_profiles_width_is_the_one_asked_for():
    data = volume(SHAPES[0])
    patch = Patch(data, (8, 8, 8), np.random.default_rng(0))
    for options in ({"sigma": 1.0}, {"thickness": 0.4}):
        mine = SliceProfile([(3, 3, 3)], **options)([patch], SIZE)["image"][0]
        whole = degrade(data, (3, 3, 3), **options)[1]
        torch.testing.assert_close(mine, whole[:, 8:17, 8:15, 8:19], atol=1e-4, rtol=0)


def test_each_patch_draws_its_scale_and_all_scales_come_up():
    data = volume(SHAPES[0])
    drawn = [Patch(data, (8, 8, 8), np.random.default_rng(i)) for i in range(40)]
    batch = SliceProfile(SCALES)(drawn, SIZE)["image"]
    counts = []
    for scale in SCALES:
        expected = degrade(data, scale)[1][:, 8:17, 8:15, 8:19]
        counts.append(sum(torch.allclose(patch, expected, atol=1e-4) for patch in batch))
    assert sum(counts) == 40 and min(counts) > 0


def test_no_scale_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        SliceProfile([])


def test_guides_follow_undegraded_and_the_truth_is_channel_0():
    sample = patches(channels=3)[5]
    assert sample["image"].shape == (3, *SIZE) and sample["label"].shape == (1, *SIZE)
    source = [v["image"] for v in volumes(3)]
    windows = [v.unfold(1, 9, 1).unfold(2, 7, 1).unfold(3, 11, 1).flatten(1, 3) for v in source]
    truth = torch.cat([sample["label"], sample["image"][1:]])
    assert any((window == truth[:, None]).flatten(2).all(2).all(0).any() for window in windows)


def test_dropout_zeroes_each_guide_of_some_patches_and_never_the_image():
    indices = range(24)
    kept, some, none = (patches(channels=3, dropout=p).batch(indices) for p in (0.0, 0.5, 1.0))
    assert not none["image"][:, 1:].any()
    gone = ~some["image"][:, 1:].flatten(2).any(dim=2)
    assert 4 < int(gone[:, 0].sum()) < 20 and 4 < int(gone[:, 1].sum()) < 20
    assert (gone[:, 0] != gone[:, 1]).any(), "each guide by itself"
    torch.testing.assert_close(some["image"][:, 1:][~gone], kept["image"][:, 1:][~gone])
    torch.testing.assert_close(none["image"][:, 0], kept["image"][:, 0])
    assert torch.equal(none["label"], kept["label"])


# drawing


def test_the_same_seed_epoch_and_index_give_the_same_sample_in_any_order():
    data, again = patches(), patches()
    forward = [data[i] for i in range(8)]
    backward = [again[i] for i in reversed(range(8))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


def test_batching_changes_nothing():
    data = patches()
    batch = data.batch(range(6))
    for i in range(6):
        close({key: value[i] for key, value in batch.items()}, data[i])
    for one, other in zip(data.__getitems__([4, 2]), (data[4], data[2]), strict=True):
        close(one, other)


def test_workers_see_what_one_process_sees():
    one, two = (list(DataLoader(patches(), batch_size=5, num_workers=n)) for n in (0, 2))
    assert len(one) == len(two) == 5
    assert all(same(a, b) for a, b in zip(one, two, strict=True))


def test_two_ranks_together_see_the_doubled_batch():
    data = patches()
    single = list(DataLoader(data, batch_size=8, shuffle=False))
    ranks = []
    for rank in range(2):
        sampler = DistributedSampler(data, even_divisible=True, shuffle=False, num_replicas=2, rank=rank)
        ranks.append(list(DataLoader(data, batch_size=4, sampler=sampler)))
    for whole, first, second in zip(single, *ranks, strict=True):
        mixed = {key: torch.stack([first[key], second[key]], dim=1).flatten(0, 1) for key in whole}
        close(mixed, whole)


def test_epochs_differ_and_can_be_drawn_again():
    data = patches()
    data.set_epoch(1)
    first = data.batch(range(10))
    data.set_epoch(2)
    second = data.batch(range(10))
    assert not any(torch.equal(a, b) for a, b in zip(first["label"], second["label"], strict=True))
    data.set_epoch(1)
    assert same(first, data.batch(range(10)))


def test_seeds_differ():
    assert not same(patches(seed=1).batch(range(4)), patches(seed=2).batch(range(4)))


def test_volumes_get_equally_many_patches_in_shuffled_order():
    data = patches(count=24)
    shapes = [tuple(data._draw(i).volume.shape[1:]) for i in range(24)]
    assert [shapes.count(shape) for shape in SHAPES] == [8, 8, 8]
    assert shapes[:3] * 8 != shapes


def test_patches_are_centred_on_the_foreground():
    data = patches(count=60)
    for i in range(60):
        patch = data._draw(i)
        shape = patch.volume.shape[1:]
        centre = [c + n // 2 for c, n in zip(patch.corner, SIZE, strict=True)]
        free = all(0 < c < n - p for c, p, n in zip(patch.corner, SIZE, shape, strict=True))
        assert all(0 <= c <= n - p for c, p, n in zip(patch.corner, SIZE, shape, strict=True))
        assert not free or foreground_mask(patch.volume[0])[tuple(centre)]


def test_the_training_engine_draws_each_epoch_anew_with_or_without_workers():
    seen = {}
    for workers in (0, 1):
        data = patches(count=6)
        rows = seen.setdefault(workers, [])
        engine = Engine(lambda _, batch, rows=rows: rows.append(batch["label"].clone()))
        EpochSamples(data).attach(engine)
        engine.run(DataLoader(data, batch_size=3, num_workers=workers), max_epochs=3)
    assert len(seen[0]) == 6
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not torch.equal(seen[0][0], seen[0][2]) and not torch.equal(seen[0][2], seen[0][4])


# orientation


def orientations(patch):
    for axes in itertools.permutations((1, 2, 3)):
        for flips in itertools.product((False, True), repeat=3):
            yield patch.permute(0, *axes).flip([i + 1 for i, flip in enumerate(flips) if flip])


def test_cubic_patches_turn_every_way_and_image_label_and_guides_turn_together():
    plain, turned = (patches(size=7, count=40, channels=2, orient=turn).batch(range(40)) for turn in (False, True))
    ways = set()
    for i in range(40):
        whole, moved = (torch.cat([b["image"][i], b["label"][i]]) for b in (plain, turned))
        hits = [k for k, way in enumerate(orientations(whole)) if torch.equal(way, moved)]
        assert len(hits) == 1
        ways.update(hits)
    assert len(ways) > 15


def test_oblong_patches_are_flipped_but_keep_their_axes():
    plain, turned = (patches(count=30, orient=turn).batch(range(30)) for turn in (False, True))
    assert turned["label"].shape == plain["label"].shape
    changed = 0
    for one, other in zip(plain["label"], turned["label"], strict=True):
        flips = [one.flip(dims) for k in range(4) for dims in itertools.combinations((1, 2, 3), k)]
        assert any(torch.equal(other, way) for way in flips)
        changed += not torch.equal(one, other)
    assert changed > 15


# errors


def test_a_patch_larger_than_a_volume_names_the_file_in_one_line():
    scan = MetaTensor(torch.rand(1, 30, 30, 12), meta={"filename_or_obj": "thick.nii.gz"})
    data = RandomPatches([{"image": scan}], SliceProfile([(2, 2, 2)]), 25, 4)
    with pytest.raises(InputError, match=r"^thick.nii.gz: 30 x 30 x 12 voxels are less than a patch of 25 x 25 x 25$"):
        data.check()


def test_a_sampler_without_a_number_of_patches_is_refused():
    with pytest.raises(ValueError, match="patches_per_volume"):
        RandomPatches(volumes(), SliceProfile([(2, 2, 2)]), 8, None)
