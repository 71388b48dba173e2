# SPDX-License-Identifier: Apache-2.0
"""MONAI's supervised engines with mixed precision on the device they run on.

MONAI 1.6.1 asks for ``torch.autocast("cuda")`` whatever the device is, so ``amp=True`` does nothing on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import Inferer, SimpleInferer
from torch import nn

__all__ = ["AutocastInferer", "Evaluator", "Trainer", "half_type"]


def half_type(device: torch.device | str) -> torch.dtype:
    """The 16-bit type of a device's mixed precision: bfloat16, or float16 on GPUs that do not have it."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


class AutocastInferer(Inferer):
    """Runs another inferer under autocast and returns float32.

    Args:
        inferer: what infers.
        device: where the network is.
        dtype: see ``half_type``.
    """

    def __init__(self, inferer: Inferer, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.inferer = inferer
        self.context: dict[str, Any] = {"device_type": torch.device(device).type, "dtype": dtype}

    def __getattr__(self, name: str) -> Any:
        if name == "inferer":  # not set yet, as while unpickling
            raise AttributeError(name)
        return getattr(self.inferer, name)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The inferer's output, every tensor of it in float32."""
        with torch.autocast(**self.context):
            return _float32(self.inferer(inputs, network, *args, **kwargs))


def _float32(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, list | tuple):
        return type(output)(_float32(item) for item in output)
    return {key: _float32(item) for key, item in output.items()} if isinstance(output, dict) else output


class Trainer(SupervisedTrainer):
    """``SupervisedTrainer`` whose ``amp`` is bfloat16 autocast of the forward pass, on CPUs too.

    The loss is computed in float32. GPUs without bfloat16 get MONAI's own float16 with loss scaling.

    Args:
        args, kwargs: as for ``SupervisedTrainer``.
        amp: mixed precision.
    """

    def __init__(self, *args: Any, amp: bool = False, **kwargs: Any) -> None:
        device = kwargs.get("device", args[0] if args else "cpu")
        scaled = amp and half_type(device) == torch.float16
        super().__init__(*args, **{**kwargs, "amp": scaled})
        if amp and not scaled:
            self.inferer = AutocastInferer(self.inferer or SimpleInferer(), device)


class Evaluator(SupervisedEvaluator):
    """``SupervisedEvaluator`` whose ``amp`` is autocast to the device's 16-bit type, on CPUs too.

    A network is taken out of ``DistributedDataParallel``, whose forward pass would wait for processes with fewer cases.

    Args:
        args, kwargs: as for ``SupervisedEvaluator``.
        amp: mixed precision.
    """

    def __init__(self, *args: Any, amp: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.network, nn.parallel.DistributedDataParallel):
            self.network = self.network.module
        if amp:
            device = self.state.device
            self.inferer = AutocastInferer(self.inferer or SimpleInferer(), device, half_type(device))
