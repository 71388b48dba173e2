# SPDX-License-Identifier: Apache-2.0
"""us_despeckle from config to file, in this process, on tiny frames and with few channels."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image, ImageFilter

import us_despeckle_lib
from common.data.sample_data import write_probe_frames
from common.engine.trainers import AdversarialTrainer
from common.handlers import RunCheckpoint
from us_despeckle_lib.networks import DRNN
from us_despeckle_lib.transforms import LoadFramesd

BUNDLE = Path(us_despeckle_lib.__file__).parents[1]
CONFIGS = BUNDLE / "configs"
BUDGET = {
    **{"network": {"channels": 4, "blocks": 1}, "patch_size": 32, "batch_size": 2, "learning_rate": 0.001},
    **{"epochs": 2, "iterations": 2, "generator_steps": 2, "pool_size": 4, "val_frames": 1, "val_crop": 48},
    **{"discriminator_patch_size": 24, "discriminator_batch_size": 8, "discriminator_learning_rate": 0.001},
    **{"discriminator_channels": [4, 8], "identity_epochs": 2, "identity_samples": 8, "identity_learning_rate": 0.01},
    **{"pretraining_epochs": 2, "pretraining_samples": 16, "pretraining_batch_size": 4},
    "pretraining_learning_rate": 0.001,
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
            **{"device": "cpu", "budgets": {"short": BUDGET}, "from_scratch": "weights" not in keys, **keys},
        }
        return run("train", *overlays, **settings)

    return start


def test_three_stages_run_and_write_everything(train, tmp_path, capsys):
    workflow = train(promote=True)
    folder = tmp_path / "runs" / "short-1"
    names = (
        "best.pt",
        "last.pt",
        "scores.csv",
        "terms.csv",
        "config.json",
        "reference.json",
        "report.html",
        "tensorboard",
    )
    for name in names:
        assert (folder / name).exists(), name
    out = capsys.readouterr().out
    for stage in ("identity", "discriminator", "adversarial"):
        assert f"stage {stage}: 2 epochs" in out
    for text in (
        "budget:",
        "training: 2 files of the low probe, 3 of the high one, 16 patches per epoch",
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
    assert out.count("skipped (not wanted)") == 2
    assert "summary: KL(y,x)" in out
    assert torch.load(tmp_path / "runs" / "alone" / "last.pt", weights_only=True)["stage"] == stage
    made = tmp_path / "runs" / "alone" / "last.pt"
    keys = {"weights": made, "discriminator_weights": made, "epochs": 1}
    train(stages="adversarial", run_name="next", **keys)
    assert torch.load(tmp_path / "runs" / "next" / "last.pt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("stage", ["identity", "discriminator", "adversarial"])
def test_a_run_interrupted_in_any_stage_ends_with_the_same_weights(train, tmp_path, stage, monkeypatch):
    train(run_name="straight")
    original = RunCheckpoint.__call__

    def save_and_stop(self, engine):
        original(self, engine)
        if self.facts["stage"] == stage and engine.state.epoch == 1:
            raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "__call__", save_and_stop)
        with pytest.raises(RuntimeError):
            train(run_name="broken")
    broken = torch.load(tmp_path / "runs" / "broken" / "last.pt", weights_only=True)
    assert (broken["stage"], broken["epoch"]) == (stage, 1)
    train(run_name="broken", resume="true")
    straight, resumed = (
        torch.load(tmp_path / "runs" / n / "last.pt", weights_only=True) for n in ("straight", "broken")
    )
    for part in ("network", "average", "discriminator"):
        assert all(torch.equal(v, resumed[part][k]) for k, v in straight[part].items()), part
    assert torch.equal(straight["pool"]["images"][0], resumed["pool"]["images"][0])
    assert straight["scores"]["pooled"] == resumed["scores"]["pooled"]


def test_a_training_repeats_itself_with_any_number_of_workers(train, tmp_path):
    states = []
    for name, workers in (("first", 0), ("again", 0), ("workers", 2)):
        train(run_name=name, num_workers=workers, epochs=1, identity_epochs=1, pretraining_epochs=1)
        states.append(torch.load(tmp_path / "runs" / name / "last.pt", weights_only=True))
    for part in ("network", "average", "discriminator"):
        for other in states[1:]:
            assert all(torch.equal(tensor, other[part][key]) for key, tensor in states[0][part].items()), part


def test_a_complete_run_is_not_resumed(train, line_of):
    train(run_name="done", stages="identity")
    with pytest.raises(Exception) as error:
        train(run_name="done", resume=True, stages="identity")
    assert "complete with 2 epochs" in line_of(error)


def test_the_shipped_weights_recipe_trains(train, tmp_path):
    train("shipped_weights", budgets={"shipped": BUDGET})
    state = torch.load(tmp_path / "runs" / "shipped-1" / "last.pt", weights_only=True)
    assert state["plan"] == ["discriminator", "adversarial"]


def test_the_papers_setting_has_none_of_our_additions(train):
    workflow = train("paper/base", stages="identity")
    get = workflow.parser.get_parsed_content
    assert get("average").network is get("network")
    assert get("loss").weights == {"l1": 0.5, "ms_ssim": 0.5, "brightness": 0}
    assert "schedule" not in get("identity").state
    assert not get("network").frozen and not get("validate::postprocessing").wanted
    assert get("scores").floor == -1


def test_the_record_repeats_the_run(train, tmp_path, probes):
    """``config.json`` holds the merged configuration; only the folders of the machine are to be given again."""
    train("paper/base", epochs=1, learning_rate=0.002, stages=["adversarial"], run_name="first")
    record = tmp_path / "runs" / "first" / "config.json"
    told = json.loads(record.read_text(encoding="utf-8"))
    assert (told["ema"], told["learning_rate"], told["budget"]) == (0, 0.002, "short")
    places = {"dataset_dir": str(probes), "output_dir": str(tmp_path / "again"), "ckpt_dir": str(tmp_path / "models")}
    workflow = ConfigWorkflow(str(record), workflow_type="train", logging_file=False, run_name="second", **places)
    workflow.initialize()
    workflow.run()
    first, second = (
        torch.load(folder / "last.pt", weights_only=True) for folder in (record.parent, tmp_path / "again" / "second")
    )
    assert all(torch.equal(tensor, second["network"][key]) for key, tensor in first["network"].items())


def test_evaluation_writes_table_histograms_and_pictures(probes, weights, tmp_path, capsys, run):
    keys = {"dataset_dir": probes, "output_dir": tmp_path, "weights": weights, "device": "cpu"}
    run("train", "evaluate", **keys)  # the network is the one that the weights file holds
    folder = tmp_path / "evaluation-1"
    out = capsys.readouterr().out
    table = out.partition("| case")[2]
    assert "mean ± sd of 3" in table
    for name in ("kl_reference network", "ssnr input", "cnr network", "width_lateral network", "ssim_clean input"):
        assert name in table
    assert Image.open(folder / "histograms.png").size == (640, 360)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(json.loads(re.search(r'id="cases">(.*?)</script>', page, re.DOTALL)[1])) == 3
    assert "KL, reference is " in page and "KL(y,x) of input" in out
    assert out.rstrip().splitlines()[-1].startswith("report ")
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
    assert sorted(p.suffix for p in (tmp_path / "one").iterdir()) == [".html", ".json", ".png"]
    plain = np.asarray(Image.open(tmp_path / "one" / "frame_despeckled.png"))
    assert plain[region].mean() == pytest.approx(0.8 * before[region].mean(), rel=0.02)


def test_the_spread_over_flips_is_saved_in_grey_levels(tmp_path, run):
    weights, state = tmp_path / "slanted.pt", DRNN(4, 1, identity=True).state_dict()
    # the mean of a pixel and its right neighbour, or its left one in a flipped frame
    state["head.0.weight"][0, 0, 3, 3:5] = 0.5
    torch.save(state, weights)
    write_probe_frames(tmp_path / "made", 1, 96, fan=True, progress=False)
    source = tmp_path / "made" / "low" / "frame-000.png"
    for wanted in (True, False):
        run("inference", dataset_dir=source, output_dir=tmp_path / str(wanted), weights=weights, save_std=wanted)
    folder = tmp_path / "True"
    with Image.open(folder / "frame-000_despeckled_std.tif") as picture:
        std = np.asarray(picture)
    region = LoadFramesd("image")({"image": str(source)})["image"].meta["region"].numpy() > 0
    assert std.dtype == np.float32 and std.shape == region.shape
    with Image.open(source) as before:
        levels = np.where(region, np.asarray(before, np.float64), 0)
    by_hand = np.abs(np.roll(levels, -1, 1) - np.roll(levels, 1, 1)) / 4  # half of the difference of the two means
    inner = np.asarray(Image.fromarray(region).filter(ImageFilter.MinFilter(5)))
    assert np.corrcoef(std[inner], by_hand[inner])[0, 1] > 0.95
    assert std[inner].mean() == pytest.approx(by_hand[inner].mean(), rel=0.1)
    assert not std[~region].any()
    names = {flag: {path.name for path in (tmp_path / flag).glob("frame*")} for flag in ("True", "False")}
    std_files = {"frame-000_despeckled_std.tif", "frame-000_despeckled_std.tif.provenance.json"}  # and no histogram
    assert names["True"] - names["False"] == std_files and names["False"] < names["True"]
    mean, alone = (np.asarray(Image.open(tmp_path / flag / "frame-000_despeckled.png")) for flag in names)
    assert (mean != alone).any() and mean.shape == alone.shape


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
        ({"patch_size": 100}, "holds no patch of 100 x 100, nor does any other file"),
        ({"patch_size": 12}, "patch_size must be"),
        ({"discriminator_patch_size": 48}, "discriminator_patch_size must be at most the patch_size of 32"),
        ({"discriminator_channels": "many"}, "discriminator_channels must be"),
        ({"structure_weight": -1}, "structure_weight must be"),
        ({"brightness_weight": -1}, "brightness_weight must be"),
        ({"ssim_floor": 2}, "ssim_floor must be"),
        ({"ema": 1}, "ema must be"),
        ({"split": "/nowhere.json"}, "not a split file"),
        ({"stages": "identities"}, "stage 'identities' is unknown"),
        ({"budget": "huge"}, "budget 'huge' is unknown"),
        ({"dataset_dir": "/nowhere"}, "has no folder low/"),
        ({"region": "[0,0,97,40]"}, "lies outside the picture of 96 x 96 pixels"),
        ({"region": "[10,10]"}, "region must be [left, top, right, bottom]"),
        ({"crop_size": 48}, "there is no key crop_size"),
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


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"roi": "[10,10,200,40]"}, "lies outside the picture of 96 x 96 pixels"),
        ({"roi": "[10,10]"}, "roi must be [left, top, right, bottom]"),
        ({"contrast_roi": "[1,2,3]"}, "contrast_roi must be [left, top, right, bottom]"),
    ],
)
def test_regions_that_cannot_be_are_named_in_one_line(probes, weights, tmp_path, run, line_of, keys, text):
    with pytest.raises(Exception) as error:
        run("train", "evaluate", dataset_dir=probes, output_dir=tmp_path, weights=weights, **keys)
    assert text in line_of(error)


def test_paper_budget_is_the_papers():
    budget = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))["budgets"]["paper"]
    assert (budget["patch_size"], budget["discriminator_patch_size"]) == (192, 128)
    assert budget["network"] == {"channels": 64, "blocks": 6}
    told = [budget[f"identity_{name}"] for name in ("epochs", "samples", "learning_rate")]
    assert told == [100, 12000, 1e-4] and 2 * budget["batch_size"] == 16
    told = [budget[f"pretraining_{name}"] for name in ("epochs", "samples", "batch_size", "learning_rate")]
    assert told == [5, 4000, 80, 1e-6]
    assert budget["epochs"] * budget["iterations"] == 500
    assert (budget["generator_steps"], budget["learning_rate"]) == (20, 1e-7)
    assert (budget["discriminator_batch_size"], budget["discriminator_learning_rate"]) == (40, 1e-6)


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
