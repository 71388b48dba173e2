# SPDX-License-Identifier: Apache-2.0
"""Caffe weights, from files that the test writes field by field."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from mri_sr3d_lib.networks import ReCNN
from tools import convert_caffe

TOOL = convert_caffe


def varint(number):
    out = b""
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def message(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array, packed=True, double=False):
    """A BlobProto: shape (7) with its dims (1), and data (5) or double data (8)."""
    dims = b"".join(map(varint, array.shape))
    if packed:
        shape = message(1, dims)
        data = message(8, array.astype("<f8").tobytes()) if double else message(5, array.astype("<f4").tobytes())
    else:
        shape = b"".join(varint(1 << 3) + varint(n) for n in array.shape)
        data = b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in array.flatten())
    return message(7, shape) + data


def caffemodel(filters, **form):
    """A NetParameter: its name (1), an input layer, convolutions with a ReLU after each, and a solver's leftovers."""
    layers = [message(1, b"data") + message(2, b"Input")]
    for number, (weight, bias) in enumerate(filters, 1):
        own = message(1, f"conv{number}".encode()) + message(2, b"Convolution")
        own += varint(10 << 3) + varint(1)  # a whole number to pass over
        layers.append(own + message(7, blob(weight, **form)) + message(7, blob(bias, **form)))
        layers.append(message(1, f"relu{number}".encode()) + message(2, b"ReLU"))
    return message(1, b"net") + b"".join(message(100, layer) for layer in layers)


@pytest.fixture
def filters():
    random = np.random.default_rng(0)
    sizes = [(5, 1), (5, 5), (1, 5)]
    return [(random.normal(size=(*n, 3, 3, 3)), random.normal(size=n[0])) for n in sizes]


@pytest.mark.parametrize("form", [{}, {"double": True}, {"packed": False}])
def test_the_network_computes_what_caffe_did(command, tmp_path, filters, capsys, form):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(filters, **form))
    command(tmp_path / "net.caffemodel", "--out", tmp_path / "model.pt")
    assert "3 layers of 5 filters of 3x3x3" in capsys.readouterr().out
    network = ReCNN(3, 5).double()
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    # Caffe's cross-correlation of voxels (x, y, z), by hand: one asymmetric tap at a time
    image = torch.zeros(1, 1, 7, 8, 9, dtype=torch.double)
    image[0, 0, 3, 4, 5] = 1
    first = network.layers[0](image)[0, :, 3, 4, 6]  # the source lies one voxel before, along z
    weight, bias = (torch.as_tensor(x.astype(np.float32)) for x in filters[0])
    torch.testing.assert_close(first, (weight[:, 0, 1, 1, 0] + bias).double())
    state = network.state_dict()
    for number, (weight, bias) in enumerate(filters):
        np.testing.assert_allclose(state[f"layers.{2 * number}.weight"], weight, rtol=1e-6)
        np.testing.assert_allclose(state[f"layers.{2 * number}.bias"], bias, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data[:-9], "not a Caffe model"),
        (lambda data: b"\x07" + data, "not a Caffe model"),
        (lambda data: data.replace(b"conv2", b"conv7"), "layers conv1, conv2, ... are needed"),
        (lambda data: b"", "there are none"),
    ],
)
def test_other_files_are_told_in_one_line(command, tmp_path, filters, change, told):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(change(caffemodel(filters)))
    with pytest.raises(SystemExit) as caught:
        command(path, "--out", tmp_path / "model.pt")
    assert str(caught.value).startswith(f"error: {path}: ") and told in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "model.pt").exists()


def test_filters_of_another_dimension_are_refused(command, tmp_path):
    path = tmp_path / "flat.caffemodel"
    path.write_bytes(caffemodel([(np.ones((1, 1, 3, 3)), np.ones(1))]))
    with pytest.raises(SystemExit, match="3D filters and their biases are needed"):
        command(path)
