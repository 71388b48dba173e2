# SPDX-License-Identifier: Apache-2.0
"""What the fault suite runs in processes that it kills, forked from one that has imported everything."""

import atexit
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow

from common.io.inputs import plain_errors


def workflow(files: list[str], kind: str, keys: dict, log: str, room: float = 0) -> None:
    """Runs configurations as the command line would, with what it prints in a file.

    Args:
        files, kind, keys: as for ``ConfigWorkflow``.
        log: file for standard output and errors.
        room: memory that may be taken besides what there is at the start, in GiB; 0 for any.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    with open(log, "w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["test"]
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s", force=True)
    if room:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + int(room * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    print(f"started {time.time()}", flush=True)
    try:
        job = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **keys)
        job.initialize()
        job.run()
        job.finalize()
    except Exception:
        plain_errors()
        sys.excepthook(*sys.exc_info())
        raise SystemExit(1) from None
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        atexit._run_exitfuncs()  # which a forked process leaves out
