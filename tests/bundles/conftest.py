# SPDX-License-Identifier: Apache-2.0
"""What the bundles' tests share: how configs are run, and all five with networks of a few weights and small data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

import brasyn_synthesis_lib
from brasyn_synthesis_lib.data import training_cases
from brasyn_synthesis_lib.standardisation import fit
from common.data.sample_data import write_brain_cases, write_probe_frames
from common.io.inputs import root_cause

BUNDLES = Path(brasyn_synthesis_lib.__file__).parents[2]
SIZES = [[3, 3, 1], 3, [3, 3, 1]]
NETWORKS: dict[str, dict[str, Any]] = {
    "mri_sr3d": {},
    "rslm_denoise": {},
    "us_despeckle": {},
    "brasyn_synthesis": {},
    "lesion_msgan": {},
}
TRAINING: dict[str, dict[str, Any]] = {
    "mri_sr3d": {"sequence": "t1c", "test_scales": [[2, 2, 2]]},
    "rslm_denoise": {"sequence": "t1c", "test_levels": [3], "critic_steps": 1},
    "us_despeckle": {"brightness_weight": 1},
    "brasyn_synthesis": {"discriminator_width": 4},
    "lesion_msgan": {"sequence": "t1c"},
}
EVALUATION: dict[str, dict[str, Any]] = {
    "mri_sr3d": {"crop": 16},
    "rslm_denoise": {"crop": 16, "compared": []},
    "us_despeckle": {"crop": 48},
    "brasyn_synthesis": {"slices": 4, "views": 1},
    "lesion_msgan": {"slices": 2, "degradation": "bicubic"},
}


def budget(name: str, rate: float = 0.001) -> dict[str, Any]:
    """Numbers of the shortest training: one epoch of a few batches at a learning rate."""
    patches = {"epochs": 1, "patches_per_volume": None, "patches": 8, "batch_size": 2, "patch_size": 12}
    return {
        "mri_sr3d": {
            **{**patches, "patch_size": 11, "learning_rate": rate, "fine_tuning_rate": rate},
            **{"val_volumes": 2, "val_crop": 16},
        },
        "rslm_denoise": {
            **{**patches, "network": {}, "objective": "paper", "learning_rate": rate},
            **{"fine_tuning_rate": rate, "val_volumes": 2, "val_crop": 16},
        },
        "us_despeckle": {
            **{"network": {"channels": 4, "blocks": 1}, "patch_size": 32, "batch_size": 2, "learning_rate": rate},
            **{"epochs": 1, "iterations": 2, "generator_steps": 2, "pool_size": 4, "val_frames": 2, "val_crop": 48},
            **{"discriminator_patch_size": 24, "discriminator_batch_size": 8, "discriminator_learning_rate": rate},
            **{"discriminator_channels": [4, 8], "identity_epochs": 1, "identity_samples": 8},
            **{"identity_learning_rate": rate, "pretraining_epochs": 1, "pretraining_samples": 8},
            **{"pretraining_batch_size": 4, "pretraining_learning_rate": rate},
        },
        "brasyn_synthesis": {
            **{"epochs": 1, "patches": 8, "batch_size": 2, "patch_size": 24, "learning_rate": rate},
            **{"halve_every": 10, "val_volumes": 2, "val_slices": 4},
        },
        "lesion_msgan": {
            **{**patches, "patch_size": 32, "critic_filters": [4, 4, 8], "critic_units": 8, "pretraining": 0},
            **{"learning_rate": rate, "fine_tuning_rate": rate, "schedule": "step", "val_volumes": 2, "val_slices": 2},
        },
    }[name]


@dataclass
class Tiny:
    """A bundle with its data, and keys that make it small."""

    name: str
    data: Path
    models: Path

    def files(self, *configs: str) -> list[str]:
        """Paths of configurations."""
        return [str(BUNDLES / self.name / "configs" / f"{config}.json") for config in configs]

    def several(self, *configs: str) -> list[str]:
        """Paths of configurations with their overlay for several processes."""
        files = self.files(*configs, f"multi_gpu_{configs[-1]}")
        return files if Path(files[-1]).is_file() else self.files(*configs, "multi_gpu")

    def keys(self, job: str, output_dir: Path, rate: float = 0.001, **more: Any) -> dict[str, Any]:
        """Keys of ``train``, ``evaluate`` or ``inference``."""
        keys = {"dataset_dir": str(self.data), "output_dir": str(output_dir), "ckpt_dir": str(self.models)}
        keys |= NETWORKS[self.name]
        if job != "inference":
            keys |= {"budgets": {"short": budget(self.name, rate)}, "val_fraction": 0.5, "promote": False}
            keys |= TRAINING[self.name]
        if job == "evaluate":
            keys |= EVALUATION[self.name]
        return {**keys, **more}


@pytest.fixture(scope="session")
def tiny_brains(tmp_path_factory):
    """Four brains with four sequences and a label map."""
    folder = tmp_path_factory.mktemp("brains")
    write_brain_cases(folder, 4, (48, 52, 24), progress=False)
    return folder


@pytest.fixture(scope="session")
def probes(tmp_path_factory):
    """Frames of two probes."""
    folder = tmp_path_factory.mktemp("probes")
    write_probe_frames(folder, 4, 96, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_brains, probes, tmp_path_factory):
    """A function that gives a bundle by name, with untrained weights in ``models``."""
    made: dict[str, Tiny] = {}

    def give(name: str) -> Tiny:
        if name not in made:
            models = tmp_path_factory.mktemp(name) / "models"
            made[name] = Tiny(name, probes if name == "us_despeckle" else tiny_brains, models)
            _write_weights(made[name])
        return made[name]

    return give


FORMS = {  # of networks that are built as their weights tell
    "mri_sr3d": {"num_layers": 3, "filters": 4},
    "us_despeckle": {"channels": 4, "blocks": 1},
    "brasyn_synthesis": {"width": 2, "depth": 3},
    "rslm_denoise": {"filters": 4, "filter_sizes": SIZES},
    "lesion_msgan": {"filters": 4, "blocks": 1, "middle_blocks": 1, "x2_head": True},
}


def _write_weights(bundle: Tiny) -> None:
    parser = ConfigParser()
    parser.read_config(bundle.files("inference"))
    if parser["network_def"]["_target_"] == "common.io.weights.build":
        parser["network_def"] |= {"from_scratch": True, "form": FORMS.get(bundle.name, {})}
    for key, value in NETWORKS[bundle.name].items():
        parser[key] = value
    torch.manual_seed(0)
    network, path = parser.get_parsed_content("network_def"), bundle.models / "model.pt"
    path.parent.mkdir()
    if bundle.name == "brasyn_synthesis":
        fit(training_cases(bundle.data), "t1c").write(network)
    torch.save(network.state_dict(), path)


@pytest.fixture(scope="module")
def brains(request, tmp_path_factory):
    """A folder of three sample cases with as many voxels as the module's ``BRAIN`` says."""
    folder = tmp_path_factory.mktemp("brains")
    write_brain_cases(folder, 3, request.module.BRAIN, progress=False)
    return folder


@pytest.fixture(scope="module")
def run(request):
    """Runs configs of the module's ``CONFIGS``, on the CPU if not told, with keys whose "__" stands for "::"."""

    def start(*names, **keys):
        files = [str(request.module.CONFIGS / f"{name}.json") for name in names]
        keys = {"device": "cpu", **keys}
        overrides = {key.replace("__", "::"): str(v) if isinstance(v, Path) else v for key, v in keys.items()}
        workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)
        workflow.initialize()
        workflow.run()
        return workflow

    return start


@pytest.fixture(scope="session")
def run_files():
    """Runs configuration files as they are to their end, as the command line would; gives the workflow."""

    def start(files, kind="train", tracking=None, **keys):
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, tracking=tracking, **keys)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    return start


@pytest.fixture(scope="session")
def line_of():
    """What the user is told of an error that ``pytest.raises`` caught."""
    return lambda error: str(root_cause(error.value))
