# SPDX-License-Identifier: Apache-2.0
"""The bundles, the keys of one, or what to do with a scan: ``python -m tools.bundles [NAME | SCAN_OR_FOLDER]``."""

from __future__ import annotations

import importlib
import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tools.command import run_command
from tools.package import bundle_folder, bundle_names
from tools.suggest import suggestions

__all__ = ["Key", "bundles", "keys_of", "main"]

CONFIGS = ("train", "inference", "evaluate")
WIDTH = 110  # of the printed text


@dataclass
class Key:
    """A key that a user may override: where it stands with which value, and what it means."""

    name: str
    defaults: dict[str, str]
    meaning: str


def bundles(name: str | None = None) -> None:
    """List the bundles; with a name, the keys that its commands take; with a file or folder, what can be done with it.

    Args:
        name: a bundle, such as mri_sr3d, or a file or folder of scans, frames or DICOM
    """
    if name is None:
        for each in bundle_names():
            metadata = _metadata(each)
            weights = bundle_folder(each) / "models" / "model.pt"
            size = f"weights {weights.stat().st_size / 2**20:.1f} MB" if weights.is_file() else "no weights"
            print(f"{each:<18}{metadata['version']:<8}{metadata['task']} ({size})")
        return
    if name not in bundle_names():
        print("\n".join(suggestions(str(name))))
        return
    print(f"{name} {_metadata(name)['version']}: {_metadata(name)['description']}\n")
    print(f"configurations and weights: {bundle_folder(name)}\n")
    for key in keys_of(name):
        values = set(key.defaults.values())
        told = values.pop() if len(values) == 1 else ", ".join(f"{v} ({c})" for c, v in key.defaults.items())
        where = "" if key.defaults.keys() >= set(CONFIGS) else f" [{', '.join(key.defaults)}]"
        print(textwrap.fill(f"--{key.name} {told}{where}", WIDTH, break_long_words=False, subsequent_indent="    "))
        print(textwrap.fill(key.meaning, WIDTH, initial_indent="    ", subsequent_indent="    "))


def _metadata(name: str) -> dict:
    return json.loads((bundle_folder(name) / "configs" / "metadata.json").read_text(encoding="utf-8"))


def keys_of(name: str) -> list[Key]:
    """Keys of the bundle's recipe, or in its card's table, with their defaults from the configurations.

    Args:
        name: a bundle.

    Raises:
        ValueError: the recipe or card tells of a key that no configuration has, or twice of one.
    """
    folder = bundle_folder(name)
    further = sorted(path.stem for path in (folder / "configs").glob("train_*.json"))  # of other networks
    configs = {
        config: json.loads((folder / "configs" / f"{config}.json").read_text(encoding="utf-8"))
        for config in (*CONFIGS, *further)
    }
    for key, value in configs["train"].items():  # an overlay: what it does not set is train.json's
        configs["evaluate"].setdefault(key, value)
    keys: list[Key] = []
    for key, meaning in _meanings(name):
        defaults = {config: _text(content[key]) for config, content in configs.items() if key in content}
        if not defaults:
            raise ValueError(f"{name}: the card tells of {key}, which no configuration has")
        if any(key == other.name for other in keys):
            raise ValueError(f"{name}: the card has two rows for {key}")
        keys.append(Key(key, defaults, meaning))
    return keys


def _meanings(name: str) -> list[tuple[str, str]]:
    try:
        return [(key.name, key.meaning) for key in importlib.import_module(f"{name}_lib.recipe").RECIPE.keys.values()]
    except ModuleNotFoundError:
        rows = _rows(bundle_folder(name) / "docs" / "README.md")
        return [(key, row[-1] or "see the card") for row in rows for key in re.findall(r"`(\w+)`", row[0])]


def _rows(card: Path) -> list[list[str]]:
    """Rows of the table under the heading "Keys"."""
    section = re.split(r"^## ", card.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = next((part for part in section if part.startswith("Keys")), "").splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in table]


def _text(value: object) -> str:
    if isinstance(value, str):
        return "(computed)" if value.startswith("$") else value
    return json.dumps(value)


def main() -> None:
    """Run the command line."""
    run_command(bundles, "bundles")


if __name__ == "__main__":
    main()
