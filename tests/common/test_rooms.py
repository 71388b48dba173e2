# SPDX-License-Identifier: Apache-2.0
"""The rooms of common import in one direction."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import common


def test_no_room_imports_another_that_imports_it():
    root = Path(common.__file__).parent
    rooms: dict[str, set[str]] = {}
    for file in root.rglob("*.py"):
        inside = file.relative_to(root).parts
        if len(inside) == 1 and file.name != "errors.py" and file.name != "metrics.py":
            continue
        room = inside[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("common."):
                rooms.setdefault(room, set()).add(str(node.module).split(".")[1])
    for room, needed in rooms.items():
        needed.discard(room)
    assert list(TopologicalSorter(rooms).static_order())[-1] == "engine"  # a circle raises CycleError
