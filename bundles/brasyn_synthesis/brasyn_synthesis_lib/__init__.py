# SPDX-License-Identifier: Apache-2.0
"""What only the synthesis bundle needs: its networks, cases, histograms, inference and scores."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles":
    raise ImportError(
        f"brasyn_synthesis needs the collection's package 'common', but found another at {common.__path__}"
    )
if common.__version__.split(".")[:2] != ["0", "2"]:
    raise ImportError(f"brasyn_synthesis needs version 0.2 of the package 'common', but found {common.__version__}")

from . import (
    augmentation,
    data,
    inferers,
    losses,
    metrics,
    networks,
    recipe,
    regression,
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
    "standardisation",
    "transforms",
    "volumes",
]
