# SPDX-License-Identifier: Apache-2.0
"""One holder at a time, and what a dead process held is free."""

import errno
import multiprocessing
import os
import signal
import socket

import pytest

from common.io import claims
from common.io.claims import Claim, claimed_folder, release_all

fcntl = pytest.importorskip("fcntl")


def hold(path, taken, stay):
    taken.put(Claim(path).take())
    stay.wait()


@pytest.fixture
def holder(tmp_path):
    """A process that holds the claim ``tmp_path/.lock``."""
    context = multiprocessing.get_context("fork")
    taken, stay = context.Queue(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / ".lock", taken, stay), daemon=True)
    process.start()
    assert taken.get(timeout=60)
    yield process
    process.kill()
    process.join()


def test_a_claim_of_another_process_is_refused_and_says_whose_it_is(holder, tmp_path):
    claim = Claim(tmp_path / ".lock")
    assert not claim.take()
    assert claim.holder() == f"process {holder.pid} on {socket.gethostname()}"
    claim.release()  # of what it does not hold
    assert (tmp_path / ".lock").exists()


def test_a_killed_process_holds_nothing_and_what_it_left_is_cleared_up(holder, tmp_path):
    release_all()  # what runs of earlier tests, in this process, hold until its end
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    cleared = []
    claim = Claim(tmp_path / ".lock", lambda: cleared.append(True))
    assert claim.take() and claim.take() and cleared == [True]
    assert claim.holder() == "this process" and claimed_folder() == tmp_path
    release_all()
    assert not (tmp_path / ".lock").exists() and claimed_folder() is None
    assert Claim(tmp_path / ".lock", lambda: cleared.append(True)).take() and cleared == [True]  # nobody was killed
    release_all()


def test_a_forked_child_does_not_hold_its_parents_claims(tmp_path):
    claim = Claim(tmp_path / ".lock")
    assert claim.take()
    child = os.fork()
    if child == 0:
        os._exit(claimed_folder() is not None or Claim(tmp_path / ".lock").take())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert claim.take()
    claim.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_every_claim_is_granted(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(claims.fcntl, "lockf", refuse)
    cleared = []
    assert Claim(tmp_path / ".lock", lambda: cleared.append(True)).take() and not cleared
    release_all()


def test_a_holder_that_cannot_be_read_is_another_process(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\xfe")
    assert Claim(tmp_path / ".lock").holder() == "another process"
    assert Claim(tmp_path / "none").holder() == "another process"
