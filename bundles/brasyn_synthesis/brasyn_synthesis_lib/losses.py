# SPDX-License-Identifier: Apache-2.0
"""Weights of the objective's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import InputError
from common.utils.values import number, value

__all__ = ["TERMS", "checked_weights"]

TERMS = ("l1", "masked_l1", "ssim", "vgg", "frequency")


def checked_weights(given: Any) -> dict[str, float]:
    """Weights of all terms, 0 for those that are not named.

    Args:
        given: weights by term, or the text of that.

    Raises:
        InputError: no mapping, an unknown term, or a weight that is no number of 0 or more.
    """
    plain = value(given)
    if not isinstance(plain, Mapping):
        raise InputError(f"loss_weights must name terms with their weights, such as {{'l1': 1}}; got {given!r}")
    weights = dict.fromkeys(TERMS, 0.0)
    for name, text in plain.items():
        weight = number(text)
        if name not in TERMS or weight is None or weight < 0:
            raise InputError(f"loss_weights takes weights of 0 or more for {', '.join(TERMS)}; got {name}: {text!r}")
        weights[name] = weight
    return weights
