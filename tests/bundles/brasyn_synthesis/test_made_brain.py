# SPDX-License-Identifier: Apache-2.0
"""On a slab of a made brain that no training has seen: are the shipped weights any good, is the objective balanced."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

import brasyn_synthesis_lib
from brasyn_synthesis_lib.data import SEQUENCES, weights_of
from brasyn_synthesis_lib.metrics import scores_of
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.standardisation import Standardisation
from brasyn_synthesis_lib.transforms import CompactCased, PackCased, RestoreStandardd
from common.data.sample_data.brain import make_brain_case
from common.inferers import ViewsInferer
from common.io.weights import load_into

BUNDLE = Path(brasyn_synthesis_lib.__file__).parents[1]
SEED = 77  # of a single brain; those that the weights were trained on come of a set's seed and a number


@pytest.fixture(scope="module")
def slab():
    """A function that gives for a target its weights and, of a slab, inputs, label and inputs in the target's units.

    The slab is cut after the histograms are standardised: by itself it has others than the brains of the training.
    """
    case = make_brain_case(SEED)
    brain = {name: MetaTensor(torch.as_tensor(case[name])[None].float()) for name in (*SEQUENCES, "seg")}

    @functools.cache
    def give(target):
        path = weights_of(str(BUNDLE / "models"), target)
        if not Path(path).is_file():
            pytest.skip("this checkout has no weights")
        standardisation = Standardisation.read(path, target)
        item = PackCased(standardisation)(CompactCased()({**brain, "case": "made"}))
        middle = slice(item["image"].shape[-1] // 2 - 6, item["image"].shape[-1] // 2 + 6)
        image, label = (item[key][..., middle].float() for key in ("image", "label"))
        return path, image, label, image * (item["scale"] / standardisation.scale)

    return give


def healthy_ssim(network, image, label):
    with torch.inference_mode():
        made = ViewsInferer(views=1)(image[None], network.eval())[0]
    return scores_of(RestoreStandardd("pred")({"pred": made, "image": image})["pred"][0], label, "ssim")


@pytest.mark.parametrize("target", SEQUENCES)
def test_shipped_weights_beat_the_best_input_and_random_ones_do_not(slab, target):
    path, image, label, single = slab(target)
    best = max(scores_of(channel, label, "ssim") for channel in single)
    torch.manual_seed(0)
    network = Generator()
    random = healthy_ssim(network, image, label)
    shipped = healthy_ssim(load_into(network, path), image, label)
    print(f"{target}: best input {best:.4f}, random weights {random:.4f}, shipped {shipped:.4f}")
    assert random < best < shipped


def test_no_term_of_the_combined_objective_drowns_the_others(slab):
    *_, label, single = slab("t1c")
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.json")
    loss = parser.get_parsed_content("loss")
    prediction = single[:1].movedim(-1, 0).clone().requires_grad_(True)  # t1n, where the network starts about
    steepness = {}
    for name, term in loss.terms(prediction, label.movedim(-1, 0)).items():
        if term.requires_grad:  # not the perceptual one without its network
            (gradient,) = torch.autograd.grad(loss.weights[name] * term, prediction)
            steepness[name] = float(gradient.norm())
    print(steepness)
    # the authors' strength, which is twice as much for images in [0, 1] as for theirs in [-1, 1]
    assert steepness["frequency"] < 3 * (steepness["masked_l1"] + steepness["ssim"])
    assert steepness["frequency"] > 0.1 * steepness["masked_l1"]
