# SPDX-License-Identifier: Apache-2.0
"""What only the denoising bundle needs: its networks, noise, validation data, and inference transforms."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles":
    raise ImportError(f"rslm_denoise needs the collection's package 'common', but found another at {common.__path__}")
if common.__version__.split(".")[:2] != ["0", "2"]:
    raise ImportError(f"rslm_denoise needs version 0.2 of the package 'common', but found {common.__version__}")

from . import classical, data, networks, noise, recipe, transforms

__all__ = ["classical", "data", "networks", "noise", "recipe", "transforms"]
