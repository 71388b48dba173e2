# SPDX-License-Identifier: Apache-2.0
"""What a user writes on the command line, as plain values; and the choice of a budget."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Sequence
from typing import Any

import torch

from common.errors import InputError

__all__ = [
    "amp_pays",
    "boolean",
    "choice",
    "choose_budget",
    "device_of",
    "names",
    "number",
    "optional",
    "quantity",
    "triple",
    "value",
]

LARGEST = sys.float_info.max  # a longer whole number has no float
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None, "none": None}


def value(given: Any) -> Any:
    """What a key's text means: "true" is True, "null" is None, "0" is 0, "[1, 1, 2]" a list; other texts stay.

    The command line hands keys over as texts in many forms; values that are no texts pass through.
    """
    if not isinstance(given, str):
        return given
    text = given.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last three of nested brackets
        return text or None


def optional(given: Any) -> str | None:
    """A text such as a folder's name, or None; numbers are taken as text again."""
    plain = value(given)
    return None if plain is None else str(given).strip()


def boolean(given: Any) -> bool:
    """A switch: true/false, yes/no, on/off, 1/0.

    Raises:
        InputError: anything else.
    """
    plain = value(given)
    if plain in (None, False, 0):
        return False
    if plain in (True, 1):
        return True
    raise InputError(f"expected true or false, got {given!r}")


def names(given: Any) -> list[str]:
    """A list of names from a list, its text, or one name; None is an empty list."""
    plain = value(given)
    if plain is None:
        return []
    return [str(name) for name in plain] if isinstance(plain, list | tuple) else [str(plain)]


def number(given: Any) -> float | None:
    """A finite number, or None for anything else; true and false are no numbers."""
    plain = value(given)
    known = isinstance(plain, int | float) and not isinstance(plain, bool) and abs(plain) <= LARGEST
    return float(plain) if known else None


def quantity(
    given: Any, name: str, least: float = -math.inf, most: float = math.inf, whole: bool = False, empty: bool = False
) -> Any:
    """A key's number within bounds.

    Args:
        given: a number or its text.
        name: the key, for the error.
        least: lower bound, allowed itself.
        most: upper bound, allowed itself.
        whole: takes and returns an integer.
        empty: null is allowed and stays None.

    Raises:
        InputError: no number, or one that cannot be.
    """
    plain = number(given)
    if empty and value(given) is None:
        return None
    if plain is None or not least <= plain <= most or (whole and not plain.is_integer()):
        bounds = f" from {least:g}" * math.isfinite(least) + f" up to {most:g}" * math.isfinite(most)
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{name} must be {kind}{bounds}{' or null' if empty else ''}; got {given!r}")
    return int(plain) if whole else plain


def choice(given: Any, name: str, options: Sequence[Any]) -> Any:
    """One of a key's few values.

    Args:
        given: a value or its text.
        name: the key, for the error.
        options: plain values.

    Raises:
        InputError: another value.
    """
    plain = value(given)
    if isinstance(plain, bool) or plain not in options:
        texts = ["null" if option is None else str(option) for option in options]
        raise InputError(f"{name} must be {' or '.join(texts)}; got {given!r}")
    return options[options.index(plain)]


def triple(given: Any, name: str) -> tuple[float, float, float] | None:
    """Three positive numbers for three axes from one number, a list or its text; None stays None.

    Raises:
        InputError: other than one or three positive numbers.
    """
    plain = value(given)
    if plain is None:
        return None
    numbers = tuple(plain) if isinstance(plain, list | tuple) else (plain,) * 3
    if len(numbers) != 3 or not all(type(n) in (int, float) and 0 < n <= LARGEST for n in numbers):
        raise InputError(f"{name} must be one or three positive numbers, such as [1,1,2]; got {given!r}")
    first, second, third = map(float, numbers)
    return first, second, third


def device_of(given: Any) -> torch.device:
    """The device of a key that may be a text or a device.

    Raises:
        InputError: no such device.
    """
    if isinstance(given, torch.device):
        return given
    try:
        return torch.device(str(given))
    except RuntimeError as error:
        raise InputError(f"device {given!r} is unknown; use cpu, cuda or cuda:1") from error


def amp_pays(device: Any) -> bool:
    """Whether mixed precision makes a device faster: GPUs, and CPUs that compute bfloat16 natively.

    A CPU without such instructions emulates them and is several times slower than in float32.
    """
    if device_of(device).type != "cpu":
        return device_of(device).type == "cuda"
    if hasattr(torch.cpu, "get_capabilities"):
        can = torch.cpu.get_capabilities()
        return any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_budget(budgets: dict[str, dict], name: Any, dataset_dir: Any, device: Any) -> dict:
    """The named set of numbers; without a name "sample" for the sample data, "paper" on a GPU, "short" on a CPU.

    Returns:
        The budget's numbers with its name as "name".

    Raises:
        InputError: unknown name.
    """
    name = optional(name)
    if name is None:
        own_data = "short" if device_of(device).type == "cpu" else "paper"
        name = "sample" if optional(dataset_dir) is None else own_data
    if name not in budgets:
        raise InputError(f"budget {name!r} is unknown; choose one of {', '.join(budgets)}")
    return {**budgets[name], "name": name}
