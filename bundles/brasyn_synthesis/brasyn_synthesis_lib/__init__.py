# SPDX-License-Identifier: Apache-2.0
"""What only the synthesis bundle needs: its networks, cases, histograms, inference and scores."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles 0.2":
    found = ", ".join(common.__path__)
    raise ImportError(f"brasyn_synthesis needs the package 'common' of restoration-bundles 0.2, found {found}")

from . import (
    augmentation,
    data,
    inferers,
    losses,
    metrics,
    networks,
    recipe,
    regression,
    segmentation,
    standardisation,
    transforms,
    volumes,
)

__all__ = [
    "augmentation",
    "data",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "recipe",
    "regression",
    "segmentation",
    "standardisation",
    "transforms",
    "volumes",
]
