# SPDX-License-Identifier: Apache-2.0
"""Weights are plain tensors, written whole or not at all, and loaded only where they fit."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.io.hashes import file_hash
from common.io.weights import bare, build, fits, load_checkpoint, load_flat, load_into, save_atomically


def network(width=4):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


def refused(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_saved_weights_load_as_tensors_only(tmp_path):
    path = tmp_path / "new" / "model.pt"
    save_atomically(network().state_dict(), path)
    assert set(torch.load(path, weights_only=True)) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert load_into(other, path) is other
    assert torch.equal(other[0].weight, network()[0].weight)


def test_nothing_is_left_beside_the_file(tmp_path):
    save_atomically({"a": torch.ones(1)}, tmp_path / "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_save_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    save_atomically({"a": torch.ones(1)}, path)

    def half(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"a": torch.zeros(1)}, path)
    assert load_checkpoint(path)["a"] == 1
    assert not [p for p in tmp_path.glob("*.pt") if p != path]  # nothing else that looks like weights


@pytest.mark.parametrize("key", ["network", "model"])
def test_the_network_is_found_in_a_larger_checkpoint(tmp_path, key):
    save_atomically({key: network().state_dict(), "epoch": 3}, tmp_path / "last.pt")
    assert fits(load_flat(tmp_path / "last.pt"), network())


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"a": Path}, protocol=2))
    assert refused(load_checkpoint, path).startswith(f"{path}: not a weights file (")
    torch.save(network(), path)
    assert "not a weights file" in refused(load_flat, path)


def test_missing_damaged_and_other_files_are_named(tmp_path):
    path = tmp_path / "model.pt"
    assert refused(load_flat, path) == f"{path}: no such weights file"
    save_atomically(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:100])
    assert "not a weights file" in refused(load_flat, path)
    for content in ([1, 2], {"epoch": 3}, torch.ones(2)):
        save_atomically(content, path)
        assert refused(load_flat, path) == f"{path}: holds no network's weights"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    state = network().state_dict()
    state["1.bias"][1] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w.pt: 1.bias holds NaN or infinite numbers"):
        load_into(network(), tmp_path / "w.pt")


def test_weights_of_another_shape_are_refused_and_change_nothing(tmp_path):
    path = tmp_path / "model.pt"
    other = network()
    before = other[0].weight.clone()
    for state in (network(5).state_dict(), {"0.weight": torch.ones(4, 3)}, {}):
        save_atomically(state, path)
        assert refused(load_into, other, path) == f"{path}: these weights belong to another network shape"
    assert torch.equal(other[0].weight, before)


def test_wrappers_are_looked_through(tmp_path):
    inner = network()
    wrapped = nn.DataParallel(torch.compile(inner, backend="eager"))  # nothing is compiled before the first call
    assert bare(inner) is inner and bare(wrapped) is inner and bare(torch.compile(inner, backend="eager")) is inner
    save_atomically(network(4).state_dict(), tmp_path / "model.pt")
    load_into(wrapped, tmp_path / "model.pt")
    assert fits(bare(wrapped).state_dict(), wrapped)


def test_the_hash_is_sha_256(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()


# networks that their weights tell


class Chain(nn.Sequential):
    def __init__(self, width=4, bias=True, slope=0.0):
        super().__init__(nn.Linear(3, width, bias=bias), nn.Linear(width, 2))
        self.slope = slope

    @classmethod
    def form_of(cls, state):
        if "1.weight" not in state:
            raise ValueError("there is no second layer")
        return {"width": state["0.weight"].shape[0], "bias": "0.bias" in state}


@pytest.fixture
def chain_file(tmp_path):
    path = tmp_path / "model.pt"
    save_atomically(Chain(6, bias=False).state_dict(), path)
    return path


def test_a_network_is_built_as_its_weights_tell(chain_file):
    network = build(Chain, chain_file, {"width": 9})
    assert network[0].out_features == 6 and network[0].bias is None
    load_into(network, chain_file)


def test_random_weights_have_the_budgets_form_and_the_users_keys(chain_file, tmp_path):
    network = build(Chain, chain_file, {"width": 9, "bias": False}, from_scratch="true", bias=True, slope=None)
    assert network[0].out_features == 9 and network[0].bias is not None and network.slope == 0.0
    assert build(Chain, tmp_path / "missing.pt", {"width": 5}, from_scratch=True)[0].out_features == 5


def test_what_shapes_cannot_tell_is_taken_from_the_keys(chain_file):
    assert build(Chain, chain_file, {}, slope="0.5").slope == 0.5


def test_a_key_that_contradicts_the_weights_is_refused(chain_file):
    assert build(Chain, chain_file, {}, width=6)[0].out_features == 6
    told = refused(lambda: build(Chain, chain_file, {}, width=7))
    assert told.startswith(f"{chain_file}: holds a network with width 6, not 7") and "--from_scratch true" in told


def test_files_of_another_kind_and_missing_ones_are_named(tmp_path):
    path = tmp_path / "other.pt"
    save_atomically({"0.weight": torch.ones(2, 2)}, path)
    assert refused(lambda: build(Chain, path, {})) == f"{path}: holds no weights of a Chain (there is no second layer)"
    assert "no such weights file" in refused(lambda: build(Chain, tmp_path / "missing.pt", {}))


def test_weights_in_half_precision_are_loaded_in_single(tmp_path):
    path = tmp_path / "half.pt"
    save_atomically({name: tensor.half() for name, tensor in Chain().state_dict().items()}, path)
    assert load_into(Chain(), path)[0].weight.dtype == torch.float32
