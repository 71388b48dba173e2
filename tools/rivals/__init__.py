# SPDX-License-Identifier: Apache-2.0
"""Methods that a reader would take instead of a bundle's network, one module per bundle.

Each module has ``SCORES`` (names of the scores, the one that decides first), ``LOWER`` (whether less is better),
``CAPTION`` (what the table's numbers are), ``WHOLE`` (places in the bundle's evaluation that make it one of whole
volumes), ``subject(case)`` (what counts as one case of the statistics) and ``rivals(evaluation, given)``.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from .rival import Rival

__all__ = ["BUNDLES", "Rival", "rivals_of"]

BUNDLES = ("mri_sr3d", "rslm_denoise", "us_despeckle", "brasyn_synthesis", "lesion_msgan")


def rivals_of(bundle: str) -> ModuleType:
    """The module of a bundle's rivals.

    Raises:
        ValueError: no such bundle.
    """
    if bundle not in BUNDLES:
        raise ValueError(f"bundle {bundle!r} is unknown; choose one of {', '.join(BUNDLES)}")
    return import_module(f"{__name__}.{bundle}")
