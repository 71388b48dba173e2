# SPDX-License-Identifier: Apache-2.0
"""What only the denoising bundle needs: its networks, noise, validation data, and inference transforms."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles 0.2":
    found = ", ".join(common.__path__)
    raise ImportError(f"rslm_denoise needs the package 'common' of restoration-bundles 0.2, found {found}")

from . import classical, data, metrics, networks, noise, recipe, transforms

__all__ = ["classical", "data", "metrics", "networks", "noise", "recipe", "transforms"]
