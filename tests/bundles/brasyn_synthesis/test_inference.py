# SPDX-License-Identifier: Apache-2.0
"""From files to files: standardised inputs, the target's weights, grids kept, and what cannot work."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate

from brasyn_synthesis_lib.data import SEQUENCES, inference_cases, inputs_of
from brasyn_synthesis_lib.inferers import TargetInferer, to_ras
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.standardisation import Standardisation
from brasyn_synthesis_lib.transforms import (
    CompactCased,
    LoadSequencesd,
    PackCased,
    RestoreStandardd,
    StandardiseInputsd,
    scaled_inputs,
)
from common.errors import InputError
from common.transforms.intensity import PERCENTILES

SHAPE = (20, 16, 12)
OBLIQUE = np.array([[0, -1.0, 0, 5], [0.99, 0, 0.1, -7], [0.1, 0, -0.99, 3], [0, 0, 0, 1]])


def some(target, top=110.0):
    marks = [round(100.0 * (p - 1) / 98, 4) for p in PERCENTILES]
    return Standardisation(target, dict.fromkeys(SEQUENCES, marks), dict.fromkeys(SEQUENCES, top))


@pytest.fixture
def models(tmp_path):
    """Weights of two targets that hand on the first or the third input."""
    for target, path, weights in (("t1c", "model.pt", [1, 0, 0]), ("t2w", "targets/t2w.pt", [0, 0, 1])):
        network = Generator(9, 2, 3)
        network.start_linear(weights, 0)
        some(target).write(network)
        file = tmp_path / "models" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), file)
    return str(tmp_path / "models")


def write_case(folder, names, affine=OBLIQUE):
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for i, name in enumerate(SEQUENCES):
        random = np.random.default_rng(i)
        image = np.zeros(SHAPE, np.float32)
        image[4:16, 3:13, 2:10] = 100 * (i + 1) * (1 + random.random((12, 10, 8)))
        images[name] = image
        if name in names:
            nib.save(nib.Nifti1Image(image, affine), folder / f"case-{name}.nii.gz")
    return images


def loaded(folder, models, target=None):
    (entry,) = inference_cases(folder, target)["entries"]
    data = StandardiseInputsd("image", models)(LoadSequencesd("image")(entry))
    return list_data_collate([data])


@pytest.mark.parametrize("target", ["t1c", "t2w"])
@pytest.mark.parametrize("views", [1, 9])
def test_each_target_has_its_own_weights_on_the_input_s_grid(tmp_path, models, target, views):
    write_case(tmp_path / "in", inputs_of(target))
    batch = loaded(tmp_path / "in", models)
    inferer = TargetInferer(models, views=views)
    with torch.inference_mode():
        made = inferer(batch["image"], Generator(9, 2, 3).eval())
    expected = batch["image"][0, 0 if target == "t1c" else 2].as_tensor()
    if views == 1:
        torch.testing.assert_close(made[0, 0], expected, atol=1e-5, rtol=0)
    assert np.corrcoef(made[0, 0].flatten(), expected.flatten())[0, 1] > 0.9
    item = {"pred": made[0], "image": batch["image"][0]}
    item["image"].meta.update({"target_scale": 110.0})
    pred = RestoreStandardd("pred")(item)["pred"]
    brain = (batch["image"][0] != 0).any(dim=0).as_tensor()
    torch.testing.assert_close(pred[0].as_tensor(), 110 * made[0, 0].clamp_min(0) * brain)
    np.testing.assert_allclose(pred.affine, OBLIQUE, atol=1e-6)
    assert inferer.work(batch["image"], Generator(9, 2, 3)) > 0


def test_what_is_outside_the_brain_is_0_and_holes_are_inside():
    image = torch.zeros(3, 8, 8, 8)
    image[0, 2:6, 2:6, 2:6] = 1
    image[1, 6, 3, 3] = 0.5
    image[0, 3, 3, 3] = 0
    pred = RestoreStandardd("pred", names=("a", "b"))({"pred": torch.ones(2, 8, 8, 8), "image": image})
    for name in ("a", "b"):
        assert pred[name].sum() == 4**3 + 1 and pred[name][0, 3, 3, 3] == 1 == pred[name][0, 6, 3, 3]


def test_axes_are_brought_to_right_anterior_superior():
    image = np.random.default_rng(0).random((4, 5, 6))
    for codes in ("RAS", "LPS", "SAL", "PIR"):
        target = nib.orientations.axcodes2ornt(codes)
        moved = nib.orientations.apply_orientation(
            image, nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target)
        )
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, target[:, 0].astype(int)] * target[:, 1]
        order, flips = to_ras(affine)
        np.testing.assert_array_equal(
            np.flip(moved.transpose(order), flips) if flips else moved.transpose(order), image
        )


def test_a_network_that_fits_is_used_as_it_is(tmp_path, models):
    write_case(tmp_path / "in", inputs_of("t1c"))
    batch = loaded(tmp_path / "in", models)
    network = Generator(9, 2, 3)
    network.load_state_dict(torch.load(f"{models}/model.pt", weights_only=True))
    inferer = TargetInferer(models)
    assert inferer.network_for(batch["image"].meta, network) is network
    other = inferer.network_for(batch["image"].meta, Generator(9, 2, 3))
    assert other is inferer.network_for(batch["image"].meta, Generator(9, 2, 3))  # loaded once


def test_one_4d_file_gives_what_the_folder_gives(tmp_path, models, capsys):
    images = write_case(tmp_path / "in", inputs_of("t2w"))
    stack = np.stack([images[name] for name in inputs_of("t2w")], axis=-1)
    nib.save(nib.Nifti1Image(stack, OBLIQUE), tmp_path / "stack.nii.gz")
    folder = loaded(tmp_path / "in", models)["image"]
    (entry,) = inference_cases(tmp_path / "stack.nii.gz", "t2w")["entries"]
    data = LoadSequencesd("image")(entry)
    torch.testing.assert_close(StandardiseInputsd("image", models)(data)["image"].as_tensor(), folder[0].as_tensor())
    # as MONAI Label hands it over: a path and a target
    data = LoadSequencesd("image")({"image": str(tmp_path / "stack.nii.gz"), "target": "t2w"})
    torch.testing.assert_close(StandardiseInputsd("image", models)(data)["image"].as_tensor(), folder[0].as_tensor())
    data = LoadSequencesd("image")({"image": str(tmp_path / "stack.nii.gz"), "target": None})
    assert data["image"].meta["target"] == "t1c"
    assert "no target is named, so its volumes are taken as t1n, t2w, t2f" in capsys.readouterr().out
    data = LoadSequencesd("image")({"image": str(tmp_path / "in"), "target": None})  # the missing one
    assert data["image"].meta["target"] == "t2w"
    (failure,) = inference_cases(tmp_path / "stack.nii.gz", None)["failures"]  # the command line asks
    assert "give --target" in failure[1]


def test_inputs_share_one_scale_and_keep_their_background():
    images = [torch.zeros(1, *SHAPE) for _ in range(3)]
    for i, image in enumerate(images):
        image[:, 4:16, 3:13, 2:10] = 50 * (i + 1) * (1 + torch.rand(12, 10, 8))
    scaled, brain, scale = scaled_inputs(images, ["t1n", "t2w", "t2f"], some("t1c"))
    assert not scaled[:, ~brain].any() and int(brain.sum()) == 12 * 10 * 8
    assert scaled.min() >= 0 and float(np.percentile(scaled[:, brain], 99.9)) == pytest.approx(1, abs=1e-3)
    assert 90 < scale < 120


def test_weights_that_are_exchanged_between_standardising_and_inference_are_refused(tmp_path, models):
    write_case(tmp_path / "in", inputs_of("t1c"))
    image = loaded(tmp_path / "in", models)["image"]
    network = Generator(9, 2, 3)
    some("t1c", top=90).write(network)
    torch.save(network.state_dict(), f"{models}/model.pt")
    with pytest.raises(InputError, match="other weights lie here"):
        TargetInferer(models)(image, Generator(9, 2, 3))
    some("t2w").write(network)
    torch.save(network.state_dict(), f"{models}/model.pt")
    with pytest.raises(InputError, match="these weights make t2w, not t1c"):
        loaded(tmp_path / "in", models)


def compact(**changes):
    item = {name: MetaTensor(torch.zeros(1, *SHAPE)) for name in (*SEQUENCES, "seg")}
    for i, name in enumerate(SEQUENCES):
        item[name][:, 4:16, 3:13, 2:10] = 10 * (i + 1) * (1 + torch.rand(12, 10, 8))
    item["seg"][:, 8:10, 8:10, 5:7] = 4
    item = {**item, "case": "one", **changes}
    return CompactCased()({name: value for name, value in item.items() if value is not None})


def test_a_case_is_kept_in_9_bytes_for_each_voxel_of_the_brain_s_box():
    item = compact()
    assert sum(t.nbytes for t in (item[name] for name in (*SEQUENCES, "seg"))) == 9 * 12 * 10 * 8
    low, high = item["ranges"][1].tolist()
    assert 20 <= low < high <= 40


def test_a_training_case_has_truth_tumour_and_brain():
    item = PackCased(some("t1c"))(compact())
    assert item["image"].shape == item["label"].shape == (3, 24, 22, 20)  # the brain's box and 6 voxels around it
    truth, tumour, brain = item["label"].float()
    assert float(truth.max()) == pytest.approx(100 / 110, rel=0.1)
    assert int(tumour.sum()) == 8 and int(brain.sum()) == 960
    assert not item["image"][:, brain == 0].any()
    assert not PackCased(some("t1c"))(compact(seg=None))["label"][1].any()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_kept_case_is_standardised_as_the_images_themselves(scale):
    images = {name: torch.zeros(1, *SHAPE) for name in SEQUENCES}
    for image in images.values():
        image[:, 4:16, 3:13, 2:10] = scale * (1 + torch.rand(12, 10, 8)) ** 3
    names = inputs_of("t1c")
    expected, _, _ = scaled_inputs([images[name] for name in names], names, some("t1c"))
    item = PackCased(some("t1c"))(CompactCased()({**images, "case": "one"}))
    box = (slice(None), slice(4, 16), slice(3, 13), slice(2, 10))
    torch.testing.assert_close(item["image"][:, 6:-6, 6:-6, 6:-6].float(), expected[box], atol=1e-3, rtol=0)


def test_training_cases_that_cannot_work():
    with pytest.raises(InputError, match=r"unknown labels \[7.0\]"):
        compact(seg=MetaTensor(torch.full((1, *SHAPE), 7.0)))
    elsewhere = torch.eye(4)
    elsewhere[0, 3] = 5
    with pytest.raises(InputError, match="lies on another grid"):
        compact(seg=MetaTensor(torch.zeros(1, *SHAPE), affine=elsewhere))
    with pytest.raises(InputError, match="different grids"):
        compact(seg=MetaTensor(torch.zeros(1, 3, 3, 3)))
