# SPDX-License-Identifier: Apache-2.0
"""What every run does: keys checked, weights and checkpoints loaded, progress shown, results told."""

from . import domain, engines, evaluators, image_pool, sharing, steps, trainers
from .keys import Key, Recipe, bundle_root, edges, flag, name, names, number, path, pick, scales, triple, whole
from .places import bundle_folder, installed_folders
from .session import Session
from .stages import Stage, StagePlan

__all__ = [
    "Key",
    "Recipe",
    "Session",
    "Stage",
    "StagePlan",
    "bundle_folder",
    "bundle_root",
    "domain",
    "edges",
    "engines",
    "evaluators",
    "flag",
    "image_pool",
    "installed_folders",
    "name",
    "names",
    "number",
    "path",
    "pick",
    "scales",
    "sharing",
    "steps",
    "trainers",
    "triple",
    "whole",
]
