# SPDX-License-Identifier: Apache-2.0
"""Every kind of bad and odd file, beside good ones, through every bundle's inference."""

import os
from pathlib import Path

import pytest

from corpus import pictures, series, volumes  # noqa: F401 - they register their kinds
from corpus.kinds import ALL, KINDS
from corpus.table import write_table
from corpus.trial import send, verdict

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module")
def trial(tiny, run_files, tmp_path_factory):
    """A function that gives the outcomes of all kinds in a bundle, and what was wrong with the whole run."""
    known = {}

    def give(name):
        if name not in known:
            problems, outcomes = [], {}
            groups = (False, True) if name != "us_despeckle" else (None,)
            for dicom in groups:
                kinds = [kind for kind in KINDS if name in kind.bundles and dicom in (None, kind.dicom)]
                if kinds:
                    outcomes |= send(tiny(name), run_files, tmp_path_factory.mktemp(name), kinds, problems)
            known[name] = (outcomes, problems)
        return known[name]

    yield give
    if os.environ.get("CORPUS_TABLE"):
        write_table(Path(os.environ["CORPUS_TABLE"]), {name: outcomes for name, (outcomes, _) in known.items()}, KINDS)


@pytest.mark.parametrize("name", ALL)
def test_the_good_cases_are_done_and_nothing_else_is_touched(trial, name):
    assert not trial(name)[1], trial(name)[1]


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in ALL for kind in KINDS if name in kind.bundles], ids=str
)
def test_a_file_works_or_is_refused_in_one_line(trial, name, kind):
    problem = verdict(kind, trial(name)[0][kind.name])
    assert not problem, problem
