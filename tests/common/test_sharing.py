# SPDX-License-Identifier: Apache-2.0
"""Which cases are left to do, and that each is taken once."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, LoadImage

from common.inputs import CaseLoader, InputError
from common.provenance import SUFFIX, is_finished, publish
from common.savers import SaveRestoredd
from common.sharing import SharedCases, plan

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
    assert planned(scans[:1], saver(tmp_path, overrides=other))["done"] == 1


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


def loader():
    load = LoadImage(image_only=True, ensure_channel_first=True)
    return lambda item: {"image": load(item["image"])}


def test_failures_end_with_status_1(scans, caplog):
    cases = SharedCases([{"image": path} for path in [*scans, "missing.nii"]], loader(), [("bad.nii", "no")])
    list(CaseLoader(cases))
    with pytest.raises(SystemExit):
        cases.finish()
    assert "3 of 5 cases done, 2 failed:" in caplog.text
