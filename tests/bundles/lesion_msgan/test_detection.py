# SPDX-License-Identifier: Apache-2.0
"""The lesion detector's three ways, and the training of its network."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandBiasField, RandHistogramShift
from torch import nn

from common.errors import InputError
from common.io.weights import build
from common.transforms.geometry import grid_affine
from lesion_msgan_lib.detection import FindRegiond, LesionDetector, detect
from lesion_msgan_lib.detector import DetectorInferer, DetectorSlices, HeldOutVolumes, RegionCoverage
from lesion_msgan_lib.lesions import RandLesion
from lesion_msgan_lib.transforms import StandardiseSlicesd


class Bright(nn.Module):
    """Takes pixels two deviations above the mean for lesion."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return 4 * (image - self.threshold)


def scan(shape=(30, 34), spot=(20, 26, 5, 9)):
    image = torch.zeros(1, *shape)
    image[:, 2:-2, 3:-3] = 100 + 10 * torch.rand(1, shape[0] - 4, shape[1] - 6, *shape[2:])
    if spot:
        image[:, spot[0] : spot[1], spot[2] : spot[3]] = 300
    return MetaTensor(image, affine=torch.eye(4), meta={"filename_or_obj": "scan.nii"})


def region(image, **keys):
    entry = StandardiseSlicesd("image")({"image": image, **keys.pop("entry", {})})
    found = FindRegiond("image", **keys)(entry)["image"].meta
    return found["region"].tolist(), found["region_from"]


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array.astype(np.uint8), np.eye(4) if affine is None else affine), path)
    return str(path)


@pytest.mark.parametrize("factor", [1, 4])
def test_a_given_mask_on_either_grid(tmp_path, factor):
    mask = np.zeros((30, 34))
    mask[11:14, 20:29] = 2
    affine = grid_affine(np.eye(4), [1 / factor, 1 / factor, 1])
    path = save(tmp_path / "m.nii.gz", np.kron(mask, np.ones((factor, factor))), affine)
    for entry in ({"guide": [path]}, {"label": path}):  # the bundle's own, and MONAI Label's
        assert region(scan(), entry=entry) == ([[6, 19], [18, 31]], "mask")


def test_a_lesion_at_the_border_keeps_its_region_inside(tmp_path):
    mask = np.zeros((30, 34))
    mask[0:3, 31:34] = 1
    found, _ = region(scan(), entry={"guide": [save(tmp_path / "m.nii", mask)]})
    assert found == [[0, 8], [26, 34]]


@pytest.mark.parametrize(("memory_gb", "most"), [(4, 16), (5.5 * 800 * 32 * 48 / 2**30, 5), (1e-9, 1)])
def test_memory_bounds_the_slices_taken_together(memory_gb, most):
    network, given = Bright(), []
    network.register_forward_hook(lambda _, given_to, out: given.append(len(given_to[0])))
    image = scan((30, 34, 20), None)
    image[:, 10:14, 20:29, 5:9] = 300
    finder = FindRegiond("image", detector="network", weights=__file__, network=network, memory_gb=memory_gb)
    found = finder(StandardiseSlicesd("image")({"image": image}))["image"].meta["region"].tolist()
    assert max(given) == most and sum(given) == 20
    assert found[2] == [4, 10]  # neighbouring slices share what they saw


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_has_one_region_for_all_its_slices(tmp_path, axis):
    image = scan((30, 34, 20), None)
    mask = np.zeros((30, 34, 20))
    mask[10:14, 20:29, 5:9] = 1
    mask[12, 18, 7] = 1
    moved = MetaTensor(torch.movedim(image.as_tensor(), 3, axis + 1), affine=torch.eye(4), meta=dict(image.meta))
    entry = {"image": moved, "guide": [save(tmp_path / "m.nii", np.moveaxis(mask, 2, axis))]}
    entry = StandardiseSlicesd("image", axis)(entry)
    found = FindRegiond("image", margin=1, minimum=4)(entry)["image"].meta["region"].tolist()
    assert found == [[5, 18], [17, 30], [5, 9]]


def test_no_lesion_falls_back_to_the_foreground_and_says_so(tmp_path, capsys):
    path = save(tmp_path / "m.nii", np.zeros((30, 34)))
    found, way = region(scan(spot=None), entry={"guide": [path]})
    assert found == [[0, 28], [3, 31]] or found == [[1, 29], [3, 31]]
    assert way == "foreground, no lesion found by mask"
    assert "scan.nii: no lesion found by mask; the foreground's box is taken instead" in capsys.readouterr().out


def test_the_foreground_s_box():
    assert region(scan(), detector="foreground") == region(scan())  # no mask, no weights
    assert region(scan(), detector="foreground")[1] == "foreground"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("background", [0, -1000])
def test_the_foreground_of_a_volume_with_blank_slices_and_a_margin(axis, background):
    image = torch.full((1, 40, 44, 14), float(background))
    image[:, 8:24, 10:26, 3:11] += 400 + 50 * torch.rand(1, 16, 16, 8)
    moved = MetaTensor(image.movedim(3, axis + 1), affine=torch.eye(4), meta={"filename_or_obj": "scan.nii"})
    entry = StandardiseSlicesd("image", axis)({"image": moved})
    assert (entry["image"].as_tensor()[0, 0, 0, :3] == 0).all() and entry["image"][0, 0, 0, 5] < -2
    assert FindRegiond("image")(entry)["image"].meta["region"].tolist() == [[8, 24], [10, 26], [3, 11]]


def test_an_image_smaller_than_the_region_is_taken_whole(tmp_path, capsys):
    mask = np.zeros((6, 34))
    mask[2, 10] = 1
    found, _ = region(scan((6, 34), None), entry={"guide": [save(tmp_path / "m.nii", mask)]})
    assert found == [[0, 6], [6, 14]]
    assert "smaller than the least region of 32 pixels" in capsys.readouterr().out


def test_the_network_s_way(tmp_path):
    keys = {"weights": __file__, "network": Bright()}
    assert region(scan(), **keys) == ([[18, 28], [2, 12]], "network")
    assert region(scan(spot=None), detector="network", **keys)[1] == "foreground, no lesion found by network"
    mask = save(tmp_path / "m.nii", np.ones((30, 34)))
    assert region(scan(), entry={"guide": [mask]}, detector="network", **keys)[1] == "network"


@pytest.mark.parametrize("features", [(16, 16, 32, 64, 64, 16), (4, 4, 6, 8, 8, 4)])
def test_weights_tell_their_detector(tmp_path, features):
    network = LesionDetector(features)
    with torch.no_grad():
        network.final_conv.bias.fill_(-9)  # finds nothing
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert region(scan(), weights=str(tmp_path / "w.pt"))[1] == "foreground, no lesion found by network"
    made = build(LesionDetector, tmp_path / "w.pt", {})
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}


def test_weights_of_something_else_are_no_detector(tmp_path):
    torch.save(Bright().state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="not the weights of a lesion detector"):
        region(scan(), weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"detector": "eyes"}, "detector must be one of mask, network, foreground"),
        ({"detector": "mask"}, "no mask is given; add --mask"),
        ({"detector": "network", "weights": "none.pt"}, "none.pt is not there"),
    ],
)
def test_a_detector_that_cannot_be(keys, text):
    with pytest.raises(InputError, match=text):
        region(scan(), **keys)


@pytest.mark.parametrize("shape", [(8, 9), (17, 23), (5, 40), (16, 32, 3)])
def test_detection_takes_every_size(shape):
    network = LesionDetector().eval()
    assert detect(network, torch.randn(shape)).shape == shape


def test_a_lesion_grows_from_what_is_sure_and_too_little_is_none():
    slices = torch.full((20, 30), -9.0)
    slices[3:6, 4:14] = 1.85  # of the network that takes 2 for even chances: likely
    slices[4, 5:8] = 4  # and sure
    slices[12:18, 4:14] = 1.85  # likely all over is not enough
    slices[15, 20:22] = 9  # two pixels are no lesion
    mask = detect(Bright(), slices)
    assert mask.sum() == 30 and mask[3:6, 4:14].all()
    assert not detect(Bright(), slices[8:]).any()


def test_only_the_largest_lesion_is_kept():
    slices = torch.zeros(20, 30, 6)
    slices[3:6, 4:7, 1:5] = 5
    slices[15, 20:23, 1:5] = 5
    mask = detect(Bright(), slices)
    assert mask[3:6, 4:7, 1:5].all() and not mask[15].any() and not mask[..., 8:].any()
    masks = DetectorInferer()(slices.movedim(2, 0)[:, None], Bright())  # each slice by itself
    assert masks.shape == (6, 1, 20, 30) and masks.sum() == 4 * 9
    volume = DetectorInferer()(slices[None, None], Bright())
    assert torch.equal(volume[0, 0].bool(), mask)


def volumes():
    image = torch.rand(40, 48, 8) + 1
    mask = torch.zeros(40, 48, 8)
    mask[8:24, 12:32, 2:6] = 1
    return [{"image": MetaTensor(torch.stack([image, mask]), meta={"filename_or_obj": "v.nii"})}]


@pytest.mark.parametrize("size", [32, 48])
def test_training_samples(size):
    data, again = DetectorSlices(volumes(), 12, size, seed=1), DetectorSlices(volumes(), 12, size, seed=1)
    items = [data[i] for i in range(12)]
    assert all(item["image"].shape == item["label"].shape == (1, size, size) for item in items)
    assert all(set(item["label"].unique().tolist()) <= {0.0, 1.0} for item in items)
    # all of a slice fits, so whole lesions do: 4 by 5 pixels
    assert {int(item["label"].sum()) for item in items} == {0, 20}
    data.set_epoch(1)
    assert any(not torch.equal(data[i]["image"], again[i]["image"]) for i in range(12))
    with pytest.raises(InputError, match="multiple of 16"):
        DetectorSlices(volumes(), 4, 20)


def test_samples_are_augmented_by_their_own_randomness():
    augment = Compose([RandHistogramShift(prob=1.0), RandBiasField(degree=2, coeff_range=(-0.3, 0.3), prob=1.0)])
    item = volumes()[0]
    plain, changed, again = (DetectorSlices([item], 6, 32, 1, augment=a) for a in (None, augment, augment))
    for index in (3, 0, 5):
        one, other, same = (data[index] for data in (plain, changed, again))
        assert not torch.equal(one["image"], other["image"]) and torch.equal(other["image"], same["image"])
        assert torch.equal(one["label"], other["label"])
        assert other["image"].isfinite().all()


@pytest.mark.parametrize("step", [1, 2])
def test_held_out_volumes(step):
    torch.manual_seed(0)
    data = HeldOutVolumes(volumes(), step=step)
    item = data[0]
    shape = (1, 10, 12, 8 // step)
    assert len(data) == 1 and item["label"].shape == item["foreground"].shape == item["image"].shape == shape
    assert item["label"].sum() == 20 * 4 / step and item["foreground"].sum() >= 60 * 8 / step
    assert abs(float(item["image"][..., 1].mean())) < 0.2  # standardised over the foreground


def healthy():
    image = torch.zeros(2, 80, 96, 8)
    image[0, 8:72, 8:88] = 100 + 5 * torch.randn(64, 80, 8)
    return [{"image": MetaTensor(image, meta={"filename_or_obj": "h.nii"})}]


def test_a_healthy_brain_is_given_made_lesions():
    brains = healthy()
    plain, ill = DetectorSlices(brains, 20, 32), DetectorSlices(brains, 20, 32, lesion=RandLesion(0.5))
    areas = []
    for i in range(20):
        one, other = plain[i], ill[i]
        assert one["label"].sum() == 0
        areas.append(float(other["label"].sum()))
        assert torch.equal(one["image"], other["image"]) == (areas[-1] == 0)
    assert 3 < sum(area > 0 for area in areas) < 17 and len(set(areas)) > 4
    again = DetectorSlices(brains, 20, 32, lesion=RandLesion(0.5))
    assert all(torch.equal(again[i]["image"], ill[i]["image"]) for i in (7, 2))


@pytest.mark.parametrize("seed", range(6))
def test_a_made_lesion_changes_the_tissue_inside_its_mask(seed):
    image = torch.zeros(40, 44)
    image[4:36, 4:40] = 100 + 10 * torch.randn(32, 36, generator=torch.Generator().manual_seed(seed))
    made, mask = RandLesion(1.0, (4, 9)).set_random_state(seed)(image, torch.zeros(40, 44))
    assert 8 < mask.sum() < 700 and set(mask.unique().tolist()) == {0.0, 1.0}
    assert not mask[image == 0].any() and torch.equal(made[image == 0], image[image == 0])
    change = (made - image).abs()
    assert change[mask > 0].mean() > 3 and change[mask > 0].mean() > 4 * change[mask == 0].mean()
    assert torch.equal(RandLesion(0.0)(image, mask)[0], image)


def test_coverage_counts_the_lesion_inside_the_region():
    truth = torch.zeros(3, 1, 40, 40)
    truth[:, :, 4:6, 4:8] = 1
    pred = torch.zeros_like(truth)
    pred[0, :, 5, 5] = 1  # a region of 8 pixels around it holds the lesion
    pred[1, :, 35, 35] = 1
    metric = RegionCoverage()
    metric(pred, truth)
    assert metric.get_buffer().flatten().tolist() == [1.0, 0.0, 0.0]
    assert metric.aggregate().item() == pytest.approx(1 / 3)


def test_coverage_of_a_volume_counts_all_slices():
    truth = torch.zeros(1, 1, 40, 40, 10)
    truth[..., 4:6, 4:8, 2:8] = 1
    pred = torch.zeros_like(truth)
    pred[0, 0, 5, 5, 2:5] = 1  # in half of the slices
    metric = RegionCoverage()
    metric(pred, truth)
    assert metric.aggregate().item() == pytest.approx(0.5)
