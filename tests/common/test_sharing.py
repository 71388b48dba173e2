# SPDX-License-Identifier: Apache-2.0
"""Which cases are left to do, and that each is taken once."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, LoadImage

from common.engine.sharing import CaseList, SharedCases, batch_share, batch_shares, plan
from common.errors import InputError
from common.io.hashes import INPUT
from common.io.inputs import CaseLoader, Cases
from common.io.provenance import SUFFIX, command_line_overrides, is_finished, publish
from common.io.savers import SaveRestoredd

FACTS = {"bundle": "a bundle", "version": "1", "weights_sha256": "abc", "overrides": {"scale": "2", "device": "cpu"}}


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [folder / f"{number}.nii.gz" for number in range(3)]
    for path in paths:
        nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 4, 4)).astype(np.float32), np.eye(4)), path)
    return [str(path) for path in paths]


def saver(tmp_path, postfix="sr", **facts):
    keys = ["pred", "residual"][: 1 if isinstance(postfix, str) else len(postfix)]
    return SaveRestoredd(keys, str(tmp_path / "out"), postfix, {**FACTS, **facts})


def planned(paths, saver, failures=()):
    entries = [{"image": path, "guide": []} for path in paths]
    return plan(lambda: {"entries": entries, "failures": list(failures)}, Compose([Compose([saver])]))


def done(entries, saver):
    """How many of these cases are finished; the others are asked for."""
    entries = [entry if isinstance(entry, dict) else {"image": entry, "guide": []} for entry in entries]
    cases = SharedCases(entries, None, Compose([saver]))
    assert len(list(cases)) == len(entries) - cases.done
    cases.stop()
    return cases.done


def restore(path, saver):
    image = LoadImage(image_only=True, ensure_channel_first=True)(path)
    saver({key: image for key in saver.keys})


def test_finished_cases_are_left_out_and_counted(scans, tmp_path, caplog):
    restore(scans[1], saver(tmp_path))
    found = planned(scans, saver(tmp_path), [("other", "why")])
    assert [entry["image"] for entry in found] == scans and found.failures == [("other", "why")]
    cases = SharedCases(found, loader(), Compose([saver(tmp_path)]))
    with caplog.at_level("INFO"):
        assert [case["image"].meta["filename_or_obj"][0] for case in CaseLoader(cases)] == [scans[0], scans[2]]
        cases.finish(raise_error=False)
    assert "1 cases were finished already" in caplog.text and "3 of 4 cases done, 1 failed:" in caplog.text


def test_a_case_is_finished_with_all_of_its_results(scans, tmp_path):
    restore(scans[0], saver(tmp_path))
    both = saver(tmp_path, ["sr", "residual"])
    assert done(scans[:1], both) == 0
    restore(scans[0], both)
    assert done(scans[:1], both) == 1


@pytest.mark.parametrize(
    "facts",
    [{"version": "2"}, {"weights_sha256": "other"}, {"overrides": {"scale": "3"}}, {"overrides": {}}, {"more": 1}],
)
def test_results_of_other_weights_or_settings_are_made_again(scans, tmp_path, facts):
    restore(scans[0], saver(tmp_path))
    assert done(scans[:1], saver(tmp_path, **facts)) == 0


def test_where_a_result_is_made_is_no_setting_of_it(scans, tmp_path):
    restore(scans[0], saver(tmp_path))
    words = "--scale 2 --device cuda --memory_gb 8 --config_file ['a.json','b.json'] --dataset_dir moved --output_dir x"
    restore(scans[0], saver(tmp_path, overrides=command_line_overrides(["--scale", "2", "--device", "cpu"])))
    assert done(scans[:1], saver(tmp_path, overrides=command_line_overrides(words.split()))) == 1


def _older(path):
    """As cp -p and rsync -a leave a file from elsewhere."""
    os.utime(path, (path.stat().st_mtime - 1000,) * 2)


def test_a_folder_with_the_same_names_is_not_finished(scans, tmp_path, caplog):
    caplog.set_level("INFO")
    restore(scans[0], saver(tmp_path))
    other = tmp_path / "elsewhere" / "in" / "0.nii.gz"
    other.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(1).random((4, 4, 4)).astype(np.float32), np.eye(4)), other)
    _older(other)
    assert done([str(other)], saver(tmp_path)) == 0
    assert "0.nii.gz: what is there is incomplete, or of another input" in caplog.text
    restore(str(other), saver(tmp_path))
    assert done([str(other)], saver(tmp_path)) == 1
    assert done(scans[:1], saver(tmp_path)) == 0


def test_the_same_scans_elsewhere_are_finished(scans, tmp_path):
    restore(scans[0], saver(tmp_path))
    shutil.copytree(tmp_path / "in", tmp_path / "moved" / "in")
    assert done([str(tmp_path / "moved" / "in" / "0.nii.gz")], saver(tmp_path)) == 1


@pytest.mark.parametrize("key", ["image", "guide"])
def test_an_input_or_guide_replaced_by_an_older_file_is_noticed(scans, tmp_path, key):
    entry = {"image": scans[0], "guide": [str(tmp_path / "mask.nii.gz")]}
    shutil.copy(scans[1], entry["guide"][0])
    some = saver(tmp_path)
    (case,) = Cases([entry], loader())
    some({"pred": case["image"], **{key: value for key, value in case.items() if key != "image"}})
    assert done([entry], some) == 1
    changed = Path([*entry["guide"], scans[0]][key == "image"])
    nib.save(nib.Nifti1Image(np.random.default_rng(1).random((4, 4, 4)).astype(np.float32), np.eye(4)), changed)
    _older(changed)
    assert done([entry], some) == 0


def _newer_input(result, source):
    os.utime(source, (result.stat().st_mtime + 10,) * 2)


def _cut_sidecar(result, source):
    sidecar = result.with_name(result.name + SUFFIX)
    sidecar.write_text(sidecar.read_text(encoding="utf-8")[:-20], encoding="utf-8")


FAULTS = {
    "no result": lambda result, source: result.unlink(),
    "no sidecar": lambda result, source: result.with_name(result.name + SUFFIX).unlink(),
    "half a sidecar": _cut_sidecar,
    "no object": lambda result, source: result.with_name(result.name + SUFFIX).write_text("[]", encoding="utf-8"),
    "newer input": _newer_input,
    "input gone": lambda result, source: source.unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_complete_is_not_finished(scans, tmp_path, fault):
    restore(scans[0], saver(tmp_path))
    result = tmp_path / "out" / "0_sr.nii.gz"
    assert is_finished(result, FACTS, scans[0], [scans[0]])
    FAULTS[fault](result, tmp_path / "in" / "0.nii.gz")
    assert not is_finished(result, FACTS, scans[0], [scans[0]])


def test_a_kill_between_sidecar_and_result_leaves_no_old_result_beside_a_new_sidecar(tmp_path, monkeypatch):
    result, replace = tmp_path / "a", os.replace
    with publish(result, {"text": "old"}, "a.nii") as partial:
        partial.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "replace", lambda a, b: _killed() if str(b) == str(result) else replace(a, b))
    with pytest.raises(KeyboardInterrupt), publish(result, {"text": "new"}, "a.nii") as partial:
        partial.write_text("new", encoding="utf-8")
    assert json.loads((tmp_path / f"a{SUFFIX}").read_text(encoding="utf-8"))["text"] == "new"
    assert not result.exists() and [path.name for path in tmp_path.iterdir()] == [f"a{SUFFIX}"]


def test_a_result_stays_while_the_same_one_is_made_again(tmp_path):
    for _ in range(2):
        with publish(tmp_path / "a", {"text": "same"}, "a.nii") as partial:
            partial.write_text("image", encoding="utf-8")
            before = (tmp_path / "a").exists()
    assert before


def _killed():
    raise KeyboardInterrupt


def test_two_inputs_with_one_result_are_told(scans, tmp_path):
    twin = scans[0].removesuffix(".gz")
    nib.save(nib.load(scans[0]), twin)
    found = planned([scans[0], twin], saver(tmp_path))
    assert [entry["image"] for entry in found] == [scans[0]]
    ((path, reason),) = found.failures
    assert path == twin and "would overwrite that of" in reason


def test_what_only_loading_shows_is_left_for_it(scans, tmp_path, monkeypatch):
    some = saver(tmp_path)
    monkeypatch.setattr(some, "expect", lambda entry: (_ for _ in ()).throw(OSError("no image")))
    assert len(planned(scans, some)) == 3
    monkeypatch.setattr(some, "expect", lambda entry: (_ for _ in ()).throw(InputError("no", entry["image"])))
    assert planned(scans, some).failures == [(path, "no") for path in scans]


def test_each_process_takes_its_share_by_rank(scans, tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr("common.engine.sharing.processes", lambda: 2)
    for number in range(2):
        monkeypatch.setattr("common.engine.sharing.rank", lambda number=number: number)
        cases = SharedCases([{"image": path} for path in scans], loader(), Compose([saver(tmp_path)]))
        shares.append([case["image"].meta["filename_or_obj"][0] for case in CaseLoader(cases)])
    assert shares == [[scans[0], scans[2]], [scans[1]]]


@pytest.fixture
def elsewhere(scans, tmp_path):
    """A process that has claimed the first case and written half of its result; a function kills it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            next(iter(SharedCases([{"image": scans[0]}], None, Compose([saver(tmp_path)]))))
            (tmp_path / "out" / ".0123abcd.0_sr.nii.gz").write_text("half a result", encoding="utf-8")
            os.write(writing, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    told = os.read(reading, 1)
    os.close(reading)
    alive = [child]

    def kill():
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        alive.clear()

    yield child, kill
    kill()
    assert told == b"!"


def test_a_case_that_another_run_has_claimed_is_left_to_it_until_it_dies(scans, tmp_path, elsewhere, caplog):
    caplog.set_level("INFO")
    child, kill = elsewhere
    cases = SharedCases([{"image": path} for path in scans], loader(), Compose([saver(tmp_path)]))
    found = iter(CaseLoader(cases))
    assert [next(found)["image"].meta["filename_or_obj"][0] for _ in range(2)] == scans[1:]
    assert f"{scans[0]}: left to process {child} on {socket.gethostname()}" in caplog.text
    kill()
    assert [case["image"].meta["filename_or_obj"][0] for case in found] == scans[:1]
    assert list((tmp_path / "out").iterdir()) == []  # neither its lock nor its half result


def test_a_case_that_another_run_has_finished_meanwhile_is_counted_as_done(scans, tmp_path, elsewhere):
    cases = SharedCases([{"image": path} for path in scans], loader(), Compose([saver(tmp_path)]))
    found = iter(CaseLoader(cases))
    for _ in range(2):
        next(found)
    restore(scans[0], saver(tmp_path))  # stands for the other process
    elsewhere[1]()
    assert list(found) == [] and cases.done == 1


def work(scans, tmp_path, told):
    """A whole run in a process of its own; a case is done by saving what was read."""
    child = os.fork()
    if child == 0:
        try:
            some = saver(tmp_path)
            cases = SharedCases([{"image": path} for path in scans], loader(), Compose([some]))
            for case in CaseLoader(cases):
                some({"pred": case["image"][0], INPUT: case[INPUT][0]})
                os.write(told, b"!")
            os._exit(0 if cases.all_failures() == [] and len(list((tmp_path / "out").glob("[!.]*.gz"))) == 3 else 1)
        finally:
            os._exit(2)
    return child


def test_of_forty_pairs_of_runs_none_loses_a_case_or_does_one_twice(scans, tmp_path):
    for number in range(40):
        folder = tmp_path / str(number)
        reading, writing = os.pipe()
        children = [work(scans, folder, writing) for _ in range(2)]
        os.close(writing)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
        assert os.read(reading, 100) == b"!!!"
        os.close(reading)
        names = {f"{case}_sr.nii.gz{ending}" for case in range(3) for ending in ("", SUFFIX)}
        assert {path.name for path in (folder / "out").iterdir()} == names


@pytest.mark.usefixtures("elsewhere")
def test_a_run_that_stops_waits_for_no_other(scans, tmp_path):
    cases = SharedCases([{"image": path} for path in scans[:2]], loader(), Compose([saver(tmp_path)]))
    found = iter(CaseLoader(cases))
    next(found)  # its thread now waits for the other run
    stop = threading.Thread(target=found.close, daemon=True)
    stop.start()
    stop.join(timeout=10)
    assert not stop.is_alive()


@pytest.mark.parametrize(
    ("batch", "processes", "share", "line"),
    [
        (16, 1, 16, ""),
        (16, 2, 8, ""),
        (16, 3, 5, "3 processes take 5 each of a batch of 16, 15 together"),
        (16, 6, 2, "6 processes take 2 each of a batch of 16, 12 together"),
        (16, 8, 2, ""),
        (3, 2, 1, "2 processes take 1 each of a batch of 3, 2 together"),
        (8, 8, 1, ""),
    ],
)
def test_a_batch_is_shared_and_what_is_lost_is_told(batch, processes, share, line, monkeypatch, capsys):
    monkeypatch.setattr("common.engine.sharing.processes", lambda: processes)
    assert batch_share(batch) == share
    printed = capsys.readouterr().out
    assert printed.startswith(line) and printed.count("\n") == bool(line)


def test_batches_of_one_size_are_told_of_once(monkeypatch, capsys):
    monkeypatch.setattr("common.engine.sharing.processes", lambda: 3)
    assert batch_shares([20, *[8] * 20]) == [6, *[2] * 20]
    assert capsys.readouterr().out.count("\n") == 2


def test_a_batch_smaller_than_the_processes_is_refused(monkeypatch):
    monkeypatch.setattr("common.engine.sharing.processes", lambda: 8)
    with pytest.raises(InputError, match="8 processes cannot share a batch of 4; start at most 4"):
        batch_shares([16, 4])


def loader():
    load = LoadImage(image_only=True, ensure_channel_first=True)
    return lambda item: {**item, "image": load(item["image"])}


def test_failures_end_with_status_1(scans, tmp_path, caplog):
    entries = CaseList({"image": path} for path in [*scans, "missing.nii"])
    entries.failures = [("bad.nii", "no")]
    cases = SharedCases(entries, loader(), Compose([saver(tmp_path)]))
    list(CaseLoader(cases))
    assert not list((tmp_path / "out").glob(".*"))
    with pytest.raises(SystemExit):
        cases.finish()
    assert "3 of 5 cases done, 2 failed:" in caplog.text
