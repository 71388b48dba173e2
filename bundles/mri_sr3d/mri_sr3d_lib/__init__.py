# SPDX-License-Identifier: Apache-2.0
"""What only the super-resolution bundle needs: its network, its validation data, its inference transforms."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles 0.2":
    found = ", ".join(common.__path__)
    raise ImportError(f"mri_sr3d needs the package 'common' of restoration-bundles 0.2, found {found}")

from . import data, networks, recipe, training, transforms

__all__ = ["data", "networks", "recipe", "training", "transforms"]
