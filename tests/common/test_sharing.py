# SPDX-License-Identifier: Apache-2.0
"""Which cases are left to do, and that each is taken once."""

import itertools
import json
import os
import shutil
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, LoadImage

from common.inputs import CaseLoader, Cases, InputError
from common.provenance import SUFFIX, is_finished, publish
from common.savers import SaveRestoredd
from common.sharing import SharedCases, batch_share, batch_shares, plan

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


def restore(path, saver):
    image = LoadImage(image_only=True, ensure_channel_first=True)(path)
    saver({key: image for key in saver.keys})


def test_finished_cases_are_left_out_and_counted(scans, tmp_path):
    restore(scans[1], saver(tmp_path))
    found = planned(scans, saver(tmp_path), [("other", "why")])
    assert [entry["image"] for entry in found["entries"]] == [scans[0], scans[2]]
    assert (found["done"], found["failures"]) == (1, [("other", "why")])


def test_a_case_is_finished_with_all_of_its_results(scans, tmp_path):
    restore(scans[0], saver(tmp_path))
    both = saver(tmp_path, ["sr", "residual"])
    assert planned(scans[:1], both)["done"] == 0
    restore(scans[0], both)
    assert planned(scans[:1], both)["done"] == 1


@pytest.mark.parametrize(
    "facts",
    [{"version": "2"}, {"weights_sha256": "other"}, {"overrides": {"scale": "3"}}, {"overrides": {}}, {"more": 1}],
)
def test_results_of_other_weights_or_settings_are_made_again(scans, tmp_path, facts):
    restore(scans[0], saver(tmp_path))
    assert planned(scans[:1], saver(tmp_path, **facts))["done"] == 0


def test_where_a_result_is_made_is_no_setting_of_it(scans, tmp_path):
    restore(scans[0], saver(tmp_path))
    other = {"scale": "2", "device": "cuda", "memory_gb": "8", "config_file": "['a.json','b.json']"}
    other |= {"dataset_dir": "moved", "output_dir": "moved"}
    assert planned(scans[:1], saver(tmp_path, overrides=other))["done"] == 1


def _older(path):
    """As cp -p and rsync -a leave a file from elsewhere."""
    os.utime(path, (path.stat().st_mtime - 1000,) * 2)


def test_a_folder_with_the_same_names_is_not_finished(scans, tmp_path, caplog):
    restore(scans[0], saver(tmp_path))
    other = tmp_path / "elsewhere" / "in" / "0.nii.gz"
    other.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(1).random((4, 4, 4)).astype(np.float32), np.eye(4)), other)
    _older(other)
    assert planned([str(other)], saver(tmp_path))["done"] == 0
    assert "1 cases have results there that are incomplete, or of another input" in caplog.text
    restore(str(other), saver(tmp_path))
    assert planned([str(other)], saver(tmp_path))["done"] == 1
    assert planned(scans[:1], saver(tmp_path))["done"] == 0


def test_the_same_scans_elsewhere_are_finished(scans, tmp_path):
    restore(scans[0], saver(tmp_path))
    shutil.copytree(tmp_path / "in", tmp_path / "moved" / "in")
    assert planned([str(tmp_path / "moved" / "in" / "0.nii.gz")], saver(tmp_path))["done"] == 1


@pytest.mark.parametrize("key", ["image", "guide"])
def test_an_input_or_guide_replaced_by_an_older_file_is_noticed(scans, tmp_path, key):
    entry = {"image": scans[0], "guide": [str(tmp_path / "mask.nii.gz")]}
    shutil.copy(scans[1], entry["guide"][0])
    some = saver(tmp_path)
    (case,) = Cases([entry], loader())
    some({"pred": case["image"], **{key: value for key, value in case.items() if key != "image"}})
    found = Compose([some])
    assert plan(lambda: {"entries": [entry], "failures": []}, found)["done"] == 1
    changed = Path([*entry["guide"], scans[0]][key == "image"])
    nib.save(nib.Nifti1Image(np.random.default_rng(1).random((4, 4, 4)).astype(np.float32), np.eye(4)), changed)
    _older(changed)
    assert plan(lambda: {"entries": [entry], "failures": []}, found)["done"] == 0


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
    partial, result, replace = tmp_path / ".a", tmp_path / "a", os.replace
    partial.write_text("old", encoding="utf-8")
    publish(partial, result, {"text": "old"}, "a.nii")
    partial.write_text("new", encoding="utf-8")
    monkeypatch.setattr(os, "replace", lambda a, b: _killed() if str(b) == str(result) else replace(a, b))
    with pytest.raises(KeyboardInterrupt):
        publish(partial, result, {"text": "new"}, "a.nii")
    assert json.loads((tmp_path / f"a{SUFFIX}").read_text(encoding="utf-8"))["text"] == "new"
    assert not result.exists() and partial.read_text(encoding="utf-8") == "new"


def _killed():
    raise KeyboardInterrupt


def test_two_inputs_with_one_result_are_told(scans, tmp_path):
    twin = scans[0].removesuffix(".gz")
    nib.save(nib.load(scans[0]), twin)
    found = planned([scans[0], twin], saver(tmp_path))
    assert [entry["image"] for entry in found["entries"]] == [scans[0]]
    ((path, reason),) = found["failures"]
    assert path == twin and "would overwrite that of" in reason


def test_what_only_loading_shows_is_left_for_it(scans, tmp_path, monkeypatch):
    some = saver(tmp_path)
    monkeypatch.setattr(some, "expect", lambda entry: (_ for _ in ()).throw(OSError("no image")))
    assert len(planned(scans, some)["entries"]) == 3
    monkeypatch.setattr(some, "expect", lambda entry: (_ for _ in ()).throw(InputError("no", entry["image"])))
    assert planned(scans, some)["failures"] == [(path, "no") for path in scans]


def test_an_only_process_does_all_cases_and_says_so(scans, caplog):
    cases = SharedCases([{"image": path} for path in scans], loader(), done=2)
    with caplog.at_level("INFO"):
        assert len(list(CaseLoader(cases))) == 3
        cases.finish()
    assert "5 of 5 cases done" in caplog.text


def test_two_readers_of_one_counter_share_the_cases(scans, monkeypatch):
    counter = iter(range(100))
    monkeypatch.setattr("common.sharing.numbers", lambda: counter)
    first, second = (SharedCases([{"image": path} for path in scans], loader()) for _ in range(2))
    one = next(iter(first))
    rest = list(second)
    names = [case["image"].meta["filename_or_obj"] for case in (one, *rest)]
    assert names == scans


class Process:
    """One of several processes that share cases, with the names of those that it has loaded so far."""

    def __init__(self, count):
        self.loaded, self.news = [], threading.Condition()
        self.cases = SharedCases([{"name": number} for number in range(count)], self.load)
        self.seen = (int(case["name"]) for case in CaseLoader(self.cases))

    def load(self, item):
        with self.news:
            self.loaded.append(item["name"])
            self.news.notify_all()
        return item

    def has_loaded(self, *names):
        """Waits for these, and a moment for more."""
        with self.news:
            self.news.wait_for(lambda: len(self.loaded) >= len(names), timeout=10)
            self.news.wait_for(lambda: len(self.loaded) > len(names), timeout=0.2)
        return self.loaded == list(names)


@pytest.fixture
def share(monkeypatch):
    """A function that gives processes which share a number of cases."""

    def give(count, processes):
        counters = [itertools.count(), itertools.count()]
        asked = itertools.count()
        monkeypatch.setattr("common.sharing.numbers", lambda: counters[next(asked) % 2])
        monkeypatch.setattr("common.sharing.processes", lambda: processes)
        return [Process(count) for _ in range(processes)]

    return give


def test_a_process_loads_one_case_ahead_and_no_more(share):
    first, second = share(8, 2)
    assert next(first.seen) == 0 and first.has_loaded(0, 1)
    assert next(second.seen) == 2 and second.has_loaded(2, 3)
    assert next(first.seen) == 1 and first.has_loaded(0, 1, 4)
    # a large case in the first process: the second does all that the first has not taken
    assert list(second.seen) == [3, 5, 6, 7]
    assert list(first.seen) == [4]
    for process in (first, second):
        process.cases.finish()


@pytest.mark.parametrize(("count", "processes"), [(2, 2), (4, 4), (3, 4), (1, 2)])
def test_where_there_is_one_case_for_each_process_none_takes_two(share, count, processes):
    group = share(count, processes)
    for number, process in enumerate(group[:count]):
        assert next(process.seen) == number and process.has_loaded(number)
    assert [list(process.seen) for process in group] == [[]] * processes


def test_the_last_cases_wait_for_a_process_that_is_free(share):
    first, second = share(4, 2)
    assert next(first.seen) == 0 and first.has_loaded(0, 1)
    assert list(second.seen) == [2, 3] and list(first.seen) == [1]


def test_a_process_that_stops_early_waits_for_no_case(share):
    first, _ = share(2, 2)
    assert next(first.seen) == 0  # its thread now waits until this case is done
    stop = threading.Thread(target=first.seen.close, daemon=True)
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
    monkeypatch.setattr("common.sharing.processes", lambda: processes)
    assert batch_share(batch) == share
    printed = capsys.readouterr().out
    assert printed.startswith(line) and printed.count("\n") == bool(line)


def test_batches_of_one_size_are_told_of_once(monkeypatch, capsys):
    monkeypatch.setattr("common.sharing.processes", lambda: 3)
    assert batch_shares([20, *[8] * 20]) == [6, *[2] * 20]
    assert capsys.readouterr().out.count("\n") == 2


def test_a_batch_smaller_than_the_processes_is_refused(monkeypatch):
    monkeypatch.setattr("common.sharing.processes", lambda: 8)
    with pytest.raises(InputError, match="8 processes cannot share a batch of 4; start at most 4"):
        batch_shares([16, 4])


def loader():
    load = LoadImage(image_only=True, ensure_channel_first=True)
    return lambda item: {**item, "image": load(item["image"])}


def test_failures_end_with_status_1(scans, caplog):
    cases = SharedCases([{"image": path} for path in [*scans, "missing.nii"]], loader(), [("bad.nii", "no")])
    list(CaseLoader(cases))
    with pytest.raises(SystemExit):
        cases.finish()
    assert "3 of 5 cases done, 2 failed:" in caplog.text
