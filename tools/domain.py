# SPDX-License-Identifier: Apache-2.0
"""Stores what weights were trained on with weights that lack it: what a training does with its own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from monai.bundle import ConfigParser

from common.engine.domain import CONTRAST, joined, training_domain
from common.io.inputs import root_cause
from common.io.weights import load_checkpoint, load_domain, save_atomically, with_domain
from common.utils.values import names
from tools.command import run_command
from tools.package import bundle_folder

__all__ = ["store"]


def store(
    name: str, weights: str | Sequence[str], config: str | Sequence[str] = "train.json", add: bool = False, **keys: Any
) -> None:
    """Measure training data, and store the domain with the weights; inference warns where a scan lies outside.

    All of the folder counts, unless --split names the subjects that were trained on. Trainings store it themselves.

    Args:
        name: a bundle
        weights: the file, or several trained alike, which are rewritten with the same weights
        config: the bundle's configuration of the training, or several, as a list in quotes
        add: keep what the files know already, as of data in another folder
        keys: of the training, such as --dataset_dir DIR --sequence t1w; without dataset_dir the sample data
    """
    folder = bundle_folder(name)
    import_module(f"{name}_lib")
    parser = ConfigParser()
    parser.read_config([folder / "configs" / one for one in names(config)])
    parser.update({"from_scratch": True, **keys})
    parser.get_parsed_content("keys")  # checks them
    parts = ["train"] if keys.get("split") else ["train", "validate"]
    chosen = [entry for part in parts for entry in parser.get_parsed_content(f"{part}::dataset::data")]
    found = training_domain(parser.get_parsed_content("session::measured"), chosen, len(chosen))
    for file in names(weights):
        domain = joined(load_domain(file), found) if add else found
        save_atomically(with_domain(load_checkpoint(file), domain), file)
        for measure, values in sorted(domain.items()):
            told = f"{len(values)} images" if measure.startswith(CONTRAST) else f"{values[0]:g} to {values[1]:g}"
            print(f"{measure}: {told}")
        print(f"{file} tells it now, of {len(chosen)} entries" + (" and what it told before" if add else ""))


def main() -> None:
    """Run the command line."""
    run_command(store, "domain", also=(RuntimeError,), text=lambda error: str(root_cause(error)))


if __name__ == "__main__":
    main()
