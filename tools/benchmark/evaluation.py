# SPDX-License-Identifier: Apache-2.0
"""A bundle's own evaluation, taken apart: its held-out cases, its network's answer to one of them, its scores."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import list_data_collate
from monai.engines import IterationEvents

from common.io.hashes import file_hash
from common.io.weights import bare, load_into
from common.utils.console import multiplications

__all__ = ["BundleEvaluation"]

EVALUATOR = "validate::evaluator"
# the scores are computed for each method alike, and a run's files are not wanted
QUIET: dict[str, Any] = {
    **{"validate::handlers": [], f"{EVALUATOR}::key_val_metric": None, f"{EVALUATOR}::additional_metrics": None},
    **{"session::scores": None, "session::columns": None, "run_dir": None},
}
RUNS = (f"@{EVALUATOR}.run()", "@session.evaluate()")  # the step that evaluates
WEIGHTS = ("weights_file", "weights")  # where a configuration has the path


class BundleEvaluation:
    """What ``train.json`` and ``evaluate.json`` of a bundle say, without the run's files.

    Everything up to the evaluation itself is done as the configuration does it, so weights, precision, inference and
    scores are those of an evaluation.

    Args:
        bundle: name.
        keys: of the configuration, as on its command line.
        whole: further ones, by their place in the configuration; those that it does not have are passed over.

    Raises:
        ValueError: no step of the configuration evaluates.
    """

    def __init__(self, bundle: str, keys: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
        self.bundle, self.keys, self.whole = bundle, dict(keys), dict(whole)
        root = Path(str(importlib.import_module(f"{bundle}_lib").__file__)).parents[1]
        files = [str(root / "configs" / f"{job}.json") for job in ("train", "evaluate")]
        content = ConfigParser(ConfigParser.load_config_files(files))
        steps = content["run"]
        ends = [i for i, step in enumerate(steps) if any(run in str(step) for run in RUNS)]
        if not ends:
            raise ValueError(f"{files[-1]}: no step is {' or '.join(RUNS)}")
        known = {place: value for place, value in {**QUIET, **whole}.items() if place in content}
        workflow = ConfigWorkflow(
            files, workflow_type="train", logging_file=False, **{**known, "run": steps[: ends[0]], **keys}
        )
        workflow.initialize()
        self.parser = workflow.parser
        self.root = Path(self.parser.get_parsed_content("bundle_root"))
        self.parser.get_parsed_content("run")
        if "session" in self.parser:  # which loads the weights as its first act
            session = self.parser.get_parsed_content("session")
            load_into(session.network, session.weights)
        self.dataset = self.parser.get_parsed_content("validate::dataset")
        self.evaluator = self.parser.get_parsed_content(EVALUATOR)
        metrics = [self.parser.get_parsed_content(f"validate::{kind}") for kind in ("key_metric", "additional_metrics")]
        self.metrics = {name: metric.metric_fn for group in metrics for name, metric in group.items()}
        self._seen: torch.Tensor | None = None
        self._marks = {Events.ITERATION_STARTED: 0.0, IterationEvents.FORWARD_COMPLETED: 0.0}
        for event in self._marks:
            # not as an argument of the handler: ignite prints those, which Events of Python 3.11.2's enum cannot
            self.evaluator.add_event_handler(event, partial(self._mark, event))

    def with_keys(self, more: Mapping[str, Any]) -> BundleEvaluation:
        """The same evaluation with some keys changed."""
        return BundleEvaluation(self.bundle, {**self.keys, **more}, self.whole)

    def key(self, name: str) -> Any:
        """Value of a key of the bundle's configuration."""
        return self.parser.get_parsed_content(name)

    @property
    def weights(self) -> str:
        """SHA-256 of the weights file."""
        name = next(name for name in WEIGHTS if name in self.parser)
        return file_hash(self.key(name))

    @property
    def work(self) -> float:
        """Multiplications per voxel of an answer; an inferer that sees voxels several times tells itself."""
        network, inferer = bare(self.evaluator.network), self.evaluator.inferer
        if self._seen is None or not hasattr(inferer, "work"):
            return multiplications(network)
        return inferer.work(self._seen, network) / math.prod(self._seen.shape[2:])

    def predict(self, item: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
        """What the bundle makes of a held-out item, ``(1, H, W[, D])``, and the seconds of network and inferer."""
        batch = list_data_collate([dict(item)])
        self._seen = batch["image"]
        self.evaluator.data_loader = [batch]
        self.evaluator.state.epoch_length = 1
        self.evaluator.run()
        started, ended = self._marks.values()
        prediction = self.evaluator.state.output[0]["pred"]
        return plain(prediction), ended - started

    def _mark(self, event: Any, engine: Any) -> None:
        device = torch.device(self.evaluator.state.device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self._marks[event] = time.perf_counter()

    def score(self, prediction: torch.Tensor, item: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
        """The named scores of a method's answer to an item, those that this evaluation has.

        Raises:
            ValueError: the answer has another shape than the truth, or values that are no numbers.
        """
        image, label = plain(prediction), plain(item["label"])
        if image.shape[1:] != label.shape[1:] or not image.isfinite().all():
            raise ValueError(f"gave {tuple(image.shape)} for {tuple(label.shape)} or values that are not finite")
        scores = {}
        for name in names:
            if name in self.metrics:
                metric = self.metrics[name]
                metric.reset()
                metric(y_pred=image[None], y=label[None])
                scores[name] = float(metric.aggregate())
        return scores


def plain(image: torch.Tensor) -> torch.Tensor:
    """An image without meta data, on the CPU."""
    return torch.as_tensor(image).as_subclass(torch.Tensor).cpu()
