# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings print what they say; every loss, sampler and transform has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch
from monai.transforms import Transform
from torch import nn
from torch.utils.data import Dataset

import common.inferers
import common.losses
import common.samplers
import common.transforms

PACKAGES = (common.inferers, common.losses, common.samplers, common.transforms)
MODULES = [
    importlib.import_module(found.name)
    for package in PACKAGES
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
]
EXAMPLES = [example for module in MODULES for example in doctest.DocTestFinder(exclude_empty=True).find(module)]
EXAMPLES = [example for example in EXAMPLES if example.examples]
PARTS = [
    part
    for module in MODULES
    for _, part in inspect.getmembers(module, inspect.isclass)
    if part.__module__ == module.__name__ and not part.__name__.startswith("_")
    if issubclass(part, nn.modules.loss._Loss | Dataset | Transform) or ".losses." in part.__module__
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_prints_what_it_says(example):
    torch.manual_seed(0)
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_loss_a_sampler_and_a_transform_have_an_example(part):
    assert ">>>" in (part.__doc__ or "")
