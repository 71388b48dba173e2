# SPDX-License-Identifier: Apache-2.0
"""One hash tells whether a case's files are the same, wherever they lie."""

import hashlib
import os

from common.io.hashes import BLOCK, INPUT, SUFFIX, file_hash, files_of, fingerprint, mark


def sha(data):
    return hashlib.sha256(data).hexdigest()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def test_one_file_has_its_own_hash_whatever_its_size(tmp_path):
    for data in (b"", b"voxels", bytes(range(256)) * (BLOCK // 256) + b"more"):
        path = write(tmp_path / "a.nii", data)
        assert fingerprint([path]) == file_hash(path) == sha(data)


def test_several_files_count_by_content_and_order_not_by_place(tmp_path):
    here = [write(tmp_path / "here" / name, name.encode()) for name in "ab"]
    there = [write(tmp_path / "there" / "x" / name, name.encode()) for name in "ab"]
    assert fingerprint(here) == fingerprint(there) == sha((sha(b"a") + sha(b"b")).encode())
    assert len({fingerprint(here), fingerprint(here[::-1]), fingerprint(here[:1])}) == 3


def test_a_folder_counts_by_the_files_in_it_without_results_and_hidden_ones(tmp_path):
    series = [tmp_path / name for name in ("one", "two")]
    for folder in series:
        write(folder / "1.dcm", b"first")
        write(folder / "2.dcm", b"second")
    same = fingerprint([series[0]])
    assert same == fingerprint([series[1]])
    for name in (".hidden", "sr.nii", "sr.nii" + SUFFIX):
        write(series[0] / name, b"other")
    (series[0] / "sub").mkdir()
    assert fingerprint([series[0]]) == same
    write(series[0] / "2.dcm", b"2econd")
    assert fingerprint([series[0]]) != same


def test_nothing_to_read_has_none(tmp_path):
    assert fingerprint([]) is None
    assert fingerprint([tmp_path]) is None  # an empty folder
    assert fingerprint([write(tmp_path / "a", b"a"), tmp_path / "gone"]) is None
    (tmp_path / "empty").mkdir()
    assert fingerprint([tmp_path / "a", tmp_path / "empty"]) is None


def test_a_case_consists_of_its_image_and_what_helps_to_restore_it(tmp_path):
    assert files_of({"image": "a.nii"}) == ["a.nii"]
    assert files_of({"image": tmp_path / "a.nii", "guide": ["b.nii", "c.nii"], "label": "d.nii"}) == [
        *(str(tmp_path / "a.nii"), "b.nii", "c.nii")
    ]
    assert files_of({"image": "a.nii", "guide": "b.nii"}) == ["a.nii", "b.nii"]
    case = {"files": {"t1n": "a.nii", "t2w": "b.nii"}, "target": "t1c", "name": "case"}
    assert files_of({"image": case, "case": "case"}) == ["a.nii", "b.nii"]
    assert files_of({"name": "no image"}) == []


def test_a_case_is_marked_where_its_files_can_be_read(tmp_path):
    entry = {"image": write(tmp_path / "a.nii", b"voxels")}
    assert mark(entry) == {**entry, INPUT: sha(b"voxels")}
    for other in ({"image": str(tmp_path / "gone")}, {"name": "a"}):
        assert mark(other) == other


def test_what_would_never_end_has_no_fingerprint(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    assert fingerprint([tmp_path / "pipe"]) is None
    assert fingerprint([tmp_path / "zeros"]) is None
