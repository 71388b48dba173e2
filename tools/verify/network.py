# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's network and weights, in the bundle's folder as the working directory."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, verify_net_in_out
from monai.networks import convert_to_onnx, convert_to_torchscript
from monai.utils import optional_import
from torch import nn

__all__ = ["check_export", "check_onnx", "check_shapes", "check_torchscript", "check_weights", "quiet"]

onnxruntime, has_onnxruntime = optional_import("onnxruntime")

EDGES = (16, 20, 24)  # of the sample that is traced, times the network's least step
OTHER = (20, 16, 28)  # of the sample that is compared, so that no size is a constant of the trace
TOLERANCE = 1e-4


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, exporters and MONAI's checks tell nothing but their errors."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _parser() -> ConfigParser:
    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    parser["bundle_root"], parser["device"] = ".", "cpu"
    return parser


def _load(network: nn.Module, path: str | Path) -> nn.Module:
    load_into = importlib.import_module("common.io.weights").load_into  # only now: a zip brings its own
    return load_into(network, path)


def _network() -> nn.Module:
    return _load(_parser().get_parsed_content("network_def"), "models/model.pt").eval()


def _formats() -> tuple[dict[str, Any], dict[str, Any]]:
    metadata = json.loads(Path("configs/metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    return metadata["inputs"]["image"], metadata["outputs"]["pred"]


def _sample(network: nn.Module, edges: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    """A random image as the metadata describes it; fixed sizes are kept, "16*n" gives a multiple of 16.

    Larger than the strides of the network in all, since exporters take an axis of one element for a constant.
    """
    image, _ = _formats()
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and max(m.stride) > 1]
    shrunk = math.prod(max(m.stride) for m in strided)
    sizes = []
    for entry, edge in zip(image["spatial_shape"], edges, strict=False):
        step = int(entry.split("*")[0]) if isinstance(entry, str) and entry.split("*")[0].isdigit() else 1
        edge += shrunk if strided else 0
        sizes.append(entry if isinstance(entry, int) else -(-edge // step) * step)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, image["num_channels"], *sizes, generator=generator)


def _dynamic_axes(image: torch.Tensor) -> dict[int, str]:
    fixed = [axis + 2 for axis, entry in enumerate(_formats()[0]["spatial_shape"]) if isinstance(entry, int)]
    return {axis: f"axis{axis}" for axis in (0, *range(2, image.ndim)) if axis not in fixed}


def _compare(made: torch.Tensor, expected: torch.Tensor, what: str) -> list[str]:
    if made.shape != expected.shape:
        return [f"{what} gives {tuple(made.shape)} instead of {tuple(expected.shape)}"]
    difference = float((made - expected).abs().max())
    return [] if difference <= TOLERANCE else [f"{what} differs by {difference:.2g}"]


def check_weights(name: str) -> list[str]:
    """All weights are flat, made of tensors alone, load on a CPU, and fit their network; what inference names is there.

    A file that inference names by a key such as ``detector_weights`` belongs to ``detector_network``, all others to
    ``network_def``.
    """
    importlib.import_module("common")  # whole: its submodules outlive a failed import of it
    parser, inputs = _parser(), importlib.import_module("common.io.inputs")
    keys = [key for key, value in parser.get().items() if isinstance(value, str) and value.startswith("$@ckpt_dir +")]
    named = {Path(parser.get_parsed_content(key)): key for key in keys}
    training = json.loads(Path("configs/train.json").read_text(encoding="utf-8"))
    beside = [Path("models") / file for file in training.get("session", {}).get("beside", [])]
    wanted = dict.fromkeys([Path("models/model.pt"), *named, *beside])
    wrong = [f"{path} is missing" for path in wanted if not path.is_file()]
    for path in sorted(Path("models").rglob("[!.]*.pt")):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            wrong.append(f"{path} is not flat")
            continue
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            wrong.append(f"{path} holds values that are not finite")
        key = named.get(path, "weights")
        if key == "weights" and key in parser.get():
            parser[key] = str(path)  # each file tells its own network
        try:
            network = "network_def" if key == "weights" else key.removesuffix("weights") + "network"
            _load(parser.get_parsed_content(network), path)
        except Exception as error:
            cause = inputs.root_cause(error)
            if not isinstance(cause, inputs.InputError):
                raise
            wrong.append(str(cause))
    return wrong


def check_shapes(name: str) -> list[str]:
    """The network takes and gives what the metadata says: channels, type, and the spatial size or its multiple."""
    with quiet():
        verify_net_in_out("network_def", "configs/metadata.json", "configs/inference.json", p=4, n=1, any=16)
    image, network = _formats()[0], _network()
    sample = _sample(network, OTHER)
    with torch.inference_mode():
        made = network(sample)
    factor = int(_formats()[1].get("scale_factor", 1))
    wanted = (2, _formats()[1]["num_channels"], *(factor * edge for edge in sample.shape[2:]))
    wrong = [] if tuple(made.shape) == wanted else [f"gives {tuple(made.shape)} where {wanted} is told"]
    if len(image["spatial_shape"]) != made.ndim - 2:
        wrong.append(f"spatial_shape has {len(image['spatial_shape'])} axes")
    return wrong


def check_torchscript(name: str) -> list[str]:
    """TorchScript of the network computes the same."""
    network = _network()
    sample = _sample(network, OTHER)
    with quiet(), torch.inference_mode():
        return _compare(convert_to_torchscript(network)(sample), network(sample), "TorchScript")


def check_export(name: str) -> list[str]:
    """``torch.export`` with free batch and image sizes computes the same at other sizes."""
    network = _network()
    traced, other = _sample(network, EDGES), _sample(network, OTHER, batch=3)
    shapes = {axis: torch.export.Dim.DYNAMIC for axis in _dynamic_axes(traced)}
    with quiet(), torch.no_grad():
        program = torch.export.export(network, (traced,), dynamic_shapes=(shapes,))
        return _compare(program.module()(other), network(other), "torch.export")


def check_onnx(name: str) -> list[str]:
    """ONNX with free batch and image sizes computes the same in onnxruntime at other sizes.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
    """
    if not has_onnxruntime:
        raise ModuleNotFoundError("onnxruntime")
    network = _network()
    traced, other = _sample(network, EDGES), _sample(network, OTHER, batch=3)
    axes = {"image": _dynamic_axes(traced)}
    with quiet(), torch.no_grad():
        model = convert_to_onnx(network, [traced], input_names=["image"], output_names=["pred"], dynamic_axes=axes)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        made = session.run(None, {"image": other.numpy()})[0]
        return _compare(torch.from_numpy(made), network(other), "ONNX")
