# SPDX-License-Identifier: Apache-2.0
"""How every tool runs its command line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire

__all__ = ["run_command"]


def run_command(
    job: Any,
    name: str,
    also: Sequence[type[Exception]] = (),
    text: Callable[[Exception], str] = str,
    **options: Any,
) -> Any:
    """Run a command line; what the user can put right is told in one line, with exit status 1.

    Args:
        job: function, or functions by name, as for ``fire.Fire``.
        name: of the program, as its help calls it.
        also: errors that the user can put right besides ValueError, TypeError and OSError.
        text: what is told of an error.
        options: further arguments of ``fire.Fire``.

    Returns:
        What the function gave.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a card's characters on a machine without a UTF-8 locale
        sys.stdout.reconfigure(errors="replace")
    function = job.get(next(iter(sys.argv[1:]), "")) if isinstance(job, Mapping) else job
    unknown = _unknown_options(function, sys.argv[1:])
    if unknown:  # fire itself says so only after the work
        sys.exit(f"error: no option {unknown[0]}; --help lists them")
    expected: tuple[type[Exception], ...] = (ValueError, TypeError, OSError, *also)
    try:
        return fire.Fire(job, name=name, **options)
    except expected as error:
        sys.exit(f"error: {text(error)}")


def _unknown_options(function: Any, words: Sequence[str]) -> list[str]:
    """Options of a command line that a function does not take."""
    if not callable(function) or "--" in words:
        return []
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    names = {word.split("=")[0] for word in words if word.startswith("--")}
    known = {"help", *parameters, *(f"no{name}" for name in parameters)}
    return sorted(name for name in names if name[2:].replace("-", "_") not in known)
