# SPDX-License-Identifier: Apache-2.0
"""What only the super-resolution bundle needs: its network, its validation data, its inference transforms."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles":
    raise ImportError(f"mri_sr3d needs the collection's package 'common', but found another one at {common.__path__}")
if common.__version__.split(".")[:2] != ["0", "2"]:
    raise ImportError(f"mri_sr3d needs version 0.2 of the package 'common', but found {common.__version__}")

from . import data, networks, recipe, training, transforms

__all__ = ["data", "networks", "recipe", "training", "transforms"]
