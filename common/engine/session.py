# SPDX-License-Identifier: Apache-2.0
"""A run from its first line to its last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ignite.engine import Engine
from monai.handlers import StatsHandler, TensorBoardStatsHandler
from torch import nn

from common.data.datasets import check_entries
from common.engine.domain import Measures, joined, training_domain
from common.engine.trainers import terms_of
from common.handlers import (
    BestWeights,
    EpochBar,
    EpochLoss,
    EpochSamples,
    PromoteWeights,
    ScoreTable,
    StartingWeights,
    TermsTable,
    WeightAverage,
    tensorboard_folder,
)
from common.io.runs import end_tracking, save_config, save_split
from common.io.weights import bare, load_domain, load_into
from common.report import Report, Scores, facts
from common.utils.console import device_text, duration, say
from common.utils.distributed import from_all, is_main_process

from .keys import Recipe
from .stages import Stage, StagePlan

__all__ = ["Session"]


class Session:
    """Trains, evaluates or infers with the components of a configuration: ``"run": "$@session.train()"``.

    It owns what is the same in every run: starting weights, resuming, progress, logs, scores, the best weights, the
    record, the first lines and the last. The components stay in the configuration, where MONAI looks for them.

    Args:
        keys: what ``Recipe.prepare`` gave.
        recipe: the recipe itself.
        network: the network, in a wrapper or not.
        weights: the file that it starts from or uses.
        evaluator: MONAI's engine that validates, evaluates or infers.
        from_scratch: train from random weights.
        resume: go on with an earlier run.
        run_dir: the run's folder, of trainings and evaluations.
        trainer: MONAI's engine of a training.
        average: average of the weights that is validated and kept, None for the weights themselves.
        state: what a checkpoint holds besides the network and an adversarial trainer's own parts, by name: optimizers,
            schedulers, ...
        scores: table of the evaluator's metrics.
        metrics: of the summary; the gain is given in the first.
        columns: images of a case in the report, see ``common.report.CasePictures``; None for none.
        rows_first: their two-dimensional images are stored row by row from the top.
        promote: put the best weights of a training in the place of ``weights``, if they are better.
        beside: names of files in the run's folder that belong to its weights, and are promoted with them.
        lower_is_better: of the evaluator's key metric.
        keep: which weights ``best.pt`` holds: the ``best`` by the key metric, or the ``last``.
        needed: what each entry of the data must name.
        measured: gives the measures of what the network is shown of a training entry, which are stored with the
            weights for inference to compare scans with, see ``common.engine.domain``.
        prepare: what is done to a network before inference, such as folding its normalisations.
        handlers: the evaluator's own handlers, of which MLflow's is ended after an evaluation.
        before: trainings that come before the trainer's, in order.
        name: of the trainer's own stage among them.
        stages: names of the stages to run; empty for all.
    """

    def __init__(
        self,
        keys: Mapping[str, Any],
        recipe: Recipe,
        network: nn.Module,
        weights: str,
        evaluator: Any,
        from_scratch: bool = False,
        resume: bool = False,
        run_dir: Path | None = None,
        trainer: Any = None,
        average: WeightAverage | None = None,
        state: Mapping[str, Any] | None = None,
        scores: ScoreTable | None = None,
        metrics: Sequence[str] = (),
        columns: Sequence[Sequence[Any]] | None = None,
        rows_first: bool = False,
        promote: bool = False,
        beside: Sequence[str] = (),
        lower_is_better: bool = False,
        keep: str = "best",
        needed: Sequence[str] = ("image",),
        measured: Callable[[Mapping], Iterable[Measures]] | None = None,
        prepare: Callable[[nn.Module], Any] | None = None,
        handlers: Sequence[Any] = (),
        before: Mapping[str, Stage] | None = None,
        name: str = "epoch",
        stages: Sequence[str] = (),
    ) -> None:
        self.keys, self.recipe = keys, recipe
        self.network, self.weights = network, Path(weights)
        self.evaluator, self.trainer = evaluator, trainer
        self.resume = resume
        # inference has neither
        self.run_dir, self.scores = cast(Path, run_dir), cast(ScoreTable, scores)
        self.average, self.state = average, dict(state or {})
        self.metrics = list(metrics)
        self.columns, self.rows_first = list(columns or ()), rows_first
        self.from_scratch = from_scratch
        self.start = StartingWeights(network, str(weights), from_scratch)
        self.best: BestWeights  # of a training
        self._recorded: dict[str, Any] = {}  # as config.json tells it
        self.promote, self.lower_is_better, self.keep = promote, lower_is_better, keep
        self.needed, self.prepare, self.handlers, self.beside = needed, prepare, handlers, beside
        self.measured = measured
        self.before, self.name, self.stages = dict(before or {}), name, stages

    @property
    def validated(self) -> nn.Module:
        """The network that is validated and kept."""
        return self.network if self.average is None else self.average.network

    def train(self) -> None:
        """Trains, and says what it gained.

        Raises:
            InputError: data, weights or a checkpoint that cannot work.
        """
        trainer, folder = self.trainer, self.run_dir
        data = trainer.data_loader.dataset
        entries = {"train": _entries(data), "validate": _entries(self.evaluator.data_loader.dataset)}
        check_entries(**entries, keys=self.needed)
        source = self.start.load()
        self.best = BestWeights(folder, self.validated, lower=self.lower_is_better, last=self.keep == "last")
        state = {"network": self.network, **getattr(trainer, "parts", {}), **self.state, "best": self.best}
        if hasattr(self.scores, "state_dict"):
            state["scores"] = self.scores
        if self.average is not None:
            state["average"] = self.average
        tensorboard = tensorboard_folder(folder)
        for name, stage in self.before.items():
            self._follow_training(name, stage.trainer)
            self._log(stage.trainer, name, None)
        self._follow_training(self.name, trainer)
        self._follow_terms(tensorboard)
        self._follow_validation([self.best], tensorboard)
        report = self._report(folder, self.best)
        plan = StagePlan(folder, {**self.before, self.name: Stage(trainer, state)}, self.stages)
        if self.promote:
            PromoteWeights(
                self.best, str(self.weights), entries["train"], self.evaluator, self.start, beside=self.beside
            ).attach(trainer)
        plan.begin(self.resume, self.from_scratch)
        self._record()
        save_split(folder, entries)
        self.best.domain = self._domain(entries["train"])
        begin = time.monotonic()
        ran = self._announce(f"training, stages {', '.join(plan.left)}" if self.before else "training", source, data)
        plan.run()
        if self.best.first is None:  # no stage that ran has validated
            bare(self.validated).load_state_dict(bare(self.network).state_dict())
            self.evaluator.run()
        seconds = time.monotonic() - begin
        self._tell_gain(seconds, tensorboard)
        ran |= {"kept weights": facts.weights_text(self.best.path), "time": duration(seconds)}
        lead = f"The network was trained for {trainer.state.epoch} epochs. What is kept are {self._kept()}."
        report.write("training", lead, ran, self._settings(), self._scores(self.best.epoch), self.best.epoch)

    def evaluate(self) -> None:
        """Scores given weights, beside the baseline.

        Raises:
            InputError: data or weights that cannot work.
        """
        load_into(self.network, self.weights)
        self.scores.table, self.scores.paper = True, False
        tensorboard = tensorboard_folder(self.run_dir)
        self._follow_validation([], tensorboard)
        report = self._report(self.run_dir)
        self._record()
        begin = time.monotonic()
        ran = self._announce("evaluation", str(self.weights))
        self.evaluator.run()
        end_tracking(self.handlers)
        ran["time"] = duration(time.monotonic() - begin)
        say(f"scores {self.scores.path}")
        lead = f"The network was compared with {self.scores.baseline} on images whose truth is known."
        report.write("evaluation", lead, ran, self._settings(), self._scores(self.evaluator.state.epoch))

    def infer(self) -> None:
        """Works through the cases.

        Raises:
            InputError: weights that cannot work.
            SystemExit: with status 1, where a case failed.
        """
        load_into(self.network, self.weights)
        if self.prepare is not None:
            self.prepare(bare(self.network))
        cases, begin = self.evaluator.data_loader.dataset, time.monotonic()
        report = self._report(cases.saver.output_dir)
        self.evaluator.run()
        self._report_cases(report, cases, time.monotonic() - begin)
        cases.finish()

    def _report(self, folder: str | Path, best: BestWeights | None = None) -> Report:
        report = Report(folder, self.recipe.configs / "metadata.json", self.columns, self.rows_first)
        report.pictures.attach(self.evaluator, best)
        return report

    def _report_cases(self, report: Report, cases: Any, seconds: float) -> None:
        """The report of an inference; one that found nothing to do leaves an earlier page alone."""
        sources = {result: source for of_one in from_all(cases.saver.sources) for result, source in of_one.items()}
        failures = [failure for of_one in from_all(cases.all_failures()) for failure in of_one]
        if not sources:
            return
        told = facts.sidecar_facts(list(sources))
        ran = {
            **{"device": device_text(next(bare(self.network).parameters()).device)},
            **{"network": facts.network_text(self.network), "weights": facts.weights_text(self.weights)},
            "time": duration(seconds),
        }
        saver = cases.saver
        results = facts.restored(sources, saver.output_dir, saver.root)
        bad = f", {len(failures)} failed" if failures else ""
        done = f"{len(results)} image{'' if len(results) == 1 else 's'} processed{bad}."
        lead = f"{done} There is no truth to score against: compare input and result below."
        shown = facts.settings({**told.get("settings", {}), **told.get("overrides", {})}, self.recipe.keys)
        report.write("inference", lead, ran, shown, results=results, failures=facts.failed(failures, saver.root))

    def _domain(self, entries: Sequence[Mapping]) -> dict[str, list]:
        """What the weights have been trained on at the run's end, those that it started from included."""
        if self.measured is None or not is_main_process():  # who writes them
            return {}
        seen = training_domain(self.measured, entries)
        return seen if self.from_scratch else joined(load_domain(self.weights), seen)

    def _follow_training(self, name: str, trainer: Any) -> None:
        data = trainer.data_loader.dataset
        if hasattr(data, "check"):
            data.check()
        if hasattr(data, "set_epoch"):
            EpochSamples(data).attach(trainer)
        EpochBar(name).attach(trainer)
        EpochLoss().attach(trainer)

    def _follow_terms(self, tensorboard: str | None) -> None:
        TermsTable(self.run_dir, terms_of).attach(self.trainer)
        self._log(self.trainer, "train", tensorboard, terms=True)

    def _follow_validation(self, handlers: Sequence[Any], tensorboard: str | None) -> None:
        for handler in (*handlers, self.scores):
            handler.attach(self.evaluator)
        if self.trainer is not None:
            self._log(self.evaluator, "validate", tensorboard)

    def _log(self, engine: Engine, name: str, tensorboard: str | None, terms: bool = False) -> None:
        """MONAI's lines and curves, in the first process only."""
        if not is_main_process():
            return
        StatsHandler(name=name, iteration_log=False).attach(engine)
        if tensorboard is not None:
            output = terms_of if terms else lambda _: None
            TensorBoardStatsHandler(log_dir=tensorboard, output_transform=output, iteration_log=terms).attach(engine)

    def _record(self) -> None:
        self._recorded = save_config(self.run_dir, self.recipe.record(self.keys["config"]))

    def _announce(self, job: str, source: str, data: Any = None) -> dict[str, str]:
        """Says what is going to happen, and gives it for the report."""
        device = next(bare(self.network).parameters()).device
        lines = {"job": job, "device": device_text(device)}
        if data is not None:
            lines["budget"] = f"{self.keys['budget']}, {self.trainer.state.max_epochs} epochs"
            lines["training"] = data.describe()
        lines["held out"] = self.evaluator.data_loader.dataset.describe()
        lines |= {"weights": source, "run": str(self.run_dir)}
        for title, text in lines.items():
            say(f"{title + ':':<10}{text}")
        return {
            "data": self._recorded.get("dataset_dir") or "sample data, made by this collection",
            **{title: text for title, text in lines.items() if title != "job"},
            **{"run": self.run_dir.name, "network": facts.network_text(self.network)},
            "weights": facts.weights_text(source),
        }

    def _kept(self) -> str:
        best = self.best.epoch
        return "the starting weights, which no epoch beat" if best == 0 else f"the weights of epoch {best}"

    def _scores(self, epoch: int) -> Scores:
        return Scores(self.scores, epoch, self.metrics)

    def _settings(self) -> list[dict[str, str]]:
        return facts.settings(self._recorded, self.recipe.keys)

    def _tell_gain(self, seconds: float, tensorboard: str | None) -> None:
        best = self.best
        places = [f"weights {best.path} ({self._kept()})", f"scores {self.scores.path}"]
        if tensorboard:
            places.append(f"TensorBoard log {tensorboard}")
        say(f"done in {duration(seconds)}; use the weights with --weights {best.path}")
        say(f"summary: {self.scores.summary(best.epoch, self.metrics)}; " + ", ".join(places))


def _entries(data: Any) -> list:
    """Entries of a dataset, of one around it, or of the volumes that patches are drawn from."""
    while hasattr(data, "volumes"):
        data = data.volumes
    return list(data.data)
