# SPDX-License-Identifier: Apache-2.0
"""The authors' Caffe weights of mri_sr3d as a weights file: ``python -m tools.convert_caffe FILE --out model.pt``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common.io.weights import save_atomically
from tools.command import run_command

__all__ = ["convert_caffe", "fields", "layers_of", "main"]

LAYER, NAME, BLOBS = 100, 1, 7  # field numbers of caffe.proto: NetParameter, LayerParameter
SHAPE, DIM, FLOATS, DOUBLES = 7, 1, 5, 8  # BlobProto, BlobShape
VARINT, FIXED64, TEXT, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the last one below 128, and the position behind it."""
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return number, at


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Fields of a protocol-buffer message as (number, value): whole numbers, or bytes for all else.

    Raises:
        ValueError: this is no such message.
    """
    at = 0
    try:
        while at < len(data):
            tag, at = varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == VARINT:
                value, at = varint(data, at)
                yield number, value
                continue
            if kind == TEXT:
                size, at = varint(data, at)
            elif kind in (FIXED32, FIXED64):
                size = 4 if kind == FIXED32 else 8
            else:
                raise ValueError("an unknown wire type")
            if at + size > len(data):
                raise ValueError("it ends too soon")
            yield number, data[at : at + size]
            at += size
    except IndexError as error:
        raise ValueError("it ends too soon") from error


def _part(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a part is due")
    return value


def _blob(data: memoryview) -> np.ndarray:
    """An array; its values are packed, or one field each."""
    shape: list[int] = []
    values: list[np.ndarray] = []
    for number, value in fields(data):
        if number == SHAPE:
            for inner, dims in fields(_part(value)):
                if inner == DIM and isinstance(dims, int):
                    shape.append(dims)
                elif inner == DIM:
                    at, dims = 0, _part(dims)
                    while at < len(dims):
                        size, at = varint(dims, at)
                        shape.append(size)
        elif number in (FLOATS, DOUBLES):
            values.append(np.frombuffer(_part(value), "<f4" if number == FLOATS else "<f8"))
    return np.concatenate(values or [np.empty(0)]).astype(np.float32).reshape(shape)


def layers_of(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Arrays of each layer of a ``.caffemodel`` that has some, by the layer's name.

    Raises:
        ValueError: not such a file.
    """
    layers: dict[str, list[np.ndarray]] = {}
    try:
        for number, layer in fields(memoryview(Path(path).read_bytes())):
            if number == LAYER:
                inner = list(fields(_part(layer)))
                name = next((bytes(_part(value)).decode() for field, value in inner if field == NAME), "")
                layers[name] = [_blob(_part(value)) for field, value in inner if field == BLOBS]
    except ValueError as error:
        raise ValueError(f"{path}: not a Caffe model ({error})") from error
    return {name: blobs for name, blobs in layers.items() if blobs}


def convert_caffe(file: str, out: str = "model.pt") -> None:
    """Convert the authors' Caffe weights (10 or 20 layers, conv1, conv2, ...) to a weights file of mri_sr3d.

    Their code hands Caffe the voxels in the order of ITK's indices (x, y, z), which is that of a NIfTI file's axes, and
    neither Caffe nor torch turns filters around: the arrays are taken as they are. They were trained on images blurred
    with a standard deviation of one voxel: evaluate with --sigma 1, and --weights OUT. Their licence is CeCILL-B.

    Args:
        file: such as SRReCNN3D_10Layers_IsoScalex2.caffemodel, from the authors' repository (rousseau/deepBrain)
        out: file to write
    """
    layers = layers_of(file)
    numbered = {int(match[1]): blobs for name, blobs in layers.items() if (match := re.fullmatch(r"conv(\d+)", name))}
    if not numbered or sorted(numbered) != list(range(1, len(numbered) + 1)):
        raise ValueError(f"{file}: layers conv1, conv2, ... are needed, there are {', '.join(layers) or 'none'}")
    state = {}
    for number, blobs in sorted(numbered.items()):
        if len(blobs) != 2 or blobs[0].ndim != 5 or blobs[1].size != len(blobs[0]):
            shapes = " and ".join(str(blob.shape) for blob in blobs)
            raise ValueError(f"{file}: conv{number} has arrays of {shapes}; 3D filters and their biases are needed")
        place = f"layers.{2 * (number - 1)}"  # a ReLU lies between
        state[f"{place}.weight"] = torch.from_numpy(blobs[0])
        state[f"{place}.bias"] = torch.from_numpy(blobs[1].reshape(-1))
    save_atomically(state, out)
    print(f"{len(numbered)} layers of {blobs_text(state)} written to {out}; evaluate with --weights {out} --sigma 1")


def blobs_text(state: dict[str, torch.Tensor]) -> str:
    """Filters of the first layer, for the last line."""
    filters, _, *sizes = state["layers.0.weight"].shape
    return f"{filters} filters of {'x'.join(map(str, sizes))}"


def main() -> None:
    """Run the command line."""
    run_command(convert_caffe, "convert_caffe")


if __name__ == "__main__":
    main()
