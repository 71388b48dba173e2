# SPDX-License-Identifier: Apache-2.0
"""Parts that the bundles of this collection share: samplers, transforms, inferers, metrics, handlers, sample data."""

__version__ = "0.2.0"
__bundle_collection__ = "restoration-bundles 0.2"  # tells it from others called `common`

from . import (
    console,
    datasets,
    distributed,
    engine,
    engines,
    evaluators,
    handlers,
    image_pool,
    inferers,
    inputs,
    losses,
    metrics,
    provenance,
    runs,
    samplers,
    savers,
    settings,
    sharing,
    trainers,
    transforms,
    weights,
)

__all__ = [
    "console",
    "datasets",
    "distributed",
    "engine",
    "engines",
    "evaluators",
    "handlers",
    "image_pool",
    "inferers",
    "inputs",
    "losses",
    "metrics",
    "provenance",
    "runs",
    "samplers",
    "savers",
    "settings",
    "sharing",
    "trainers",
    "transforms",
    "weights",
]
