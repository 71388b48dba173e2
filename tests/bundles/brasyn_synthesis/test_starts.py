# SPDX-License-Identifier: Apache-2.0
"""Where a run's weights and histograms come from, and when they take the place of the bundle's own."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import brasyn_synthesis_lib
from brasyn_synthesis_lib.data import training_cases
from brasyn_synthesis_lib.networks import Generator
from brasyn_synthesis_lib.standardisation import Standardisation, fit
from common.handlers import PromoteWeights
from common.io.weights import load_flat

CONFIGS = Path(brasyn_synthesis_lib.__file__).parents[1] / "configs"
BRAIN = (28, 30, 24)  # voxels
BUDGET = {"epochs": 1, "patches": 4, "batch_size": 2, "patch_size": 24, "learning_rate": 0.001}
BUDGET |= {"halve_every": 10, "val_volumes": 1, "val_slices": 6}
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
    """A function that makes the bundle's weights as if trained on other data: with histograms of their own."""

    def make(factor=MEDIOCRE, bend=2.0):
        learned = fit(training_cases(brains), "t1c")
        bent = {name: [round(100 * (m / 100) ** bend, 4) for m in marks] for name, marks in learned.landmarks.items()}
        others = replace(learned, landmarks=bent)
        network = Generator(9, 2, 3)
        network.start_linear([factor * weight for weight in (0.5, 0.3, 0.2)], 0)
        others.write(network)
        path = tmp_path / "models" / "model.pt"
        path.parent.mkdir(exist_ok=True)
        torch.save(network.state_dict(), path)
        return path, others

    return make


def first_score(folder):
    """The score of the weights that a run started from."""
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return [float(row["ssim_healthy"]) for row in csv.DictReader(file) if row["epoch"] == "0"]


def part(workflow, key):
    return workflow.parser.get_parsed_content(key)


@pytest.mark.parametrize("overlays", [["paper/base"], ["paper/base", "paper/width", "paper/table2_ssim"]])
def test_the_paper_s_rows_learn_histograms_of_their_own(train, present, tmp_path, overlays):
    present()
    workflow = train(*overlays, width=2, from_scratch=True)
    assert part(workflow, "session").start.source == "random initialisation"
    learned = fit(part(workflow, "entries")["train"], "t1c")
    assert part(workflow, "standardisation") == learned
    assert Standardisation.read(tmp_path / "runs" / "short-1" / "best.pt", "t1c") == learned


def test_another_width_learns_histograms_too(train, present, capsys):
    _, others = present()
    workflow = train(width=3, from_scratch=True, promote=True)
    assert part(workflow, "standardisation") != others
    out = capsys.readouterr().out
    assert "starts as the linear regression" in out
    assert "model.pt stays: it belongs to another network shape" in out


def test_both_networks_step_on_every_batch(train):
    trainers = [part(train(adversarial_weight=weight), "train::trainer") for weight in (0, 1)]
    alone, game = (trainer.state for trainer in trainers)
    assert alone.epoch_length == game.epoch_length == BUDGET["patches"] // BUDGET["batch_size"]


def test_better_weights_replace_those_with_other_histograms_which_are_kept(train, present, tmp_path, capsys):
    path, others = present(POOR)
    old = load_flat(path)
    train(run_name="from")  # starts from them
    train(from_scratch=True, run_name="new", promote=True)
    (score,) = first_score(tmp_path / "runs" / "from")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model.pt now holds" in line]
    assert line.endswith(f" against {score:.2f})")
    folder = tmp_path / "runs" / "new"
    assert Standardisation.read(path, "t1c") == Standardisation.read(folder / "best.pt", "t1c") != others
    assert Standardisation.read(folder / "replaced.pt", "t1c") == others
    assert all(torch.equal(tensor, old[key]) for key, tensor in load_flat(folder / "replaced.pt").items())


@pytest.mark.parametrize("bend", [1.0, 2.0])
def test_present_weights_are_scored_in_the_scale_of_their_own_histograms(train, present, tmp_path, capsys, bend):
    path, others = present(bend=bend)
    before = path.read_bytes()
    train(run_name="from")
    (score,) = first_score(tmp_path / "runs" / "from")
    capsys.readouterr()
    workflow = train(from_scratch=True, linear_start=False, run_name="new", promote=True)
    session, evaluator = part(workflow, "session"), part(workflow, "validate::evaluator")
    promotion = PromoteWeights(session.best, str(path), [], evaluator, session.start)
    assert promotion.score(load_flat(path)) == pytest.approx(score, abs=1e-5)
    assert f"model.pt stays: it scores {score:.2f}, this run" in capsys.readouterr().out
    assert path.read_bytes() == before and Standardisation.read(path, "t1c") == others
    assert not (tmp_path / "runs" / "new" / "replaced.pt").exists()
    assert Standardisation.of(session.validated) == part(workflow, "standardisation") != others  # as it was
    assert evaluator.state.aside is False


def test_present_weights_of_another_target_stay(train, present, capsys):
    path, others = present(POOR)
    network = Generator(9, 2, 3)
    replace(others, target="t2w").write(network)
    torch.save(network.state_dict(), path)
    before = path.read_bytes()
    train(from_scratch=True, promote=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model.pt stays" in line]
    assert "the weights make t2w, not t1c" in line
    assert path.read_bytes() == before


def test_a_run_goes_on_though_the_bundle_has_other_weights_now(train, present, tmp_path):
    present(MEDIOCRE)
    train(run_name="straight", train__trainer__max_epochs=2)
    train(run_name="first")
    own = Standardisation.read(tmp_path / "runs" / "first" / "last.pt", "t1c")
    present(POOR, bend=1.5)  # what another run has put there
    workflow = train(run_name="first", resume=True, train__trainer__max_epochs=2)
    assert part(workflow, "standardisation") == own == Standardisation.of(part(workflow, "network"))
    straight, resumed = (torch.load(tmp_path / "runs" / n / "last.pt")["network"] for n in ("straight", "first"))
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in straight.items())


def test_a_run_from_scratch_goes_on_without_saying_so_again(train, present, tmp_path, capsys):
    path, others = present(MEDIOCRE)
    train(run_name="new", from_scratch=True, linear_start=False)
    before = path.read_bytes()
    train(run_name="new", resume=True, promote=True, train__trainer__max_epochs=2)
    # what the run started from were not the bundle's weights, which are better
    assert "model.pt stays: it scores" in capsys.readouterr().out
    assert path.read_bytes() == before and Standardisation.read(path, "t1c") == others
