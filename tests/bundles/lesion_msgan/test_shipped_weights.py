# SPDX-License-Identifier: Apache-2.0
"""The shipped weights: they fit, and they are better than interpolation on a brain that none of them has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import lesion_msgan_lib
from common.data.sample_data import make_brain_case
from common.inferers import RegionInferer
from common.io.weights import build, load_into
from common.metrics import RegionPSNR, RegionSSIM
from lesion_msgan_lib.data import LesionSlices
from lesion_msgan_lib.degradation import WAYS
from lesion_msgan_lib.detection import LesionDetector
from lesion_msgan_lib.networks import MultiScaleGenerator, fold
from lesion_msgan_lib.transforms import RestoreRegiond

MODELS = Path(lesion_msgan_lib.__file__).parents[1] / "models"
SEED = 2026  # of no brain that the weights were trained on, see the card


def shipped(name, kind=MultiScaleGenerator):
    file = MODELS / name
    if not file.is_file():
        pytest.skip("this checkout has no weights")
    return load_into(build(kind, file, {}), file)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("model.pt", MultiScaleGenerator), ("msgan.pt", MultiScaleGenerator), ("detector/model.pt", LesionDetector)],
)
def test_shipped_weights_tell_their_network_and_are_small(name, kind):
    shipped(name, kind)
    assert (MODELS / name).stat().st_size < 1.5e6


@pytest.fixture(scope="module", params=list(WAYS))
def slices(request):
    """Three slices through the lesion, their low resolution made in each of the ways."""
    case = make_brain_case(SEED, (160, 192, 40))
    both = np.stack([case["t1c"], case["seg"] > 0]).astype(np.float32)
    return LesionSlices([{"image": MetaTensor(torch.from_numpy(both))}], slices=3, ways=request.param)


def gains(network, slices):
    """By how much a network beats bicubic interpolation in the lesion's region: PSNR in dB, and SSIM."""
    network, inferer, restore = fold(network.eval()), RegionInferer(), RestoreRegiond("pred")
    scores = {(kind, key): kind("whole") for kind in (RegionPSNR, RegionSSIM) for key in ("pred", "bicubic")}
    for item in (slices[i] for i in range(len(slices))):
        made = restore({"image": item["image"], "pred": inferer(item["image"][None], network)[0]})["pred"]
        for (_, key), score in scores.items():
            score((made if key == "pred" else item[key])[None], item["label"][None])
    means = {name: float(score.aggregate()) for name, score in scores.items()}
    return [means[kind, "pred"] - means[kind, "bicubic"] for kind in (RegionPSNR, RegionSSIM)]


def is_better(network, slices):
    psnr, ssim = gains(network, slices)
    return psnr > 1.0 and ssim > 0.02


def test_shipped_weights_beat_bicubic_on_a_brain_they_have_not_seen(slices):
    assert is_better(shipped("model.pt"), slices)


def test_the_adversarial_weights_do_so_for_the_way_that_they_were_trained_on(slices):
    if slices.downsample.ways != ["bicubic"]:
        pytest.skip("trained on bicubic down-sampling alone")
    assert is_better(shipped("msgan.pt"), slices)


def test_random_weights_do_not(slices):
    torch.manual_seed(0)
    network = MultiScaleGenerator(8, 2, 1)  # as it is made, bicubic interpolation
    assert not is_better(network, slices)
    network = MultiScaleGenerator(8, 2, 1)
    with torch.no_grad():
        for head in (network.head_x2, network.head_x4):
            head.weight.normal_(std=0.01)
    assert not is_better(network, slices)
