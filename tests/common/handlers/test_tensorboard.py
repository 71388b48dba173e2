# SPDX-License-Identifier: Apache-2.0
"""The folder of a run's TensorBoard log."""

import importlib.util

import pytest

from common.handlers import tensorboard as module
from common.handlers import tensorboard_folder


def test_the_log_lies_in_the_runs_folder(tmp_path):
    pytest.importorskip("tensorboard")
    assert tensorboard_folder(tmp_path) == str(tmp_path / "tensorboard")


def test_without_tensorboard_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tensorboard_folder(tmp_path) is None
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    assert tensorboard_folder(tmp_path) is None
    assert capsys.readouterr().out == ""
