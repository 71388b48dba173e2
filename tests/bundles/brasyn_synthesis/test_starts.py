# SPDX-License-Identifier: Apache-2.0
"""Where a run's weights and landmarks come from, and when they take the place of the bundle's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import brasyn_synthesis_lib
from brasyn_synthesis_lib.data import training_cases
from brasyn_synthesis_lib.landmarks import Landmarks, bind, check_bound, fit, landmarks_path, read
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.training import DISCRIMINATOR, STEP
from common.weights import load_flat

CONFIGS = Path(brasyn_synthesis_lib.__file__).parents[1] / "configs"
PAPER = sorted(path.stem for path in CONFIGS.glob("paper_*.json"))
BRAIN = (28, 30, 24)  # voxels
BUDGET = {"epochs": 1, "stacks": 4, "batch_size": 2, "size": 24, "learning_rate": 0.001}
BUDGET |= {"halve_every": 10, "val_cases": 1, "val_slices": 6}
SMALL = {"width": 2, "depth": 3, "discriminator_width": 4}
MEDIOCRE, POOR = 1.0, 0.05  # factors of the present weights' result


@pytest.fixture
def train(brains, tmp_path, run):
    def start(*overlays, **keys):
        settings = {"dataset_dir": brains, "output_dir": tmp_path / "runs", "ckpt_dir": tmp_path / "models"}
        if not overlays:  # the paper's start at random by themselves
            settings["from_scratch"] = not (tmp_path / "models" / "model.pt").is_file()
        return run("train", *overlays, **{**settings, "budgets": {"short": BUDGET}, **SMALL, **keys})

    return start


@pytest.fixture
def present(brains, tmp_path):
    """A function that makes the bundle's weights as if trained on other data: with landmarks of their own."""

    def make(factor=MEDIOCRE, bend=2.0):
        landmarks = fit(training_cases(brains), "t1c")
        for sequence in landmarks.sequences.values():
            sequence["landmarks"] = [round(100 * (mark / 100) ** bend, 4) for mark in sequence["landmarks"]]
        network = Generator(9, 2, 3)
        network.start_linear([factor * weight for weight in (0.5, 0.3, 0.2)], 0)
        bind(network, landmarks)
        path = tmp_path / "models" / "model.pt"
        path.parent.mkdir(exist_ok=True)
        torch.save(network.state_dict(), path)
        landmarks.save(landmarks_path(path))
        return path, landmarks

    return make


def first_score(folder):
    """The score of the weights that a run started from."""
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return [float(row["ssim_healthy"]) for row in csv.DictReader(file) if row["epoch"] == "0"]


def part(workflow, key):
    return workflow.parser.get_parsed_content(key)


def test_the_paper_s_overlays_start_at_random():
    assert len(PAPER) == 8
    for name in PAPER:
        content = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
        assert (content["from_scratch"], content["promote"]) == (True, False), name
        additions = ("linear_start", "full_width", "linear_skip", "jitter", "ema")
        assert not any(content[key] for key in additions), name


@pytest.mark.parametrize("overlays", [["paper_table1_l1"], ["paper_width"], ["paper_table2_ssim", "paper_width"]])
def test_they_learn_landmarks_of_their_own(train, brains, present, tmp_path, overlays):
    present()
    workflow = train(*overlays, width=2, from_scratch=True)
    assert part(workflow, "start").source == "random initialisation"
    learned = fit(part(workflow, "entries")["train"], "t1c")
    assert part(workflow, "landmarks") == learned
    check_bound(load_flat(tmp_path / "runs" / "short-1" / "best.pt"), learned.digest)


def test_another_width_learns_landmarks_too(train, present, capsys):
    _, others = present()
    workflow = train(width=3, from_scratch=True)
    assert part(workflow, "landmarks") != others
    out = capsys.readouterr().out
    assert "random initialisation, last layer from the linear regression" in out
    assert "model.pt stays: it belongs to another network shape" in out


def test_both_networks_step_on_every_batch(train):
    trainers = [part(train(adversarial_weight=weight, promote=False), "train::trainer") for weight in (0, 1)]
    alone, game = (trainer.state for trainer in trainers)
    assert alone.epoch_length == game.epoch_length == BUDGET["stacks"] // BUDGET["batch_size"]
    game.epoch = 0
    cost = trainers[1].passes_left(generator=STEP, discriminator=DISCRIMINATOR, game=DISCRIMINATOR)
    assert cost == STEP + 2 * DISCRIMINATOR  # for each stack of the one epoch


def test_better_weights_replace_those_with_other_landmarks_which_are_kept(train, present, tmp_path, capsys):
    path, others = present(POOR)
    old = load_flat(path)
    train(promote=False, run_name="from")  # starts from them
    train(from_scratch=True, run_name="new")
    (score,) = first_score(tmp_path / "runs" / "from")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model.pt now holds" in line]
    assert line.endswith(f" against {score:.2f})")
    folder = tmp_path / "runs" / "new"
    now, own = read(landmarks_path(path), "t1c"), read(folder / "best.landmarks.json", "t1c")
    assert now == own != others
    check_bound(load_flat(path), own.digest)
    kept = folder / "replaced.pt"
    assert read(landmarks_path(kept), "t1c") == others
    assert all(torch.equal(tensor, old[key]) for key, tensor in load_flat(kept).items())


@pytest.mark.parametrize("bend", [1.0, 2.0])
def test_present_weights_are_scored_in_the_scale_of_their_own_landmarks(train, present, tmp_path, capsys, bend):
    path, others = present(bend=bend)
    before = path.read_bytes()
    train(promote=False, run_name="from")
    (score,) = first_score(tmp_path / "runs" / "from")
    capsys.readouterr()
    workflow = train(from_scratch=True, linear_start=False, run_name="new")
    promotion = next(h for h in part(workflow, "train::handlers") if hasattr(h, "held_out"))
    assert promotion.score(load_flat(path)) == pytest.approx(score, abs=1e-5)
    assert f"model.pt stays: it scores {score:.2f}, this run" in capsys.readouterr().out
    assert path.read_bytes() == before and read(landmarks_path(path), "t1c") == others
    assert not (tmp_path / "runs" / "new" / "replaced.landmarks.json").exists()
    assert promotion.held_out.landmarks == part(workflow, "landmarks")  # as it was
    assert promotion.held_out.volumes is not None and part(workflow, "validate::evaluator").state.aside is False


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda path, _: path.unlink(), "no such landmarks file"),
        (lambda path, _: path.write_text("{", encoding="utf-8"), "not a file of landmarks"),
        (lambda path, own: Landmarks("t2w", own.sequences, 3).save(path), "belong to the target t2w"),
        (lambda path, own: Landmarks("t1c", own.sequences, 4).save(path), "do not belong together"),
    ],
)
def test_present_weights_without_usable_landmarks_stay(train, present, tmp_path, capsys, change, text):
    path, own = present(POOR)
    change(landmarks_path(path), own)
    before = path.read_bytes()
    train(from_scratch=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model.pt stays" in line]
    assert text in line
    assert path.read_bytes() == before


def test_a_run_goes_on_though_the_bundle_has_other_weights_now(train, present, tmp_path):
    present(MEDIOCRE)
    train(run_name="straight", promote=False, train__trainer__max_epochs=2)
    train(run_name="first", promote=False)
    own = read(tmp_path / "runs" / "first" / "best.landmarks.json", "t1c")
    present(POOR, bend=1.5)  # what another run has put there
    workflow = train(run_name="first", promote=False, resume=True, train__trainer__max_epochs=2)
    assert part(workflow, "landmarks") == own
    check_bound(part(workflow, "network"), own.digest)
    straight, resumed = (torch.load(tmp_path / "runs" / n / "last.pt")["network"] for n in ("straight", "first"))
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in straight.items())


def test_a_run_from_scratch_goes_on_without_saying_so_again(train, present, tmp_path, capsys):
    path, others = present(MEDIOCRE)
    train(run_name="new", promote=False, from_scratch=True, linear_start=False)
    before = path.read_bytes()
    train(run_name="new", resume=True, train__trainer__max_epochs=2)
    # what the run started from were not the bundle's weights, which are better
    assert "model.pt stays: it scores" in capsys.readouterr().out
    assert path.read_bytes() == before and read(landmarks_path(path), "t1c") == others
