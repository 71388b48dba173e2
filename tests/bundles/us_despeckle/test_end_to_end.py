# SPDX-License-Identifier: Apache-2.0
"""us_despeckle from config to file, in this process, on tiny frames and with few channels."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import us_despeckle_lib
from common.sample_data import write_probe_frames
from common.trainers import AdversarialTrainer
from us_despeckle_lib.data import LoadFramesd
from us_despeckle_lib.networks import DRNN

BUNDLE = Path(us_despeckle_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
SMALL = {"discriminator_def::channels": [4, 8]}
BUDGET = {
    **{"crop": 32, "discriminator_crop": 24, "val_frames": 1, "val_crop": 48, "frozen_norm": True},
    **{"network": {"channels": 4, "blocks": 1}, "brightness_weight": 1},
    "identity": {"epochs": 2, "samples": 8, "batch": 4, "rate": 0.01, "cosine": True},
    "discriminator": {"epochs": 2, "samples": 16, "batch": 4, "rate": 0.001},
    "adversarial": {"epochs": 2, "iterations": 2, "buffer": 4},
    "generator_step": {"steps": 2, "batch": 2, "rate": 0.001},
    "discriminator_step": {"batch": 8, "rate": 0.001},
}


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    write_probe_frames(folder, 3, 96, progress=False)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.manual_seed(0)
    torch.save(DRNN(4, 1).state_dict(), path)
    return path


@pytest.fixture
def train(probes, tmp_path, run):
    def start(*overlays, **keys):
        settings = {
            **{"dataset_dir": probes, "output_dir": tmp_path / "runs", "ckpt_dir": tmp_path / "models"},
            **{"device": "cpu", "budgets": {"short": BUDGET}, "from_scratch": "weights" not in keys, **SMALL, **keys},
        }
        return run("train", *overlays, **settings)

    return start


def test_three_stages_run_and_write_everything(train, tmp_path, capsys):
    workflow = train()
    folder = tmp_path / "runs" / "short-1"
    names = ("best.pt", "last.pt", "scores.csv", "terms.csv", "config.json", "reference.json", "panels", "tensorboard")
    for name in names:
        assert (folder / name).exists(), name
    out = capsys.readouterr().out
    for stage in ("identity", "discriminator", "adversarial"):
        assert f"stage {stage}: 2 epochs" in out
    for text in (
        "budget:",
        "expected:",
        "validation 0: KL(y,x)",
        "weights moved by 0.00e+00",
        "summary: KL(y,x)",
        "goal",
    ):
        assert text in out
    assert out.index("validation 0") > out.index("stage adversarial")
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[0]["baseline_ssim_input"]) == pytest.approx(1)
    assert float(rows[0]["baseline_kl_input"]) == 0
    assert float(rows[0]["baseline_kl_reference"]) > 0.05
    assert {"ssnr", "cnr", "width_lateral", "width_axial", "ssim_clean", "kl_input"} <= rows[0].keys()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert isinstance(trainer, AdversarialTrainer)
    assert not workflow.check_properties()  # what the Model Zoo wants to find
    state = torch.load(folder / "last.pt", weights_only=True)
    assert (state["stage"], state["epoch"]) == ("adversarial", 2)
    assert len(state["pool"]["images"][0]) == 4
    assert (tmp_path / "models" / "model.pt").is_file()
    # the reference that the new weights belong to
    assert (tmp_path / "models" / "reference.json").read_bytes() == (folder / "reference.json").read_bytes()


def test_identity_is_left_out_where_weights_are_given(train, weights, capsys):
    train(weights=weights)
    out = capsys.readouterr().out
    assert "stage identity: skipped (the starting weights are trained" in out
    assert "stage discriminator: 2 epochs" in out


def test_the_floor_decides_which_weights_are_kept(train, tmp_path):
    train(ssim_floor=1, run_name="all")  # only the input itself could be as similar
    train(ssim_floor=-1, run_name="any")
    kept = {}
    for name in ("all", "any"):
        with (tmp_path / "runs" / name / "scores.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        key = min(rows, key=lambda row: float(row["kl_above_floor"]))
        kept[name] = key["epoch"]
        best = {"all": max(rows, key=lambda row: float(row["ssim_input"])),
                "any": min(rows, key=lambda row: float(row["kl_reference"]))}[name]  # fmt: skip
        assert key["epoch"] == best["epoch"]
        state = torch.load(tmp_path / "runs" / name / "last.pt", weights_only=True)
        assert state["best"]["epoch"] == int(kept[name])


def test_a_split_file_decides_for_both_probes(probes, tmp_path, train):
    split = tmp_path / "split.json"
    data = tmp_path / "data"
    shutil.copytree(probes / "low", data / "low" / "one")
    (data / "high").mkdir()
    for path in (probes / "high").iterdir():
        shutil.copy(path, data / "high" / f"high-{path.name}")
    parts = {"train": ["frame-000"], "validate": ["frame-001", "high-frame-002"], "test": ["frame-002"]}
    split.write_text(json.dumps(parts), encoding="utf-8")
    workflow = train(dataset_dir=data, split=split)
    entries = workflow.parser.get_parsed_content("entries")
    found = {name: [Path(entry["image"]).stem for entry in part] for name, part in entries.items()}
    assert found == {
        "train": ["frame-000"],
        "validate": ["frame-001"],
        "reference": ["high-frame-000", "high-frame-001"],
    }


@pytest.mark.parametrize("stage", ["identity", "discriminator"])
def test_a_stage_alone(train, tmp_path, capsys, stage):
    train(stages=f"['{stage}']", run_name="alone")
    out = capsys.readouterr().out
    assert out.count("skipped (not among the stages wanted)") == 2
    assert "summary: KL(y,x)" in out
    assert torch.load(tmp_path / "runs" / "alone" / "last.pt", weights_only=True)["stage"] == stage
    made = tmp_path / "runs" / "alone" / "last.pt"
    keys = {"weights": made, "discriminator_weights": made, "train::trainer::max_epochs": 1}
    train(stages="adversarial", run_name="next", **keys)
    assert torch.load(tmp_path / "runs" / "next" / "last.pt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("stage", ["identity", "discriminator", "adversarial"])
def test_a_run_interrupted_in_any_stage_ends_with_the_same_weights(train, tmp_path, stage):
    train(run_name="straight", promote=False)
    workflow_keys = {"run_name": "broken", "promote": False}
    original = us_despeckle_lib.stages.StageCheckpoint.__call__

    def save_and_stop(self, engine):
        original(self, engine)
        if self.facts["stage"] == stage and engine.state.epoch == 1:
            raise RuntimeError

    us_despeckle_lib.stages.StageCheckpoint.__call__ = save_and_stop
    try:
        with pytest.raises(RuntimeError):
            train(**workflow_keys)
    finally:
        us_despeckle_lib.stages.StageCheckpoint.__call__ = original
    broken = torch.load(tmp_path / "runs" / "broken" / "last.pt", weights_only=True)
    assert (broken["stage"], broken["epoch"]) == (stage, 1)
    train(**workflow_keys, resume="true")
    straight, resumed = (
        torch.load(tmp_path / "runs" / n / "last.pt", weights_only=True) for n in ("straight", "broken")
    )
    for part in ("network", "average", "discriminator"):
        assert all(torch.equal(v, resumed[part][k]) for k, v in straight[part].items()), part
    assert torch.equal(straight["pool"]["images"][0], resumed["pool"]["images"][0])
    assert straight["log"]["scores"] == resumed["log"]["scores"]


def test_a_complete_run_is_not_resumed(train, line_of):
    train(run_name="done", stages="identity")
    with pytest.raises(Exception) as error:
        train(run_name="done", resume=True, stages="identity")
    assert "complete with 2 epochs" in line_of(error)


def test_shipped_weights_overlay_trains(train, tmp_path):
    train("shipped_weights", **{**SMALL, "budgets": {"shipped": BUDGET}})
    assert not (tmp_path / "models" / "model.pt").exists()
    assert len((CONFIGS / "shipped_weights.json").read_text(encoding="utf-8").splitlines()) <= 40


def test_evaluation_writes_table_histograms_and_pictures(probes, weights, tmp_path, capsys, run):
    keys = {"dataset_dir": probes, "output_dir": tmp_path, "weights": weights, "device": "cpu"}
    run("train", "evaluate", **SMALL, **keys)  # the network is the one that the weights file holds
    folder = tmp_path / "evaluation-1"
    table = (folder / "scores.md").read_text(encoding="utf-8")
    assert "mean ± sd of 3" in table
    for name in ("kl_reference network", "ssnr input", "cnr network", "width_lateral network", "ssim_clean input"):
        assert name in table
    assert Image.open(folder / "histograms.png").size == (640, 360)
    assert len(list((folder / "panels").glob("*.png"))) == 3
    out = capsys.readouterr().out
    assert "pooled over all frames (256 bins" in out
    assert "reference probe" in out


def test_inference_keeps_size_kind_margins_and_brightness(tmp_path, run):
    weights = tmp_path / "darker.pt"
    state = DRNN(4, 1, identity=True).state_dict()
    state["tail.weight"] *= 0.8  # a network that darkens by a fifth
    torch.save(state, weights)
    write_probe_frames(tmp_path / "made", 1, 160, fan=True, progress=False)
    source = tmp_path / "in" / "a" / "frame.png"
    source.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "made" / "low" / "frame-000.png", source)
    keys = {"dataset_dir": tmp_path / "in", "output_dir": tmp_path / "out", "weights": weights, "device": "cpu"}
    run("inference", reference=tmp_path / "made" / "high", **keys)
    target = tmp_path / "out" / "a" / "frame_despeckled.png"
    before, after = (np.asarray(Image.open(path)) for path in (source, target))
    assert after.dtype == np.uint8
    assert after.shape == before.shape
    changed = before != after
    assert not changed[-18:].any()  # the line of text
    region = LoadFramesd("image")({"image": str(source)})["image"].meta["region"].numpy() > 0
    assert not changed[~region].any()
    assert after[region].mean() == pytest.approx(before[region].mean(), rel=0.01)
    facts = json.loads((tmp_path / "out" / "a" / "frame_despeckled.png.provenance.json").read_text(encoding="utf-8"))
    assert (facts["bundle"], facts["input"]) == ("us_despeckle", "frame.png")
    assert (tmp_path / "out" / "a" / "frame_despeckled.png.histogram.png").is_file()
    one = {"dataset_dir": source, "histograms": "false", "output_dir": tmp_path / "one", "keep_mean": "false"}
    run("inference", **{**keys, **one})
    assert sorted(p.suffix for p in (tmp_path / "one").iterdir()) == [".json", ".png"]
    plain = np.asarray(Image.open(tmp_path / "one" / "frame_despeckled.png"))
    assert plain[region].mean() == pytest.approx(0.8 * before[region].mean(), rel=0.02)


def test_a_file_that_fails_does_not_stop_the_others(weights, tmp_path, probes, caplog, run):
    folder = tmp_path / "in"
    shutil.copytree(probes / "low", folder)
    (folder / "broken.png").write_bytes((folder / "frame-000.png").read_bytes()[:300])
    (folder / "text.png").write_text("no picture", encoding="utf-8")
    Image.new("L", (40, 40), 90).save(folder / "constant.png")
    with pytest.raises((SystemExit, RuntimeError)):
        run("inference", dataset_dir=folder, output_dir=tmp_path / "out", weights=weights, device="cpu")
    assert len(list((tmp_path / "out").glob("frame-*_despeckled.png"))) == 3
    text = caplog.text
    assert "broken.png: truncated" in text
    assert "text.png: not a picture" in text
    assert "constant.png: constant image" in text


def test_monai_label_gets_a_plain_picture(weights, probes):
    """MONAI Label runs pre- and postprocessing without the saver."""
    from monai.bundle import ConfigParser
    from monai.transforms import Compose, SaveImaged

    parser = ConfigParser(json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8")))
    parser.update({"device": "cpu", "weights": str(weights)})
    before, after = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    kept = Compose([t for t in after.transforms if not isinstance(t, SaveImaged)])
    assert len(kept.transforms) == len(after.transforms) - 1
    item = before({"image": str(probes / "low" / "frame-000.png")})
    inferer, network = parser.get_parsed_content("inferer"), parser.get_parsed_content("network")
    pred = inferer(item["image"][None], network.eval())[0]
    out = kept({**item, "pred": pred})["pred"]
    assert out.dtype == torch.uint8
    assert out.shape == (96, 96)
    assert parser["displayable_configs"]["result_extension"] == ".png"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"crop_size": 100}, "holds no crop of 100 x 100, nor does any other file"),
        ({"crop_size": 12}, "crop_size must be"),
        ({"structure_weight": -1}, "structure_weight must be"),
        ({"brightness_weight": -1}, "brightness_weight must be"),
        ({"ssim_floor": 2}, "ssim_floor must be"),
        ({"ema": 1}, "ema must be"),
        ({"split": "/nowhere.json"}, "not a split file"),
        ({"stages": "identities"}, "stage 'identities' is unknown"),
        ({"budget": "huge"}, "budget 'huge' is unknown"),
        ({"dataset_dir": "/nowhere"}, "has no folder low/"),
        ({"roi": "[10,10,200,40]"}, "lies outside the picture of 96 x 96 pixels"),
        ({"roi": "[10,10]"}, "roi must be [left, top, right, bottom]"),
        ({"region": "[0,0,97,40]"}, "lies outside the picture of 96 x 96 pixels"),
    ],
)
def test_input_that_cannot_work_is_named_in_one_line(train, keys, text, line_of):
    with pytest.raises(Exception) as error:
        train(**keys)
    assert text in line_of(error)
    assert "\n" not in line_of(error)


def test_folders_that_cannot_work(train, probes, tmp_path, line_of):
    data = tmp_path / "data"
    (data / "low").mkdir(parents=True)
    shutil.copytree(probes / "high", data / "high")
    for text in ("no PNG, JPEG, TIFF or DICOM file in it", "low/ and high/ need different probes"):
        with pytest.raises(Exception) as error:
            train(dataset_dir=data)
        assert text in line_of(error)
        shutil.copy(probes / "high" / "frame-001.png", data / "low" / "renamed.png")


def test_configurations_stay_readable():
    assert len((CONFIGS / "train.json").read_text(encoding="utf-8").splitlines()) <= 420
    for name in ("evaluate", "multi_gpu_train"):
        assert len((CONFIGS / f"{name}.json").read_text(encoding="utf-8").splitlines()) <= 40


def test_paper_budget_is_the_papers(train):
    budget = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))["budgets"]["paper"]
    assert (budget["crop"], budget["discriminator_crop"]) == (192, 128)
    assert budget["network"] == {"channels": 64, "blocks": 6}
    assert budget["brightness_weight"] == 0
    assert budget["identity"] == {"epochs": 100, "samples": 12000, "batch": 16, "rate": 1e-4, "cosine": False}
    assert budget["discriminator"] == {"epochs": 5, "samples": 4000, "batch": 80, "rate": 1e-6}
    assert budget["adversarial"]["epochs"] * budget["adversarial"]["iterations"] == 500
    assert budget["generator_step"] == {"steps": 20, "batch": 8, "rate": 1e-7}
    assert budget["discriminator_step"] == {"batch": 40, "rate": 1e-6}


def test_shipped_weights_fit():
    path = BUNDLE / "models" / "model.pt"
    if not path.is_file():
        pytest.skip("this checkout has no weights")
    state = torch.load(path, weights_only=True)
    DRNN(**DRNN.form_of(state)).load_state_dict(state)
    assert path.stat().st_size < 6e6
    assert (path.with_name("reference.json")).is_file()


@pytest.fixture(autouse=True)
def quiet():
    """MONAI's engines log much, and ``caplog`` keeps all of it."""
    logging.getLogger("ignite").setLevel(logging.WARNING)
