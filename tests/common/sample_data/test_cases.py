# SPDX-License-Identifier: Apache-2.0
"""Files and cache of the synthetic brains: layout, repeated, killed and simultaneous runs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from common.data.sample_data import cache, cases, is_sample, make_brain_case, sample_brains, write_brain_cases
from common.data.sample_data.anatomy import load_template
from common.data.sample_data.brain import SEQUENCES

SMALL = (40, 48, 44)
TINY = (16, 18, 20)
KINDS = (*SEQUENCES, "seg")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "restoration-bundles"


def voxels(folder):
    """Read all images of a folder of cases: arrays by file name."""
    return {file.name: np.asarray(nib.load(file).dataobj) for file in sorted(folder.glob("*/*.nii.gz"))}


def test_missing_nilearn_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    load_template.cache_clear()
    with pytest.raises(ImportError, match="pip install nilearn") as caught:
        write_brain_cases(tmp_path / "out", 1, TINY)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_follow_the_brats_layout(tmp_path):
    folders = write_brain_cases(tmp_path / "a" / "b", 2, SMALL, progress=False)
    assert [folder.name for folder in folders] == ["sample-000", "sample-001"]
    for folder in folders:
        assert sorted(f.name for f in folder.iterdir()) == sorted(f"{folder.name}-{k}.nii.gz" for k in KINDS)
        for kind in KINDS:
            image = nib.load(folder / f"{folder.name}-{kind}.nii.gz")
            assert image.shape == SMALL and image.get_data_dtype() == ("u1" if kind == "seg" else "i2")
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and image.header.get_zooms() == (1, 1, 1)
            assert image.header["qform_code"] == image.header["sform_code"] == 1
            np.testing.assert_allclose(image.get_qform(), image.get_sform())
            assert image.header.get_xyzt_units()[0] == "mm"
            assert b"synthetic, not for diagnosis" in image.header["descrip"].item()


def test_files_hold_the_voxels_of_the_case(tmp_path):
    folder = write_brain_cases(tmp_path, 1, TINY)[0]
    description = nib.load(folder / "sample-000-seg.nii.gz").header["descrip"].item().decode()
    case = make_brain_case(int(description.rsplit(" ", 1)[1]), TINY)
    for kind in KINDS:
        image = nib.load(folder / f"sample-000-{kind}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), case[kind])
        np.testing.assert_allclose(image.affine, case["affine"])


def test_a_larger_set_begins_with_the_smaller_one_and_seeds_share_no_subject(tmp_path):
    for name, subjects, seed in (("small", 1, 0), ("large", 3, 0), ("other", 3, 1)):
        write_brain_cases(tmp_path / name, subjects, TINY, seed)
    small, large, other = (voxels(tmp_path / name) for name in ("small", "large", "other"))
    assert all((large[name] == array).all() for name, array in small.items())
    images = [a[f"sample-{i:03d}-t1n.nii.gz"].tobytes() for a in (large, other) for i in range(3)]
    assert len(set(images)) == 6


def test_complete_cases_are_kept_and_incomplete_ones_completed(tmp_path):
    first, second = write_brain_cases(tmp_path, 2, TINY)
    before = voxels(tmp_path)
    stamps = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    (second / "sample-001-t2w.nii.gz").unlink()
    write_brain_cases(tmp_path, 2, TINY)
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == stamps
    after = voxels(tmp_path)
    assert before.keys() == after.keys() and all((before[k] == after[k]).all() for k in before)


@pytest.mark.parametrize("settings", [{"seed": 1}, {"shape": SMALL}])
def test_cases_made_with_other_settings_are_not_touched(tmp_path, settings):
    write_brain_cases(tmp_path, 1, TINY)
    before = voxels(tmp_path)
    with pytest.raises(FileExistsError, match="other settings"):
        write_brain_cases(tmp_path, **{"subjects": 1, "shape": TINY, "seed": 0, **settings})
    assert all((array == before[name]).all() for name, array in voxels(tmp_path).items())


def test_a_damaged_file_is_named(tmp_path):
    file = write_brain_cases(tmp_path, 1, TINY)[0] / "sample-000-t1c.nii.gz"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(FileExistsError, match=r"sample-000-t1c\.nii\.gz is damaged"):
        write_brain_cases(tmp_path, 1, TINY)


@pytest.mark.parametrize("settings", [{"subjects": 0}, {"subjects": "two"}, {"seed": -1}, {"seed": 0.5}])
def test_impossible_settings_are_named(tmp_path, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be a whole number of at least"):
        write_brain_cases(tmp_path, **{"shape": TINY, **settings})


def test_progress_is_a_bar_or_a_plain_line_or_nothing(tmp_path, monkeypatch, capsys):
    write_brain_cases(tmp_path / "bar", 1, TINY)
    assert "1/1" in capsys.readouterr().err
    monkeypatch.setattr(cases, "optional_import", lambda *_, **__: (None, False))
    write_brain_cases(tmp_path / "line", 1, TINY)
    assert capsys.readouterr().out == "making 1 sample brains\n"
    write_brain_cases(tmp_path / "line", 1, TINY)
    write_brain_cases(tmp_path / "silent", 1, TINY, progress=False)
    assert capsys.readouterr() == ("", "")


# Cache


def test_sample_brains_are_made_once_in_the_cache_folder(own_cache, monkeypatch):
    folder = sample_brains(2, TINY, seed=7)
    assert folder == own_cache / "brain-v1-16x18x20-seed7-n2"
    assert len(voxels(folder)) == 10
    monkeypatch.setattr(cases, "make_brain_case", None)
    assert sample_brains(2, TINY, seed=7) == folder


def test_files_lost_from_the_cache_are_made_again():
    folder = sample_brains(1, TINY)
    before = voxels(folder)
    (folder / "sample-000" / "sample-000-seg.nii.gz").unlink()
    after = voxels(sample_brains(1, TINY))
    assert before.keys() == after.keys() and all((before[k] == after[k]).all() for k in before)


def test_only_the_present_cache_folder_counts_as_sample(tmp_path, monkeypatch):
    folder = sample_brains(1, TINY)
    assert is_sample(folder / "sample-000" / "sample-000-t1n.nii.gz") and is_sample(str(folder))
    elsewhere = sample_brains(1, TINY, cache_dir=tmp_path / "elsewhere")
    assert elsewhere.parent == tmp_path / "elsewhere" and not is_sample(elsewhere)
    assert not is_sample(tmp_path / "xdg" / "restoration-bundles-mine")
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert is_sample(link)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "moved"))
    assert not is_sample(folder)


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_without_a_usable_cache_variable_the_home_folder_is_used(tmp_path, monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "restoration-bundles"


def test_a_failed_build_leaves_nothing_behind(own_cache, monkeypatch):
    def make_and_fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cases, "make_brain_case", make_and_fail)
    with pytest.raises(KeyboardInterrupt):
        sample_brains(1, TINY)
    assert list(own_cache.iterdir()) == []


def test_what_a_killed_run_left_is_ignored_and_removed_a_day_later(own_cache):
    name = "brain-v1-16x18x20-seed0-n1"
    recent, old = own_cache / f".{name}.recent", own_cache / f".{name}.old"
    for folder in (recent, old):
        (folder / "sample-000").mkdir(parents=True)
        (folder / "sample-000" / "sample-000-t1n.nii.gz").write_bytes(b"half a file")
    long_ago = time.time() - 2 * cache.ABANDONED_AFTER
    os.utime(old, (long_ago, long_ago))
    assert len(voxels(sample_brains(1, TINY))) == 5
    assert {f.name for f in own_cache.iterdir()} == {name, recent.name}


def test_the_slower_of_two_builds_uses_the_other_ones_folder(tmp_path):
    def build(unfinished):
        (unfinished / "mine").touch()
        (tmp_path / "data").mkdir()  # the other process is done first
        (tmp_path / "data" / "theirs").touch()

    folder = cache.build_once(tmp_path / "data", build)
    assert [f.name for f in folder.iterdir()] == ["theirs"]
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []


def test_processes_that_start_together_agree_on_one_folder(own_cache):
    context = multiprocessing.get_context("fork")  # a fresh interpreter each would take longer than the work
    workers = [context.Process(target=sample_brains, args=(2, TINY)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [f.name for f in own_cache.iterdir()] == ["brain-v1-16x18x20-seed0-n2"]
    assert len(voxels(next(own_cache.iterdir()))) == 10
