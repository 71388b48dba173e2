# SPDX-License-Identifier: Apache-2.0
"""What only the lesion bundle needs: its networks, regions, slices, detector, losses, scores and saver."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles 0.2":
    found = ", ".join(common.__path__)
    raise ImportError(f"lesion_msgan needs the package 'common' of restoration-bundles 0.2, found {found}")

from . import (
    cases,
    data,
    detection,
    detector,
    losses,
    metrics,
    networks,
    pictures,
    recipe,
    regions,
    savers,
    slices,
    training,
    transforms,
    volumes,
)

__all__ = [
    "cases",
    "data",
    "detection",
    "detector",
    "losses",
    "metrics",
    "networks",
    "pictures",
    "recipe",
    "regions",
    "savers",
    "slices",
    "training",
    "transforms",
    "volumes",
]
