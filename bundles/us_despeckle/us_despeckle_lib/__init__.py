# SPDX-License-Identifier: Apache-2.0
"""What only the despeckling bundle needs: networks, frames of scanners, stages, and metrics of speckle."""

import common

if getattr(common, "__bundle_collection__", None) != "restoration-bundles 0.2":
    found = ", ".join(common.__path__)
    raise ImportError(f"us_despeckle needs the package 'common' of restoration-bundles 0.2, found {found}")

from . import (
    data,
    frames,
    inferers,
    losses,
    metrics,
    networks,
    patches,
    pictures,
    recipe,
    reference,
    region,
    rois,
    savers,
    scores,
    stages,
    transforms,
)

__all__ = [
    "data",
    "frames",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "patches",
    "pictures",
    "recipe",
    "reference",
    "region",
    "rois",
    "savers",
    "scores",
    "stages",
    "transforms",
]
