# SPDX-License-Identifier: Apache-2.0
"""The rows of the paper's table, and the recipes of the shipped weights: as they are described, and training."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

import lesion_msgan_lib
from lesion_msgan_lib.networks import MultiScaleGenerator, SRResNet

BUNDLE = Path(lesion_msgan_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
BRAIN = (48, 52, 24)  # voxels
NAMES = sorted(path.stem for path in (CONFIGS / "paper").glob("*.json"))
SMALL = {"filters": 2, "blocks": 1, "patches": 8, "batch_size": 2, "patch_size": 32, "critic_units": 8}
SMALL |= {"critic_filters": [4, 4, 8]}
BASE = {  # WGAN-GP, a row itself
    "network": SRResNet, "x2_head": False, "middle": 0, "game": "WassersteinGAN", "penalty": 10, "clip": None,
    "batch_norm": False, "weights": {"mse_x2": 0, "mse_x4": 1, "vgg": 0}, "adversarial": 0.001, "pretraining": 0,
    "detector": "mask",
}  # fmt: skip
GAN = {"game": "CriterionGAN", "penalty": 0, "pretraining": 50}
X2 = {"x2_head": True, "weights": {"mse_x2": 1, "mse_x4": 1, "vgg": 0}}
ROWS = {
    "base": {},
    "gan_pretrained": GAN,
    "wgan_pretrained": {"penalty": 0, "clip": 0.01, "pretraining": 50},
    "wgan": {"penalty": 0, "clip": 0.01},
    "wgan_gp_x2": X2,
    "ms_gan": {**X2, "network": MultiScaleGenerator, "middle": 6},
    "srresnet": {"adversarial": 0, "detector": "foreground"},
    "srgan": {**GAN, "batch_norm": True, "detector": "foreground"},
}
SHIPPED = {
    "shipped_weights": {"adversarial": 0, "rates": (0.0005, 0.0005), "patches": 1200, "best_by": "psnr"},
    "shipped_weights_gan": {"adversarial": 0.003, "rates": (0.0003, 0.0005), "patches": 1600, "best_by": "gms"},
}


def files(name):
    """Files of ``train.json`` and an overlay, the paper's on their base."""
    paper = dict.fromkeys(["paper/base", f"paper/{name}"]) if name in NAMES else [name]
    return [str(CONFIGS / f"{config}.json") for config in ("train", *paper)]


def load(name, **keys):
    parser = ConfigParser()
    parser.read_config(files(name))
    parser.update({"device": "cpu", **keys})
    parser.get_parsed_content("keys")
    return parser


def workflow(brains, folder, name, **keys):
    """An overlay's run, made small in sizes only."""
    places = {"dataset_dir": str(brains), "sequence": "t1c", "output_dir": str(folder / "runs"), "run_name": "run"}
    places |= {"ckpt_dir": str(folder / "models"), "device": "cpu"}
    made = ConfigWorkflow(files(name), workflow_type="train", logging_file=False, **{**places, **SMALL, **keys})
    made.initialize()
    return made


def test_every_overlay_is_a_row_and_stands_in_the_card():
    card = (BUNDLE / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert sorted(ROWS) == NAMES == sorted(set(re.findall(r"^\| [^|]+ \| `(\w+)` \|", card, re.MULTILINE)) & set(ROWS))


@pytest.mark.parametrize("name", NAMES)
def test_overlay_changes_only_what_train_json_has(name):
    overlay = ConfigParser.load_config_file(str(CONFIGS / "paper" / f"{name}.json"))
    base = ConfigParser.load_config_files(files("base"))
    assert [key for key in overlay if key.split("::")[0] not in base] == []
    if name != "base":
        assert [key for key, content in overlay.items() if base.get(key) == content] == []


@pytest.mark.parametrize("name", NAMES)
def test_overlay_is_what_the_row_says(name):
    parser = load(name, budget="paper")
    network = parser.get_parsed_content("network_def")
    game = parser.get_parsed_content("adversarial_loss")
    assert {
        "network": type(network),
        "x2_head": network.head_x2 is not None,
        "middle": len(network.middle),
        "game": type(game).__name__,
        "penalty": parser["penalty_weight"],
        "clip": parser["weight_clip"],
        "batch_norm": parser["discriminator_def"]["batch_norm"],
        "weights": parser.get_parsed_content("loss").weights,
        "adversarial": parser["adversarial_weight"],
        "pretraining": parser["pretraining"],
        "detector": parser["detector"],
    } == {**BASE, **ROWS[name]}


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_paper_s_numbers_and_none_of_our_additions(name):
    parser = load(name, budget="paper", critic_filters=[1], critic_units=1)
    rates = [parser.get_parsed_content(part).param_groups[0]["lr"] for part in ("optimizer", "discriminator_optimizer")]
    assert rates == [1e-4, 1e-4]  # "all experiments used the same initial learning rate"
    additions = ("orient", "zoom", "ema", "max_gradient_norm", "schedule", "degradation", "promote", "from_scratch")
    assert [parser[key] for key in additions] == [False, 1, 0, None, "step", ["bicubic"], False, True]
    assert parser["keep"] == "last" and parser.get_parsed_content("network_def").skip is False
    assert (parser["epochs"], parser["batch_size"], parser["patch_size"], parser["patches"]) == (300, 16, 96, None)


@pytest.mark.parametrize("name", NAMES)
def test_overlay_trains_from_random_weights_and_keeps_the_last(name, brains, tmp_path):
    made = workflow(brains, tmp_path, name, epochs=2)
    made.run()
    get = made.parser.get_parsed_content
    trainer, first = get("train::trainer"), 3 if ROWS[name].get("pretraining") else 0
    stages = [trainer.stage(epoch) for epoch in range(1, trainer.state.max_epochs + 1)]
    assert stages == ["generator"] * first + ["generator" if name == "srresnet" else "both"] * 2
    assert trainer.state.iteration == 4 * len(stages)  # critic and generator step on the same batches
    assert math.isfinite(trainer.state.metrics["train_loss"])
    largest = max(float(p.detach().abs().max()) for p in trainer.discriminator.parameters())
    assert (largest <= 0.01 + 1e-7) == bool(ROWS[name].get("clip"))
    assert get("session").start.source == "random initialisation"
    assert get("session").best.epoch == len(stages)
    assert not (tmp_path / "models").exists()


def test_rows_of_equal_data_have_equal_steps_of_the_game():
    """Critic and generator step on the same batches; epochs of pre-training come on top."""
    steps = {}
    for name in NAMES:
        parser = load(name, budget="short")
        assert parser["pretraining"] == (3 if ROWS[name].get("pretraining") else 0)
        steps[name] = parser["epochs"] * parser["patches"] // parser["batch_size"] // parser["critic_steps"]
    card = (BUNDLE / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert set(steps.values()) == {int(re.search(r"(\d+) generator steps", card)[1])}


@pytest.mark.parametrize("name", SHIPPED)
def test_recipes_of_the_shipped_weights(name, brains, tmp_path):
    parser = load(name)
    assert parser.get_parsed_content("keys")["network"] == {"filters": 24, "blocks": 8, "middle_blocks": 3}
    start = tmp_path / "start.pt"
    torch.save(MultiScaleGenerator(2, 1, 1).state_dict(), start)
    made = workflow(brains, tmp_path, name, weights=str(start), epochs=1)
    made.run()
    get = made.parser.get_parsed_content
    found = {
        "adversarial": get("train::trainer").adversarial_weight,
        "rates": tuple(get(part).param_groups[0]["initial_lr"] for part in ("optimizer", "discriminator_optimizer")),
        "patches": parser["patches"],
        "best_by": get("best_by"),
    }
    assert found == SHIPPED[name] and get("session").start.source == str(start)
    assert (tmp_path / "runs" / "run" / "best.pt").is_file() and not (tmp_path / "models").exists()


def test_a_run_is_repeated_from_its_own_record(brains, tmp_path):
    workflow(brains, tmp_path, "wgan", epochs=1, seed=3).run()
    record = tmp_path / "runs" / "run" / "config.json"
    told = json.loads(record.read_text(encoding="utf-8"))
    assert (told["weight_clip"], told["penalty_weight"], told["budget"], told["epochs"]) == (0.01, 0, "short", 1)
    keys = {"dataset_dir": str(brains), "output_dir": str(tmp_path / "again"), "ckpt_dir": str(tmp_path / "models")}
    again = ConfigWorkflow(str(record), workflow_type="train", logging_file=False, **keys)
    again.initialize()
    again.run()
    first, second = (torch.load(tmp_path / name / "run" / "last.pt", weights_only=True) for name in ("runs", "again"))
    for part in ("network", "discriminator"):
        assert all(torch.equal(tensor, second[part][key]) for key, tensor in first[part].items())
