# SPDX-License-Identifier: Apache-2.0
"""Entries, patches, held-out frames."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from common.data.sample_data import write_probe_frames
from common.errors import InputError
from common.io.runs import save_split
from us_despeckle_lib.data import HeldOutFrames, ProbeFrames, probe_entries
from us_despeckle_lib.patches import StepBatches, StepPatches, UnpairedPatches
from us_despeckle_lib.pictures import draw_histograms
from us_despeckle_lib.reference import KeepReference, beside, load_reference, pooled_histogram
from us_despeckle_lib.transforms import LoadFramesd


@pytest.fixture(scope="module")
def frames(probes):
    entries = probe_entries(probes, 0.3, 0)
    load = LoadFramesd("image")
    return {name: ProbeFrames(part, load) for name, part in entries.items()}


def test_files_are_split_and_the_split_repeats(probes):
    entries = probe_entries(probes, 0.3, 5)
    assert [len(entries[name]) for name in ("train", "validate", "reference")] == [3, 1, 4]
    assert entries == probe_entries(probes, 0.3, 5)
    assert entries["validate"][0] not in entries["train"]
    assert len(probe_entries(probes, 0.3, 5, held_out=False)["validate"]) == 4


def test_a_split_file_repeats_the_split_it_was_written_from(probes, tmp_path):
    """Both folders have files of the same names, which are not of one patient."""
    entries = probe_entries(probes, 0.3, 5)
    save_split(tmp_path, {part: entries[part] for part in ("train", "validate")})
    split = json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))
    assert len(split["train"]) == 3 and len(split["validate"]) == 1
    assert probe_entries(probes, 0.9, 7, split=str(tmp_path / "split.json")) == entries
    split["test"] = ["high/frame-002"]
    (tmp_path / "held_out.json").write_text(json.dumps(split), encoding="utf-8")
    held_out = probe_entries(probes, 0.3, 5, split=str(tmp_path / "held_out.json"))
    assert [Path(entry["image"]).stem for entry in held_out["reference"]] == ["frame-000", "frame-001", "frame-003"]


def test_frames_of_a_person_stay_on_one_side(probes, tmp_path):
    """Low frames 0 and 1, and high frame 3, are anna's; each other frame is somebody else's."""
    files = sorted(path for side in ("low", "high") for path in (probes / side).iterdir())
    whose = {"low/frame-000.png": "anna", "low/frame-001.png": "anna", "high/frame-003.png": "anna"}
    rows = [f"{name},{whose.get(name, name)}" for name in (f"{path.parent.name}/{path.name}" for path in files)]
    table = tmp_path / "people.csv"
    table.write_text("frame,subject\n" + "\n".join(rows), encoding="utf-8")
    sides = set()
    for seed in range(6):
        entries = probe_entries(probes, 0.3, seed, subjects_table=str(table))
        people = {part: {entry["subject"] for entry in entries[part]} for part in entries}
        assert not people["validate"] & (people["train"] | people["reference"]) and len(entries["validate"]) < 3
        assert len(entries["train"]) + len(entries["validate"]) == 4
        assert len(entries["reference"]) == 4 - ("anna" in people["validate"])
        sides |= {part for part in ("train", "validate") if "anna" in people[part]}
        save_split(tmp_path, {part: entries[part] for part in ("train", "validate")})
        split = str(tmp_path / "split.json")
        assert probe_entries(probes, 0.9, 7, split=split, subjects_table=str(table)) == entries
    assert sides == {"train", "validate"}
    judged = probe_entries(probes, 0.3, 0, held_out=False, subjects_table=str(table))
    assert [len(judged[part]) for part in ("validate", "reference")] == [4, 4]
    table.write_text("frame,subject\n" + "\n".join(rows[1:]), encoding="utf-8")
    with pytest.raises(InputError, match="does not tell whose it is"):
        probe_entries(probes, 0.3, 0, subjects_table=str(table))


def test_a_reference_of_the_held_out_alone_is_refused(probes, tmp_path):
    table = tmp_path / "people.csv"
    rows = [f"{side}/{path.name},{'anna' if path.stem == 'frame-000' or side == 'high' else path.stem}"
            for side in ("low", "high") for path in (probes / side).iterdir()]  # fmt: skip
    table.write_text("frame,subject\n" + "\n".join(rows), encoding="utf-8")
    split = tmp_path / "split.json"
    split.write_text('{"train": ["frame-001"], "validate": ["anna"]}', encoding="utf-8")
    with pytest.raises(InputError, match="all frames are of subjects that are held out"):
        probe_entries(probes, 0.3, 0, split=str(split), subjects_table=str(table))


def test_tissue_of_the_reference_is_counted_alone(frames):
    whole, tissue = (pooled_histogram(frames["reference"], tissue=wanted) for wanted in (False, True))
    assert 0 < tissue.sum() < whole.sum() and (tissue <= whole).all()


def test_one_file_trains_and_validates(probes, tmp_path, capsys):
    for side in ("low", "high"):
        (tmp_path / side).mkdir()
        picture = probes / side / "frame-000.png"
        (tmp_path / side / "a.png").write_bytes(picture.read_bytes())
    entries = probe_entries(tmp_path, 0.3, 0)
    assert entries["train"] == entries["validate"]
    assert "both trains and validates" in capsys.readouterr().out


def test_the_image_is_zero_outside_its_region(tmp_path):
    write_probe_frames(tmp_path, 1, 128, fan=True, progress=False)
    image = LoadFramesd("image")({"image": str(tmp_path / "low" / "frame-000.png")})["image"]
    assert image.shape == (1, 128, 128)
    assert image.dtype == torch.float32
    region = image.meta["region"] > 0
    assert not image.as_tensor()[0][~region].any()
    assert 0.2 < region.float().mean() < 0.6
    assert pooled_histogram([{"image": image}]).sum() == region.sum()


def test_windows_overlap_by_half_and_all_are_shown_before_one_repeats(frames):
    patches = UnpairedPatches(frames["train"], frames["reference"], 48, 27, high_patch_size=32)
    assert len(patches.windows["image"]) == 3 * 9  # 0, 24, 48 each way in three frames
    assert len(patches.windows["label"]) == 4 * 25
    items = [patches[i] for i in range(27)]
    assert all(item["image"].shape == (1, 48, 48) and item["label"].shape == (1, 32, 32) for item in items)
    assert len({item["image"].numpy().tobytes() for item in items}) == 27
    patches.set_epoch(2)
    again = {patches[i]["image"].numpy().tobytes() for i in range(27)}
    assert again == {item["image"].numpy().tobytes() for item in items}  # another order of the same
    assert not torch.equal(patches[0]["image"], items[0]["image"])


def test_samples_depend_on_seed_epoch_and_index_alone(frames):
    def sample(epoch, index, seed=3):
        patches = UnpairedPatches(frames["train"], None, 40, 50, seed=seed, jitter=True)
        patches.set_epoch(epoch)
        return patches[index]

    assert torch.equal(sample(4, 7)["image"], sample(4, 7)["image"])
    assert not torch.equal(sample(4, 7)["image"], sample(5, 7)["image"])
    assert not torch.equal(sample(4, 7)["image"], sample(4, 7, seed=4)["image"])
    item = sample(1, 0)
    assert torch.equal(item["image"], item["label"])
    with pytest.raises(IndexError):
        sample(1, 50)


def test_patches_lie_in_the_ultrasound(tmp_path):
    write_probe_frames(tmp_path, 1, 160, fan=True, progress=False)
    low = ProbeFrames([{"image": str(tmp_path / "low" / "frame-000.png")}], LoadFramesd("image"))
    patches = UnpairedPatches(low, None, 32, 30)
    assert all((patches[i]["image"] > 0).float().mean() > 0.7 for i in range(30))


def test_small_files_are_left_out_and_only_small_files_stop(frames, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(80, 200, (50, 60)).astype(np.uint8)).save(tmp_path / "s.png")
    small = LoadFramesd("image")({"image": str(tmp_path / "s.png")})
    patches = UnpairedPatches([small, *frames["train"]], None, 64, 4)
    patches.check()
    assert "s.png: its ultrasound of 60 x 50 pixels holds no patch of 64 x 64" in capsys.readouterr().out
    assert len(patches[0]["image"][0]) == 64
    with pytest.raises(InputError, match="give a smaller patch_size"):
        UnpairedPatches([small], None, 64, 4).check()


def test_all_frames_of_a_loop_are_used(tmp_path):
    pages = [Image.fromarray(np.full((40, 40), 60 + 20 * i, np.uint8)) for i in range(3)]
    pages[0].putpixel((3, 3), 99)
    pages[0].save(tmp_path / "loop.tif", save_all=True, append_images=pages[1:])
    loop = [LoadFramesd("image")({"image": str(tmp_path / "loop.tif")})]
    patches = UnpairedPatches(loop, None, 32, 12)
    levels = {round(float(patches[i]["image"].median()) * 255) for i in range(12)}
    assert levels == {60, 80, 100}


def test_an_epoch_holds_the_batches_of_its_steps(frames):
    patches = StepPatches(frames["train"], frames["reference"], 32, 2, 8, 2, iterations=3)
    batches = StepBatches(patches)
    assert len(batches) == 9
    assert [len(batch) for batch in batches] == [4, 2, 2] * 3
    assert [i for batch in batches for i in batch] == list(range(24)) == list(range(len(patches)))


def test_held_out_frames_have_rois_and_the_clean_picture(frames, probes):
    held_out = HeldOutFrames(frames["validate"].data, LoadFramesd("image"), crop=64)
    item = held_out[0]
    assert item["image"].shape == (1, 64, 64)
    assert item["label"].shape == (4, 64, 64)
    assert torch.equal(item["label"][0], item["image"][0])
    assert item["label"][1].all()
    assert (item["label"][2] > 0).any()
    assert held_out.has_clean
    clean = np.asarray(Image.open(probes / "truth" / f"{item['case']}.png"))[16:80, 16:80] / 255
    np.testing.assert_allclose(item["label"][3], clean, atol=1e-6)
    named = HeldOutFrames(frames["validate"].data, LoadFramesd("image"), roi="[20,20,40,40]")
    assert (named[0]["label"][2] == 1).sum() == 400


def test_regions_of_interest_are_said_as_boxes_that_find_them_again(frames, capsys):
    data, load = frames["validate"].data[:1], LoadFramesd("image")
    found = HeldOutFrames(data, load, crop=64, say_rois=True)[0]
    said = capsys.readouterr().out
    boxes, contrast = re.search(r"tissue (\[\[.*\]\]) \(found, .*\), contrasted with (\[.*\])", said).groups()
    given = HeldOutFrames(data, load, crop=64, roi=boxes, contrast_roi=contrast, say_rois=True)[0]
    assert torch.equal(found["label"][2], given["label"][2])
    assert f"{boxes} (given), contrasted with {contrast}" in capsys.readouterr().out


def test_reference_is_kept_and_found_again(frames, probes, tmp_path):
    counts = pooled_histogram(frames["reference"])
    assert beside(tmp_path / "best.pt") is None
    KeepReference(tmp_path, counts)(Engine(lambda *_: None))
    assert torch.equal(load_reference(beside(tmp_path / "best.pt")), counts)
    assert torch.equal(load_reference(probes / "high"), counts)
    assert load_reference("null") is None
    for text in ("{", "[1, 2]"):
        (tmp_path / "bad.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="holds no histogram"):
            load_reference(tmp_path / "bad.json")
    with pytest.raises(InputError, match="no such file"):
        load_reference(tmp_path / "none.json")


def test_pictures_show_what_they_are_given():
    counts = torch.zeros(256)
    counts[100] = 50
    picture = draw_histograms({"input x": counts, "result x^": counts.roll(60)}, "KL 1")
    columns = [np.flatnonzero((np.abs(picture.astype(int) - colour).sum(-1) < 9)[60:300].any(axis=0)) for colour in
               ((200, 60, 40), (30, 140, 60))]  # fmt: skip
    assert abs(np.mean(columns[0]) - (16 + 100 * 608 / 255)) < 5
    assert abs(np.mean(columns[1]) - (16 + 160 * 608 / 255)) < 5


def test_own_frames_are_not_trained_towards_the_sample_probe(frames, monkeypatch, tmp_path):
    own, sample = (MetaTensor(torch.rand(1, 40, 40) + 0.1, meta={"region": torch.ones(40, 40)}) for _ in range(2))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own.meta["filename_or_obj"] = str(tmp_path / "own" / "a.png")
    sample.meta["filename_or_obj"] = str(tmp_path / "restoration-bundles" / "high" / "a.png")
    low, high = [{"image": own}], [{"image": sample}]
    UnpairedPatches(low, low, 32, 4).check()
    UnpairedPatches(high, high, 32, 4).check()
    with pytest.raises(InputError, match="no reference probe for these frames"):
        UnpairedPatches(low, high, 32, 4).check()
