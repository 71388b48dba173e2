# SPDX-License-Identifier: Apache-2.0
"""Training volumes packed into the head's box in half precision."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from lesion_msgan_lib.data import LesionCrops
from lesion_msgan_lib.slices import downsample, statistics
from lesion_msgan_lib.volumes import PackedVolumes, pack


def volume(level=700.0, shape=(150, 130, 12)):
    random = torch.Generator().manual_seed(0)
    image, mask = torch.zeros(shape), torch.zeros(shape)
    image[61:93, 50:90, 2:9] = level * (1 + 0.2 * torch.randn(32, 40, 7, generator=random))
    mask[70:82, 60:80, 3:6] = 1
    return MetaTensor(torch.stack([image, mask]), meta={"filename_or_obj": "a.nii"})


@pytest.mark.parametrize("level", [1e-4, 0.7, 700.0, 3e6])
def test_the_box_holds_the_head_in_half_precision(level):
    whole, packed = volume(level), pack(volume(level), 48)
    assert packed.dtype == torch.float16 and packed.shape == (2, 97, 106, 7)  # from pixels 28 and 16 on
    part = whole.as_tensor()[:, 28:125, 16:122, 2:9]
    made = packed.as_tensor().float()
    torch.testing.assert_close(made[0] * packed.meta["packed_scale"], part[0], rtol=5e-4, atol=1e-6 * level)
    assert torch.equal(made[1], part[1]) and packed.meta["filename_or_obj"] == "a.nii"


@pytest.mark.parametrize("least", [48, 96, 112, 130, 400])
def test_the_box_is_as_large_as_a_crop_where_the_slice_is(least):
    packed = pack(volume(), least)
    assert all(n >= min(least, m) for n, m in zip(packed.shape[1:3], (150, 130), strict=True))
    assert (packed[1] > 0).sum() == 12 * 20 * 3


def test_slices_are_those_of_the_whole_volume():
    data = LesionCrops(PackedVolumes([volume()], lambda entry: {"image": entry}, least=48), 4, 48, orient=False)
    assert data.known == [([1, 2, 3], True)]
    (truth, mask), whole = data.slice(0, 2), volume()[0, ..., 4].as_tensor()
    torch.testing.assert_close(truth, whole[28:124, 16:120], rtol=5e-4, atol=1e-3)
    assert mask.sum() == 240
    empty = volume()
    empty[1] = 0
    assert LesionCrops([{"image": pack(empty, 48)}], 4, 48, "any").known == [(list(range(7)), False)]
    packed, low = statistics(downsample(truth)), downsample(whole[:148, :128])
    assert packed == pytest.approx(statistics(low), rel=5e-3)
    torch.testing.assert_close(downsample(truth)[2:-2, 2:-2], low[9:29, 6:28], rtol=1e-3, atol=0.5)


def test_what_does_not_fit_is_decoded_for_each_access_and_told(capsys):
    loaded = []

    def load(entry):
        loaded.append(entry)
        return {"image": volume(entry)}

    size = pack(volume(), 48).nbytes / 2**30
    data = PackedVolumes([1.0, 2.0, 3.0], load, memory_gb=2.5 * size, least=48)
    assert "2 of 3 volumes fit in" in capsys.readouterr().out and len(data) == 3
    del loaded[:]
    for _ in range(2):
        assert float(data[2]["image"].max()) > float(data[0]["image"].meta["packed_scale"])
    assert loaded == [3.0, 3.0]
    PackedVolumes([1.0, 2.0], load, memory_gb=2.5 * size, least=48)
    assert not capsys.readouterr().out
