# SPDX-License-Identifier: Apache-2.0
"""A tool's command line tells in one line what the user can put right, and nothing else."""

from __future__ import annotations

import pytest

from tools.command import run_command


def job(kind):
    if kind == "none":
        return "done"
    raise {"value": ValueError, "file": FileNotFoundError, "key": KeyError, "import": ImportError}[kind](f"no {kind}")


@pytest.fixture
def call(monkeypatch):
    def run(word, *rest, **options):
        monkeypatch.setattr("sys.argv", ["job", word])
        return run_command(job, "job", *rest, **options)

    return run


def test_the_function_s_result_comes_back(call, capsys):
    assert call("none", serialize=lambda result: None) == "done"
    assert capsys.readouterr().out == ""


def test_an_unknown_option_is_told_before_any_work(call, capsys, monkeypatch):
    done = []
    for program, words in (
        (lambda kind: done.append(kind), ["none", "--nosuch=1"]),
        ({"a": done.append}, ["a", "--b"]),
    ):
        monkeypatch.setattr("sys.argv", ["job", *words])
        with pytest.raises(SystemExit, match="error: no option --"):
            run_command(program, "job")
    assert not done
    monkeypatch.setattr("sys.argv", ["job", "--some-thing", "1"])
    run_command(lambda some_thing, **_: done.append(some_thing), "job")
    assert done == [1]


@pytest.mark.parametrize("kind", ["value", "file"])
def test_an_error_of_the_user_s_is_one_line(call, kind):
    with pytest.raises(SystemExit) as caught:
        call(kind)
    assert caught.value.code == f"error: no {kind}"  # a text is printed, with exit status 1


def test_other_errors_show_where_they_come_from(call):
    with pytest.raises(KeyError):
        call("key")
    with pytest.raises(ImportError):
        call("import")


def test_a_tool_may_know_more_errors_and_words_of_its_own(call):
    with pytest.raises(SystemExit, match=r"^error: missing, no import$"):
        call("import", [ImportError], lambda error: f"missing, {error}")
