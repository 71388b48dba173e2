# SPDX-License-Identifier: Apache-2.0
"""Augmented variants of cases, and contrasts of stacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from brasyn_synthesis_lib.augmentation import AugmentCased, JitterContrast, tumour
from brasyn_synthesis_lib.data import SEQUENCES
from common.data.sample_data.brain import make_brain_case

SHAPE = (40, 44, 36)


@pytest.fixture(scope="module")
def case():
    made = make_brain_case(3, SHAPE)
    images = {name: MetaTensor(made[name][None]) for name in SEQUENCES}
    return {**images, "seg": MetaTensor(torch.zeros(1, *SHAPE)), "case": "one"}


def variant(case, number=1, seed=0, **kwargs):
    steps = AugmentCased(**{"tumour": 0, "bias": 0, "blur": 0, **kwargs})
    return steps({**case, "variant": number, "seed": seed})


def test_an_entry_without_variant_is_the_case_itself(case):
    made = AugmentCased(tumour=1, bias=1, blur=1)(case)
    assert made.keys() == case.keys() and all(torch.equal(made[name], case[name]) for name in (*SEQUENCES, "seg"))


def test_a_variant_follows_from_seed_number_and_case(case):
    everything = {"tumour": 1, "bias": 1, "blur": 1}
    made = variant(case, **everything)
    again = variant(case, **everything)
    assert all(torch.equal(made[name], again[name]) for name in (*SEQUENCES, "seg"))
    for other in (
        variant(case, 2, **everything),
        variant(case, seed=1, **everything),
        variant({**case, "case": "two"}, **everything),
    ):
        assert not torch.equal(made["t2w"], other["t2w"])


def test_background_and_brain_stay_apart(case):
    for number in range(1, 6):
        made = variant(case, number, tumour=1, bias=1, blur=1)
        for name in SEQUENCES:
            outside = case[name] == 0
            assert torch.equal(made[name][outside], case[name][outside])
            assert (made[name][~outside] > 0).all()


def test_the_rim_enhances_and_oedema_is_bright_where_the_labels_say(case):
    contrast = {}
    for number in range(1, 9):
        made = variant(case, number, tumour=1)
        unlike = made["seg"] != case["seg"]
        for name in SEQUENCES:
            changed = made[name] != case[name]
            share = float((changed & unlike).sum() / unlike.sum())
            assert share > 0.95  # what is labelled has been painted
            median = case[name][case[name] > 0].median()
            for label, part in ((3, "rim"), (2, "oedema")):
                where = made["seg"] == label
                if where.sum() > 20:
                    contrast.setdefault((name, part), []).append(float(made[name][where].mean() / median))
    mean = {key: np.mean(values) for key, values in contrast.items()}
    assert mean["t1c", "rim"] > 1.3 > 1.05 > mean["t1n", "rim"]
    assert mean["t2f", "oedema"] > 1.2 and mean["t2w", "oedema"] > 1.2 and mean["t1n", "oedema"] < 1.05


def test_tumours_lie_in_the_brain_and_are_layered():
    brain = np.zeros((30, 32, 34), bool)
    brain[3:27, 4:28, 5:29] = True
    seen = set()
    for seed in range(6):
        window, parts, labels = tumour(np.random.default_rng(seed), brain)
        assert not labels[~brain[window]].any() and labels.any()
        assert all((part >= 0).all() and (part <= 1).all() for part in parts.values())
        assert parts["core"][labels == 1].min() > 0.5 and parts["core"][labels == 3].max() <= 0.5
        seen |= set(np.unique(labels))
    assert seen == {0, 1, 2, 3}


def test_blur_across_slices_takes_detail_along_one_axis(case):
    seen = set()
    for number in range(1, 10):
        made = variant(case, number, blur=1)
        for name in SEQUENCES:
            brain = case[name][0] > 0
            shares = []
            for axis in range(3):
                detail = [
                    float((x[0].diff(dim=axis).abs() * brain.narrow(axis, 0, brain.shape[axis] - 1)).mean())
                    for x in (made[name], case[name])
                ]
                shares.append(detail[0] / detail[1])
            seen.add(int(np.argmin(shares)))
            assert min(shares) < 0.96
    assert seen == {0, 1, 2}


def test_bias_fields_are_smooth_and_of_each_sequence(case):
    made = variant(case, bias=1)
    fields = [made[name] / case[name].clamp_min(1) for name in SEQUENCES]
    inside = case["t1n"] > 0
    for field in fields:
        assert 0 < float(field[inside].std()) < 1
    assert not torch.allclose(fields[0][inside], fields[1][inside])


def stack():
    random = torch.Generator().manual_seed(0)
    image = torch.rand(9, 12, 12, generator=random)
    image[:, :3] = 0
    return image, torch.rand(3, 12, 12, generator=random)


def test_contrast_curves_rise_and_leave_background_and_truth():
    image, label = stack()
    jitter = JitterContrast(noise=0, probability=1)
    random = np.random.default_rng(0)
    for _ in range(20):
        made, same = jitter(image, label, random)
        assert torch.equal(same, label) and (made[:, :3] == 0).all()
        for before, after in zip(image.chunk(3), made.chunk(3), strict=True):
            order = before.flatten().argsort()
            assert (after.flatten()[order].diff() >= -1e-6).all()  # one rising curve for all slices of a sequence
        assert not torch.allclose(made, image)


def test_no_change_where_none_is_wanted():
    image, label = stack()
    for jitter in (JitterContrast(probability=0), JitterContrast(0, 0, 0, 1)):
        assert torch.equal(jitter(image, label, np.random.default_rng(0))[0], image)


def test_noise_is_as_strong_as_said():
    image = torch.full((9, 64, 64), 0.5)
    spread = []
    for seed in range(40):
        made, _ = JitterContrast(0, 0, 0.1, 1)(image, image, np.random.default_rng(seed))
        spread.append(float(made.std()))
    assert max(spread) < 0.105 and 0.03 < np.mean(spread) < 0.07
