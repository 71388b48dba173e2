# SPDX-License-Identifier: Apache-2.0
"""Files are found as ``glob`` finds them, but in natural order, and through links only once."""

import glob
import os

import pytest

from common.io.find import any_case, distinct, files_matching, folders_below, natural

NAMES = [
    *("a.nii", "b.nii.gz", "c.txt", "x/a.nii", "x/y/b.NII", "x/y/z/a.nii.gz", "sub-1/anat/t1.nii", "sub-2/anat/t2.nii"),
    *(".hidden.nii", ".store/a.nii", "x/.store/b.nii", "with [brackets]/a.nii"),
]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        "**/*.nii*",
        "*.nii",
        "**/a.nii",
        "sub-*/anat/*.nii",
        "x/**/*",
        "**/anat/**/*.nii",
        "./*.nii",
        ".store/*",
        "[ab].*",
    ],
)
def test_files_are_those_of_glob(folder, pattern):
    expected = {p for p in glob.glob(pattern, root_dir=folder, recursive=True) if (folder / p).is_file()}
    assert {os.path.relpath(p, folder) for p in files_matching(folder, [pattern])} == set(
        map(os.path.normpath, expected)
    )


def test_several_patterns_and_capitals(folder):
    found = files_matching(folder, [any_case("**/*.nii"), "*.txt"])
    assert {os.path.relpath(p, folder) for p in found} >= {"a.nii", "c.txt", "x/y/b.NII"}


def test_numbers_in_names_count(tmp_path):
    for name in ("case10/a", "case2/a", "case2/b10", "case2/b9"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [os.path.relpath(p, tmp_path) for p in files_matching(tmp_path, ["**/*"])] == [
        *("case2/a", "case2/b9", "case2/b10", "case10/a")
    ]
    assert sorted(["s10", "S9", "s1"], key=natural) == ["s1", "S9", "s10"]


def test_loops_of_links_end_and_each_folder_is_seen_once(tmp_path):
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for place in ("root", "root/a", "root/a/b", "outside"):
        (tmp_path / place / "file").touch()
        (tmp_path / place / "loop").symlink_to(tmp_path / "root")
        (tmp_path / place / "out").symlink_to(tmp_path / "outside")
    seen = [os.path.realpath(folder) for folder, _ in folders_below(tmp_path / "root")]
    assert sorted(seen) == sorted(str(tmp_path / name) for name in ("root", "root/a", "root/a/b", "outside"))


def test_a_store_of_hidden_files_is_seen_through_its_links(tmp_path):
    (tmp_path / ".git" / "annex").mkdir(parents=True)
    (tmp_path / ".git" / "annex" / "key").touch()
    (tmp_path / "a.nii").symlink_to(tmp_path / ".git" / "annex" / "key")
    (tmp_path / "folder").symlink_to(tmp_path / ".git" / "annex")
    assert [os.path.relpath(p, tmp_path) for p in files_matching(tmp_path, ["**/*"])] == ["a.nii", "folder/key"]


def test_a_file_keeps_its_own_name_among_links(tmp_path):
    (tmp_path / "z.nii").touch()
    (tmp_path / "a.nii").symlink_to(tmp_path / "z.nii")
    (tmp_path / "gone.nii").symlink_to(tmp_path / "nowhere")
    paths = [str(tmp_path / name) for name in ("a.nii", "gone.nii", "z.nii")]
    assert distinct(paths) == paths[1:]
