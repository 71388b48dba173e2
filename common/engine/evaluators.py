# SPDX-License-Identifier: Apache-2.0
"""Inference over cases, of which some may fail."""

from __future__ import annotations

import logging
import time
from typing import Any

from monai.engines import SupervisedEvaluator

from common.engine.engines import Evaluator
from common.errors import InputError, one_line
from common.inferers.work import multiplications_of
from common.io.files import StorageError
from common.io.inputs import root_cause
from common.io.prefetch import CaseLoader
from common.utils.console import convolution_rate, duration, say

__all__ = ["CaseEvaluator"]

logger = logging.getLogger(__name__)


class CaseEvaluator(Evaluator):
    """An ``Evaluator`` over ``common.io.inputs.Cases``: says how long a case will take, and survives its failure.

    A full disk ends the run.

    Args:
        args, kwargs: as for ``common.engine.engines.Evaluator``; the loader's dataset is a ``Cases`` and the inferer a
            ``ForegroundInferer``, or one with ``work(image, network)``.
    """

    data_loader: CaseLoader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rate: float | None = None  # multiplications per second, from a moment's test, then from the last case

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict:
        image = batchdata["image"]
        source = str(image.meta["filename_or_obj"][0])
        work = multiplications_of(self.inferer, image, self.network)
        self.rate = self.rate or convolution_rate(self.state.device)
        size = " x ".join(str(n) for n in image.shape[2:])
        say(f"{source}: {size} voxels, about {duration(work / self.rate)}")
        start = time.perf_counter()
        try:
            output = super()._iteration(engine, batchdata)
        except Exception as error:  # one case must not cost the others
            cause = root_cause(error)
            if isinstance(cause, StorageError) and cause.everywhere:  # later cases would be computed for nothing
                raise cause from None
            logger.debug("%s", source, exc_info=error)
            text = cause.reason if isinstance(cause, InputError) else f"failed ({one_line(cause)})"
            self.data_loader.dataset.add(source, text)
            return {}
        self.rate = max(work, 1) / (time.perf_counter() - start)
        return output
