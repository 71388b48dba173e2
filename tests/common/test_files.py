# SPDX-License-Identifier: Apache-2.0
"""A file is there whole or not at all, and a place that cannot be written to is told in one line."""

import errno
import os
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from common.io.files import StorageError, check_folder, remove_partials, replacing, storage_error, writing
from common.io.inputs import root_cause
from common.io.weights import save_atomically


def full(path):
    with replacing(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as partial:
        assert partial.parent == path.parent and partial.suffix == path.suffix and partial.name.startswith(".")
        partial.write_text("old", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("new", encoding="utf-8")
        raise KeyboardInterrupt
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"] and path.read_text(encoding="utf-8") == "old"


def test_two_writers_of_one_file_have_a_partial_each(tmp_path):
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("1", encoding="utf-8")
        second.write_text("2", encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    kept = [".0123abcd.b.nii.gz", ".a.nii.gz", ".settings.a.nii.gz", "a.nii.gz"]
    for name in (".0123abcd.a.nii.gz", *kept):
        (tmp_path / name).touch()
    remove_partials(tmp_path / "a.nii.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == kept
    remove_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == kept[1:]


def test_a_full_disk_is_one_line_with_path_and_free_space(tmp_path):
    with pytest.raises(StorageError) as caught:
        full(tmp_path / "a.txt")
    pattern = re.escape(f"{tmp_path}/a.txt: cannot be written: No space left on device, ") + r"\S+ \wB of \S+ \wB free"
    assert re.fullmatch(pattern, str(caught.value)) and caught.value.everywhere
    assert not list(tmp_path.iterdir())
    assert isinstance(caught.value, InputError) and root_cause(caught.value) is caught.value


def test_an_inner_files_line_is_not_told_again_by_the_outer_one(tmp_path):
    with pytest.raises(StorageError, match=r"inner\.txt: cannot be written"), writing(tmp_path / "outer"):
        full(tmp_path / "inner.txt")


def test_what_is_no_fault_of_the_place_passes_through(tmp_path):
    for error in (ValueError("no"), FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "in.nii"))):
        with pytest.raises(type(error)) as caught, replacing(tmp_path / "a"):
            raise error
        assert caught.value is error
    with pytest.raises(PermissionError), replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/in.nii")  # the input, not the result
    with pytest.raises(InputError) as caught, replacing(tmp_path / "a"):
        raise InputError("no", "in.nii")
    assert not isinstance(caught.value, StorageError)


def test_without_a_path_the_error_names_it():
    inner = OSError(errno.ENOSPC, "No space left on device", "/somewhere/events.out")
    try:
        raise RuntimeError("Failed to evaluate") from inner
    except RuntimeError as error:
        assert str(storage_error(error)).startswith("/somewhere/events.out: cannot be written: No space left")
    assert storage_error(RuntimeError("other")) is None


def test_a_place_for_results_is_tried(tmp_path):
    assert check_folder(tmp_path / "new" / "out") == tmp_path / "new" / "out"
    assert not list((tmp_path / "new" / "out").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/\.?.*: cannot be written: "):
        check_folder(tmp_path / "file")


def _nifti(path):
    with replacing(path.with_suffix(".nii.gz")) as partial:
        nib.save(nib.Nifti1Image(np.random.default_rng(0).random((40, 40, 40)), np.eye(4)), partial)


def _picture(path):
    with replacing(path.with_suffix(".tif")) as partial:
        pixels = np.random.default_rng(0).integers(0, 255, (400, 400), dtype=np.uint8)
        Image.fromarray(pixels).save(partial, compression="tiff_deflate")


def _jpeg(path):
    with replacing(path.with_suffix(".jpg")) as partial:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(partial)


def _weights(path):
    save_atomically({"a": torch.rand(50_000)}, path.with_suffix(".pt"))


@pytest.mark.parametrize("write", [_nifti, _picture, _jpeg, _weights])
def test_every_writer_meets_a_full_disk_in_one_line_and_leaves_nothing(small_disk, write):
    (small_disk / "filling").write_bytes(os.urandom(40_000))
    with pytest.raises(StorageError, match="cannot be written: No space left on device") as caught:
        write(small_disk / "result")
    assert caught.value.everywhere and "\n" not in str(caught.value)
    assert [p.name for p in small_disk.iterdir()] == ["filling"]


def test_a_read_only_place_is_one_line(small_disk, remount):
    (small_disk / "old").touch()
    remount(small_disk, "ro")
    for call in (full, check_folder, _weights, _nifti):
        with pytest.raises(StorageError, match="cannot be written: Read-only file system, ") as caught:
            call(small_disk / "result")
        assert caught.value.everywhere
