# SPDX-License-Identifier: Apache-2.0
"""Run under torchrun: workflows one after the other, so that the processes start only once.

Its argument is a JSON file ``[{"files": [...], "kind": "train", "keys": {...}, "trains": [...], "shares": [...]}]``;
"trains" names networks that must end equal in all processes, "shares" holds their shares of the training's batches.
"""

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow
from torch import nn

from common.utils.distributed import from_all


def digest(network: nn.Module) -> str:
    """Hash of a network's parameters."""
    values = torch.cat([p.detach().flatten() for p in network.parameters()])
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    jobs = Path(sys.argv[1])
    (jobs.parent / f"rank{os.environ['RANK']}.pid").write_text(str(os.getpid()), encoding="utf-8")
    for job in json.loads(jobs.read_text(encoding="utf-8")):
        workflow = ConfigWorkflow(job["files"], workflow_type=job["kind"], logging_file=False, **job["keys"])
        workflow.initialize()
        workflow.run()
        if job.get("trains"):
            digests = from_all([digest(workflow.parser.get_parsed_content(name)) for name in job["trains"]])
            assert all(of_one == digests[0] for of_one in digests), "the processes differ"
        if job.get("shares"):
            loader = workflow.parser.get_parsed_content("train::dataloader")
            shares = getattr(loader.batch_sampler, "sizes", [loader.batch_size])
            assert shares == job["shares"], f"batches of {shares}"
        workflow.finalize()


if __name__ == "__main__":
    main()
