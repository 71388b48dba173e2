# SPDX-License-Identifier: Apache-2.0
"""The overlays of the paper's experiments: complete, as in the figures, and training."""

from __future__ import annotations

import csv
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from common.data.sample_data import write_brain_cases
from common.errors import InputError
from common.io.inputs import root_cause
from common.utils.values import value

BUNDLE = Path(__file__).parents[3] / "bundles" / "mri_sr3d"
CONFIGS = BUNDLE / "configs"
TRAIN = CONFIGS / "train.json"
NAMES = sorted(path.stem for path in (CONFIGS / "paper").glob("*.json"))

X2, X3 = [[2, 2, 2]], [[3, 3, 3]]
SIX = [[2, 2, 2], [2, 2, 3], [2, 2.5, 2], [2, 3, 3], [2.5, 2.5, 2.5], [3, 3, 3]]
BASE = {
    "layers": 10, "filters": {64}, "sizes": {3}, "residual": True, "init": "he", "guides": 0, "scales": X2,
    "test_scales": X2, "optimizer": "Adam", "rate": 1e-4, "subjects": 10, "patch_size": 25, "patches": 3200,
}  # fmt: skip
CLINICAL = [0.8928, 0.8928, 6]
FIGURES = {
    "srcnn3d": {"layers": 3, "filters": {64, 32}, "sizes": {9, 1, 5}, "residual": False},
    "fig2_sgd_gc": {"optimizer": "SGD", "rate": 0.1},
    "fig2_nesterov": {"optimizer": "SGD"},
    "fig2_rmsprop": {"optimizer": "RMSprop"},
    "base": {},
    "fig3_init": {"init": "xavier"},
    "fig4_plain": {"residual": False},
    "fig5_depth": {"layers": 3},
    "fig6_filters": {"sizes": {5}},
    "fig7_patch_size": {"patch_size": 21},
    "fig8_subjects": {"subjects": 1},
    "table1_single": {"layers": 20, "test_scales": SIX},
    "table1_both": {"layers": 20, "scales": X2 + X3, "test_scales": SIX},
    "table1_double": {"layers": 20, "scales": X2 + X3, "test_scales": SIX, "patches": 6400},
    "table2_transfer": {"layers": 20},
    "fig10_guided": {"guides": 1},
    "fig12_guided_depth": {"guides": 1, "layers": 20},
    "fig15_clinical": {"layers": 20, "scales": [CLINICAL], "test_scales": [CLINICAL]},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny convolutions lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def overlay_cases(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("overlay-cases")
    write_brain_cases(folder, subjects=3, shape=(40, 48, 44), progress=False)
    return folder


def load(*names: str, **overrides) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(files(*names))
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", **overrides})
    parser.get_parsed_content("keys")
    return parser


def files(*names: str) -> list[str]:
    """Files of ``train.json``, the paper's base and overlays, as the card combines them."""
    paper = ["paper/base", *(f"paper/{name}" for name in names if name not in ("base", "evaluate"))] if names else []
    return [str(CONFIGS / f"{name}.json") for name in ("train", *(n for n in names if n == "evaluate"), *paper)]


def workflow(cases: Path, out: Path, *names: str, **overrides) -> ConfigWorkflow:
    """An overlay's run, made small in sizes only."""
    small = {
        "bundle_root": str(BUNDLE), "dataset_dir": str(cases), "sequence": "t1n", "output_dir": str(out / "runs"),
        "ckpt_dir": str(out / "models"), "run_name": "run", "budget": "sample", "val_fraction": 0.34, "device": "cpu",
        "memory_gb": 1, "epochs": 1, "patches": 4, "batch_size": 2, "patch_size": 9, "val_crop": 16,
    }  # fmt: skip
    if "srcnn3d" not in names:
        small["filters"] = 4
    made = ConfigWorkflow(
        config_file=files(*names),
        workflow_type="train",
        logging_file=False,
        **{**small, **overrides},
    )
    made.initialize()
    return made


def get(made: ConfigWorkflow, key: str):
    return made.parser.get_parsed_content(key)


def weights_of(made: ConfigWorkflow) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in get(made, "network").state_dict().items()}


def documented() -> dict[str, list[tuple[str, str]]]:
    """The card's rows: overlay name, then ``(key, value)`` of each point."""
    rows = {}
    for line in (BUNDLE / "docs" / "experiments.md").read_text(encoding="utf-8").splitlines():
        cells = line.split("|")
        name = re.fullmatch(r"`(\w+)`", cells[3].strip()) if len(cells) > 5 else None
        if name and name[1] != "NAME":
            points = [shlex.split(span) for span in re.findall(r"`(--[^`]+)`", cells[4])]
            rows.setdefault(name[1], []).extend((key.removeprefix("--"), text) for key, text in points)
    return rows


def test_every_overlay_has_a_figure_and_a_row_in_the_card():
    assert sorted(documented()) == sorted(FIGURES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_overlay_changes_only_what_train_json_has(name, monkeypatch):
    monkeypatch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")
    overlay = ConfigParser.load_config_file(str(CONFIGS / "paper" / f"{name}.json"))
    base = ConfigParser.load_config_files(files("base"))
    assert [key for key in overlay if key.removeprefix("+").split("::")[0] not in base] == []
    if name != "base":
        assert [key for key, content in overlay.items() if base.get(key) == content] == []


def test_the_papers_setting_has_none_of_our_additions():
    base = load("base")
    assert base["loss"]["_target_"] == "torch.nn.MSELoss"
    assert (base["jitter"], base["smoothing"], base["ema"], base["max_gradient_norm"]) == (0, 0, 0, None)
    assert (base["orient"], base["resample_patches"], base["promote"], base["from_scratch"]) == (
        False,
        False,
        False,
        True,
    )


def test_the_shipped_weights_have_a_budget_of_their_own():
    parser = ConfigParser()
    parser.read_config([str(TRAIN), str(CONFIGS / "shipped_weights.json")])
    parser.update({"device": "cpu"})
    assert parser.get_parsed_content("keys")["budget"] == "shipped"
    assert (parser["epochs"], parser["patches"], parser["learning_rate"]) == (32, 1600, 0.0003)


@pytest.mark.parametrize("name", NAMES)
def test_overlay_is_what_the_figure_says(name):
    wanted = {**BASE, **FIGURES[name]}
    parser = load(name, budget="paper")
    network = parser.get_parsed_content("network")
    convolutions = [layer for layer in network.layers if isinstance(layer, torch.nn.Conv3d)]
    optimizer = parser.get_parsed_content("optimizer")
    assert {
        "layers": len(convolutions),
        "filters": {layer.out_channels for layer in convolutions[:-1]},
        "sizes": {layer.kernel_size[0] for layer in convolutions},
        "residual": network.residual,
        "init": parser["network_def"]["init"],
        "guides": convolutions[0].in_channels - 1,
        "scales": parser["scales"],
        "test_scales": parser["test_scales"],
        "optimizer": type(optimizer).__name__,
        "rate": optimizer.param_groups[0]["lr"],
        "subjects": parser["subjects"],
        "patch_size": parser.get_parsed_content("patch_size"),
        "patches": parser.get_parsed_content("patches_per_volume"),
    } == wanted
    weights, biases = optimizer.param_groups
    assert biases["lr"] == pytest.approx(0.1 * weights["lr"])
    assert len(biases["params"]) == len(weights["params"]) == wanted["layers"]
    if wanted["optimizer"] == "SGD":
        assert weights["momentum"] == 0.9
        assert weights["nesterov"] is (name == "fig2_nesterov")
    assert parser["lr_scheduler"]["_target_"].endswith("StepLR")  # a tenth after 20 epochs


@pytest.mark.parametrize(
    ("name", "key", "text"),
    [(name, *point) for name, points in documented().items() for point in points],
)
def test_documented_point_is_a_key_and_makes_a_network(name, key, text):
    assert key in load()
    plain = value(text)
    parser = load(name, budget="paper", **{key: plain})
    assert parser[key] == plain
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    layers = [layer for layer in network.layers if isinstance(layer, torch.nn.Conv3d)]
    assert len(layers) == parser["num_layers"]
    assert layers[0].in_channels == 1 + len(parser["guides"])


@pytest.mark.parametrize("name", NAMES)
def test_overlay_trains(name, overlay_cases, tmp_path):
    fewer = {"test_scales": [SIX[0], SIX[2]]} if FIGURES[name].get("test_scales") == SIX else {}
    made = workflow(overlay_cases, tmp_path, name, **fewer)
    before = weights_of(made)
    made.run()
    trainer = get(made, "train::trainer")
    assert trainer.state.iteration == 2
    assert math.isfinite(trainer.state.output[0]["loss"])
    after = weights_of(made)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert "layers.0.weight" in changed
    with (tmp_path / "runs" / "run" / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows} == {"0", "1"}
    assert all(math.isfinite(float(row["psnr_foreground"])) for row in rows)
    assert get(made, "session").start.source == "random initialisation"
    assert not (tmp_path / "models").exists()


def test_clipping_bounds_every_step(overlay_cases, tmp_path):
    huge = "$lambda pred, label: 1e6 * torch.nn.functional.mse_loss(pred, label)"
    made = workflow(overlay_cases, tmp_path, "fig2_sgd_gc", loss=huge)
    before = weights_of(made)
    made.run()
    after = weights_of(made)
    moved = max(float((after[key] - before[key]).abs().max()) for key in before)
    assert moved == pytest.approx(0.001 * (1 + 1.9), rel=1e-2)  # two clipped steps with momentum 0.9


@pytest.mark.parametrize("subjects", [1, 2])
def test_subjects_limits_training_volumes(subjects, overlay_cases, tmp_path):
    made = workflow(overlay_cases, tmp_path, "fig8_subjects", subjects=subjects)
    assert len(get(made, "train::dataset")) == subjects
    assert len(get(made, "validate::dataset")) == 1


@pytest.mark.parametrize("guides", [["t2w"], ["t2w", "t2f"]])
@pytest.mark.parametrize("dropout", [0, 1])
def test_guides_reach_the_network_unless_dropped(guides, dropout, overlay_cases, tmp_path):
    made = workflow(overlay_cases, tmp_path, "fig10_guided", guides=guides, guide_dropout=dropout)
    image = next(iter(get(made, "train::dataloader")))["image"]
    assert image.shape[1] == 1 + len(guides)
    assert bool(image[:, 1:].any()) is (dropout == 0)
    assert image[:, 0].any()
    validated = get(made, "validate::dataset")[0]["image"]
    assert validated.shape[0] == 1 + len(guides)
    assert validated[1:].flatten(1).any(dim=1).all()  # dropped in training only
    assert get(made, "network")(image).shape[1] == 1


def test_dropout_default_drops_some_patches_only(overlay_cases, tmp_path):
    made = workflow(overlay_cases, tmp_path, "fig10_guided", patches=200, guide_dropout=0.2)
    patches = get(made, "train::patches")
    with_guide = patches.batch(range(200))["image"][:, 1].flatten(1).any(dim=1)
    assert 0.7 < float(with_guide.float().mean()) < 0.9


def test_missing_guide_is_named_in_one_line(overlay_cases, tmp_path):
    made = workflow(overlay_cases, tmp_path, "fig10_guided", guides=["adc"])
    with pytest.raises(Exception) as caught:  # MONAI wraps it; the program shows the cause
        made.run()
    cause = root_cause(caught.value)
    assert isinstance(cause, InputError)
    assert re.fullmatch(
        r".*sample-000-t1n\.nii\.gz: guide sequence 'adc' not found, expected sample-000-adc\.nii\.gz.*", str(cause)
    )


def test_transfer_evaluates_one_data_sets_network_on_another(overlay_cases, tmp_path):
    trained = workflow(overlay_cases, tmp_path, "table2_transfer")
    trained.run()
    weights = tmp_path / "runs" / "run" / "best.pt"
    tested = workflow(overlay_cases, tmp_path / "other", "evaluate", "table2_transfer", weights=str(weights), crop=16)
    tested.run()
    with (tmp_path / "other" / "runs" / "run" / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["setting"] for row in rows} == {"2x2x2"}
    assert len(rows) == 3  # every subject of the folder
    assert (tmp_path / "other" / "runs" / "run" / "report.html").is_file()
