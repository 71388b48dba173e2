# SPDX-License-Identifier: Apache-2.0
"""``--tracking mlflow`` with a local database, for all bundles."""

from __future__ import annotations

import mlflow
import pytest

from tools.package import bundle_names


def tracked(workflow, folder):
    """A client of the local database, the workflow's run in it, and the name of its key metric."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns.db")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    return client, run, workflow.parser.get_parsed_content("validate::evaluator").state.key_metric_name


@pytest.mark.parametrize("name", bundle_names())
def test_a_training_is_tracked_in_a_local_database(tiny, tmp_path, name, run_files):
    bundle = tiny(name)
    keys = bundle.keys("train", tmp_path, device="cpu", run_name="tracked")
    client, run, metric = tracked(run_files(bundle.files("train"), tracking="mlflow", **keys), tmp_path)
    assert {metric, "train_loss"} <= run.data.metrics.keys()
    assert len(client.get_metric_history(run.info.run_id, metric)) == 2  # before training and after its epoch


@pytest.mark.parametrize("name", bundle_names())
def test_an_evaluation_is_tracked_and_ended(tiny, tmp_path, name, run_files):
    bundle = tiny(name)
    keys = bundle.keys("evaluate", tmp_path, device="cpu")
    workflow = run_files(bundle.files("train", "evaluate"), tracking="mlflow", **keys)
    client, run, metric = tracked(workflow, tmp_path)
    assert len(client.get_metric_history(run.info.run_id, metric)) == 1
