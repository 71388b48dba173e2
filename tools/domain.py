# SPDX-License-Identifier: Apache-2.0
"""Stores what weights were trained on with weights that lack it: what a training does with its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from monai.bundle import ConfigParser

from common.domain import CONTRAST, joined, training_domain
from common.weights import load_checkpoint, load_domain, save_atomically, with_domain
from tools.command import run_command
from tools.package import bundle_folder

__all__ = ["store"]


def store(name: str, weights: str, config: str = "train.json", add: bool = False, **keys: Any) -> None:
    """Measure training data, and store the domain with the weights; inference warns where a scan lies outside.

    All of the folder counts, unless --split names the subjects that were trained on. Trainings store it themselves.

    Args:
        name: a bundle
        weights: the file, which is rewritten with the same weights
        config: configurations in the bundle's folder, as a list behind train.json for more than one
        add: keep what the file knows already, as of data in another folder
        keys: of the training, such as --dataset_dir DIR --sequence t1w; without dataset_dir the sample data
    """
    folder = bundle_folder(name)
    import_module(f"{name}_lib")
    parser = ConfigParser()
    parser.read_config([folder / "configs" / one for one in ([config] if isinstance(config, str) else config)])
    parser.update({"from_scratch": True, **keys})
    entries, measured = parser.get_parsed_content("entries"), parser.get_parsed_content("session::measured")
    chosen = [*entries["train"], *([] if keys.get("split") else entries["validate"])]
    found = training_domain(measured, chosen)
    domain = joined(load_domain(weights), found) if add else found
    state = load_checkpoint(weights)
    save_atomically(with_domain(state, domain), weights)
    for measure, values in sorted(domain.items()):
        told = f"{len(values)} images" if measure.startswith(CONTRAST) else f"{values[0]:g} to {values[1]:g}"
        print(f"{measure}: {told}")
    print(f"{weights} tells it now, of {len(chosen)} entries" + (" and what it told before" if add else ""))


def main() -> None:
    """Run the command line."""
    run_command(store, "domain")


if __name__ == "__main__":
    main()
