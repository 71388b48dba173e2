# SPDX-License-Identifier: Apache-2.0
"""A table that tells which scans are of one person."""

import pytest

from common.data.datasets import entries_to_evaluate, split_entries
from common.data.subjects import by_table, read_subjects
from common.errors import InputError


def entry(path, subject="?"):
    return {"image": f"/scans/{path}", "subject": subject}


def write(tmp_path, text, name="people.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_rescans_of_a_person_stay_together(tmp_path):
    # as in Kirby 21: 42 scans of 21 people
    names = [f"KKI2009-{number:02d}-MPRAGE" for number in range(1, 43)]
    table = write(tmp_path, "scan,subject\n" + "".join(f"{name},{number % 21}\n" for number, name in enumerate(names)))
    entries = [entry(f"{name}.nii", name) for name in names]
    for seed in range(4):
        parts = split_entries(entries, 0.24, seed, subjects_table=table)
        train, validate = ({one["subject"] for one in parts[part]} for part in ("train", "validate"))
        assert train.isdisjoint(validate) and len(train) + len(validate) == 21
        assert len(parts["train"]) == 2 * len(train) and len(parts["validate"]) == 2 * len(validate)


def test_a_split_file_names_people(tmp_path):
    table = write(tmp_path, "subject\tparticipant_id\nanna\tsub-01\nanna\tsub-02\nbert\tsub-03\n", "participants.tsv")
    entries = [entry(f"{sub}/t1.nii.gz", sub) for sub in ("sub-01", "sub-02", "sub-03")]
    split = write(tmp_path, '{"train": ["bert"], "validate": [], "test": ["anna"]}', "split.json")
    found = entries_to_evaluate(entries, "/scans", 0.2, 0, split, table)["validate"]
    assert [one["image"] for one in found] == [entry(f"sub-0{n}/t1.nii.gz")["image"] for n in (1, 2)]


@pytest.mark.parametrize("name", ["a/t1.nii.gz", "t1.nii.gz", "t1", "scans/a/t1.nii.gz", "sub-a"])
def test_how_a_scan_is_named(tmp_path, name):
    table = write(tmp_path, f"\ufefffile,age,Subject\n{name},31,7\n\n")
    assert by_table([entry("a/t1.nii.gz", "sub-a")], table)[0]["subject"] == "7"


def test_without_a_table_subjects_stay(tmp_path):
    assert by_table([entry("a.nii", "a")], "null") == [entry("a.nii", "a")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,person\na,1\n", "expected a CSV or TSV file with a column of scans' names and one called subject"),
        ("", "expected a CSV or TSV file"),
        ("file,subject\na,1\na,2\n", "a has two subjects, 1 and 2"),
        ("file,subject\na,1\nb\n", "row 3 lacks a scan or a subject"),
    ],
)
def test_a_table_that_cannot_work(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=told) as caught:
        read_subjects(path)
    assert caught.value.path == path


def test_a_scan_that_the_table_does_not_name_stops_the_run(tmp_path):
    table = write(tmp_path, "file,subject\na.nii,1\n")
    with pytest.raises(InputError, match=r"/scans/b.nii: .*people.csv does not tell whose it is"):
        by_table([entry("a.nii"), entry("b.nii")], table)
    with pytest.raises(InputError, match="not a table of subjects"):
        by_table([entry("a.nii")], str(tmp_path / "gone.csv"))
