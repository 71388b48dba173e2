# SPDX-License-Identifier: Apache-2.0
"""Each run has a folder of its own, and a resumed run finds its own again."""

import json
import os
import socket

import pytest
import torch
import torch.distributed as dist

from common.data.datasets import read_split
from common.errors import InputError
from common.io.runs import run_folder, save_config, save_split
from common.utils import distributed
from common.utils.distributed import is_main_process


def finished(folder):
    (folder / "last.pt").touch()
    return folder


def refused(*args):
    with pytest.raises(InputError) as caught:
        run_folder(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_are_numbered_by_budget(tmp_path):
    names = []
    for prefix in ("sample", "sample", "short", "sample"):
        names.append(run_folder(str(tmp_path), None, "false", prefix).name)
    assert names == ["sample-1", "sample-2", "short-1", "sample-3"]
    assert all((tmp_path / name).is_dir() for name in names)


def test_numbers_count_on_from_the_highest(tmp_path):
    for name in ("sample-2", "sample-10", "sample-old", "sample-test-99"):
        (tmp_path / name).mkdir()
    assert run_folder(tmp_path, None, False, "sample").name == "sample-11"


def test_a_run_may_have_a_name(tmp_path):
    assert run_folder(str(tmp_path / "new"), "mine", False, "sample") == tmp_path / "new" / "mine"
    assert run_folder(tmp_path, 7, False, "sample") == tmp_path / "7"


@pytest.mark.parametrize("name", ["..", "../other", "a/b", "/tmp/run", "a\\b", "a\0b"])
def test_a_name_leads_out_of_no_folder(tmp_path, name):
    assert refused(tmp_path / "out", name, False, "sample").startswith("run_name must be a name, and output_dir")
    assert not list(tmp_path.rglob("*"))


def test_a_finished_runs_name_is_taken(tmp_path):
    finished(run_folder(tmp_path, "mine", False, "sample"))
    assert "this run exists; add --resume true" in refused(tmp_path, "mine", False, "sample")


def test_a_run_that_saved_nothing_yet_may_start_again(tmp_path):
    assert run_folder(tmp_path, "mine", False, "s") == run_folder(tmp_path, "mine", False, "s")


def test_the_latest_run_that_can_be_resumed_goes_on(tmp_path):
    for number in (1, 2, 9, 10):
        finished(run_folder(tmp_path, f"sample-{number}", False, "sample"))
    finished(run_folder(tmp_path, "sample-test-99", False, "sample"))
    run_folder(tmp_path, "sample-11", False, "sample")
    assert run_folder(tmp_path, None, "true", "sample").name == "sample-10"
    assert run_folder(tmp_path, "sample-2", True, "sample").name == "sample-2"


def test_nothing_to_resume_is_said(tmp_path):
    assert refused(tmp_path, None, True, "sample") == f"{tmp_path}/sample-1: nothing to resume, there is no last.pt"
    assert "nothing to resume" in refused(tmp_path, "mine", True, "sample")
    assert not (tmp_path / "mine").exists()


def test_the_users_home_can_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder("~/runs", None, False, "sample") == tmp_path / "runs" / "sample-1"


def test_the_keys_of_a_run_are_kept(tmp_path):
    save_config(tmp_path, {"epochs": 3, "device": torch.device("cpu")})
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {"epochs": 3, "device": "cpu"}


def test_the_record_names_no_folder_of_the_machine(tmp_path):
    paths = {"a": "/home/Doe [Jane]/x.pt", "b": ["~/Doe/y", {"c": r"C:\Doe\z.pt"}], "d": tmp_path / "Doe" / "v"}
    kept = {"e": "scans/t1.nii", "f": "$@bundle_root + '/models'", "g": "**/*.nii*", "h": 0.5, "i": None}
    save_config(tmp_path, {**paths, **kept})
    told = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert told == {"a": "x.pt", "b": ["y", {"c": "z.pt"}], "d": "v", **kept}


def test_the_split_of_a_run_can_be_given_to_another(tmp_path):
    subjects = {"train": "cab", "validate": "dd"}
    entries = {part: [{"subject": name} for name in names] for part, names in subjects.items()}
    save_split(tmp_path, entries)
    parts = read_split(str(tmp_path / "split.json"), "abcd")
    assert parts == {"train": ["a", "b", "c"], "validate": ["d"], "test": []}


@pytest.mark.parametrize("subject", [{}, {"subject": "a"}])
def test_without_subjects_on_two_sides_there_is_no_split_to_keep(tmp_path, subject):
    save_split(tmp_path, {"train": [subject], "validate": [subject]})
    assert not (tmp_path / "split.json").exists()


def test_a_run_at_work_is_left_alone(tmp_path):
    folder = run_folder(tmp_path, "mine", False, "sample")
    child = os.fork()
    if child == 0:  # another process
        try:
            told = refused(tmp_path, "mine", False, "sample")
            taken = f"{folder}: process {os.getppid()} on {socket.gethostname()} is at work in this run; "
            os._exit(0 if told.startswith(taken) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("file", ["runs", "runs/mine"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, file):
    (tmp_path / "runs").mkdir(exist_ok=True)
    if file == "runs":
        (tmp_path / "runs").rmdir()
    (tmp_path / file).touch()
    assert "cannot be written: " in refused(tmp_path / "runs", "mine", False, "sample")


@pytest.fixture
def group(monkeypatch):
    """A group of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, text in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
    }.items():
        monkeypatch.setenv(name, str(text))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    distributed.start()
    yield
    distributed.stop()


def test_processes_in_a_group_agree_on_the_folder(tmp_path, group):
    assert dist.is_initialized() and is_main_process()
    distributed.start()  # joins once
    assert run_folder(tmp_path, None, False, "sample") == tmp_path / "sample-1"
    assert "nothing to resume" in refused(tmp_path, "mine", True, "sample")
    assert distributed.device() == torch.device("cpu")
    distributed.stop()
    distributed.stop()
    assert not dist.is_initialized() and is_main_process()


def test_a_group_can_be_joined_again_and_hands_things_around(group):
    assert distributed.from_first(lambda: [1, {"a": 2}]) == [1, {"a": 2}]
    with pytest.raises(InputError, match="why"):
        distributed.from_first(_refuse)
    assert distributed.from_all("mine") == ["mine"]
    assert list(distributed.held_out_sampler([5, 6])) == [0, 1]
    with pytest.raises(InputError, match="1 processes need as many held-out items, there are 0"):
        distributed.held_out_sampler([])
    distributed.stop()
    assert distributed.from_all("alone") == ["alone"] and distributed.rank() == 0
    distributed.start()


def _refuse():
    raise InputError("why")
