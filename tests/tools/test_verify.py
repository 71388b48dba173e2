# SPDX-License-Identifier: Apache-2.0
"""Each check passes a sound bundle and names what is wrong with a broken one."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch

from rslm_denoise_lib.networks import Generator
from tools import package as packing
from tools import verify as verifying

SIZES = [[3, 3, 1], 3, [3, 3, 1]]
for module in ("onnxruntime", "onnxscript", "jsonschema"):
    pytest.importorskip(module)


def test_a_sound_bundle_passes(small_denoiser, verify):
    status, lines = verify("rslm_denoise")
    told = [f"{'-' if title == 'output grid' else 'ok':<5}{title}" for title in verifying.CHECKS]  # any grid is its own
    assert lines == [*told, "rslm_denoise: all checks passed"]
    assert status == 0


def _spoil_weights(folder, change):
    torch.save({"model": Generator(4, SIZES).state_dict()}, folder / "models" / "model.pt")


def _other_weights(folder, change):
    torch.save(torch.nn.Linear(2, 3).state_dict(), folder / "models" / "model.pt")


def _infinite(folder, change):
    state = Generator(4, SIZES).state_dict()
    state["layers.0.bias"][0] = float("inf")
    torch.save(state, folder / "models" / "model.pt")


def _write(name, text):
    return lambda folder, _: (folder / name).write_text(text, encoding="utf-8")


def _change(name, *keys, to):
    return lambda folder, change: change(folder / "configs" / f"{name}.json", *keys, to=to)


def _budget(folder, change):
    change(folder / "configs" / "train.json", "budgets", "paper", "forgotten", to=7)


def _without(key, *names):
    def spoil(folder, change):
        for name in names:
            change(folder / "configs" / f"{name}.json", key, to=None)

    return spoil


def _card(old, new):
    def spoil(folder, change):
        card = folder / "docs/README.md"
        text = card.read_text(encoding="utf-8")
        assert old in text
        card.write_text(text.replace(old, new), encoding="utf-8")

    return spoil


def _network(body):
    """A network that a converter sees otherwise than a caller, or cannot see through."""

    def spoil(folder, change):
        code = textwrap.indent(textwrap.dedent(body), " " * 8)
        (folder / "odd_network.py").write_text(ODD + code, encoding="utf-8")
        odd = {"_target_": "odd_network.Odd", "filters": 4, "filter_sizes": SIZES, "residual": False}
        change(folder / "configs" / "inference.json", "network_def", to=odd)

    return spoil


ODD = """import torch
from rslm_denoise_lib.networks import Generator


class Odd(Generator):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
"""

FAULTS = {
    "no card": (lambda folder, _: (folder / "docs/README.md").unlink(), "layout", "docs/README.md is missing"),
    "licence": (_write("LICENSE", "mine"), "layout", "LICENSE is not the Apache License"),
    "section": (_card("## Licence\n", "## License\n"), "layout", "the card has no section Licence"),
    "order": (
        _card("## Scores\n", "## Scores\n\n## Extra\n"),
        "layout",
        "the card's section Extra stands where Scores should",
    ),
    "no task": (_change("metadata", "task", to=None), "metadata", "'task' is a required property"),
    "version": (_change("metadata", "version", to="9.0.0"), "metadata", "changelog does not tell of version 9.0.0"),
    "name": (_change("metadata", "name", to="other"), "metadata", "name is 'other'"),
    "channels": (
        _change("metadata", "network_data_format", "inputs", "image", "channel_def", to={"first": "x"}),
        "metadata",
        "network_data_format.inputs.image.channel_def",
    ),
    "property": (
        _change("train", "train", "trainer", "postprocessing", to="@validate::postprocessing"),
        "properties",
        "train.json: train_postprocessing",
    ),
    "unused": (_change("train", "forgotten", to=1), "keys", "train.json: forgotten is not used"),
    "overlay": (_change("paper/wgan", "forgotten", to=1), "keys", "paper/wgan.json: forgotten is not used"),
    "below train": (_change("train", "train::forgotten", to=1), "keys", "train.json: train::forgotten is not used"),
    "in train": (_change("train", "train", "forgotten", to=1), "keys", "train.json: train::forgotten is not used"),
    "below validate": (
        _change("paper/wgan", "validate::nonsense", to="@nowhere"),
        "keys",
        "paper/wgan.json: validate::nonsense is not used",
    ),
    "inference": (_change("inference", "forgotten", to=1), "keys", "inference.json: forgotten is not used"),
    "part of a shared overlay": (
        _change("evaluate", "validate::dataset::forgotten", to=1),
        "keys",
        "evaluate.json: rslm_denoise_lib.data.NoisyVolumes does not take forgotten",
    ),
    "argument": (_change("train", "train::trainer::forgotten", to=1), "keys", "Trainer does not take forgotten"),
    "reference": (
        _change("paper/wgan", "adversarial_weight", to="@nowhere"),
        "keys",
        "paper/wgan.json: refers to nowhere, which is missing",
    ),
    "budget": (_budget, "keys", "train.json: budgets.paper.forgotten is not used"),
    "budget of an overlay": (
        _change("paper/wgan", "budgets::short::forgotten", to=1),
        "keys",
        "paper/wgan.json: budgets.short.forgotten is not used",
    ),
    "path": (_change("inference", "pattern", to="/home/me/x"), "paths", "inference.json: absolute path /home/me/x"),
    "any root": (
        _change("paper/wgan", "weights", to="/scratch/x.pt"),
        "paths",
        "paper/wgan.json: absolute path /scratch/x.pt",
    ),
    "drive": (_change("inference", "pattern", to="C:\\scans"), "paths", "inference.json: absolute path C:\\scans"),
    "in an expression": (
        _change("train", "weights", to="$@ckpt_dir + '/a' if @seed else '/opt/b'"),
        "paths",
        "configs/train.json: absolute path /opt/b",
    ),
    "in the metadata": (_change("metadata", "data_source", to="from /srv/data"), "paths", "absolute path /srv/data"),
    "in the card": (
        _card("## Scores\n", "## Scores\n\nRun `/opt/tool`.\n"),
        "paths",
        "README.md: absolute path /opt/t",
    ),
    "in the code": (
        _write("rslm_denoise_lib/extra.py", "PLACE = '/var/lib/x'\n"),
        "paths",
        "extra.py: absolute path /var/lib/x",
    ),
    "shared": (_change("inference", "memory_gb", to=3), "shared blocks", "memory_gb differs"),
    "shared, one": (_without("amp", "inference"), "shared blocks", "amp is missing in inference.json"),
    "shared, other": (_without("device", "train"), "shared blocks", "device is missing in train.json"),
    "shared, both": (_without("memory_gb", "train", "inference"), "shared blocks", "memory_gb is missing in train"),
    "TorchScript differs": (
        _network("return y + 1 if torch.jit.is_scripting() else y"),
        "TorchScript",
        "TorchScript differs by 1",
    ),
    "TorchScript breaks": (_network("return y + len(globals()) * 0"), "TorchScript", "globals"),
    "torch.export differs": (
        _network("return y + 1 if torch.compiler.is_exporting() else y"),
        "torch.export",
        "torch.export differs by 1",
    ),
    "torch.export breaks": (_network("return y if float(y.sum()) > 0 else -y"), "torch.export", "Could not guard"),
    "ONNX differs": (
        _network("return y + 1 if torch.onnx.is_in_onnx_export() else y"),
        "ONNX",
        "ONNX differs by 1",
    ),
    "ONNX breaks": (_network("return y if float(y.sum()) > 0 else -y"), "ONNX", "Error: "),
    "nested weights": (_spoil_weights, "weights", "model.pt is not flat"),
    "other weights": (_other_weights, "weights", "holds no weights of a Generator"),
    "infinite": (_infinite, "weights", "not finite"),
    "output": (
        _change("metadata", "network_data_format", "outputs", "pred", "scale_factor", to=4),
        "shapes",
        "gives (2, 1, 20, 16, 28) where (2, 1, 80, 64, 112) is told",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_named_in_the_line_of_its_check(small_denoiser, fault, verify, change, monkeypatch):
    spoil, title, reason = FAULTS[fault]
    monkeypatch.syspath_prepend(small_denoiser)
    monkeypatch.delitem(sys.modules, "odd_network", raising=False)
    spoil(small_denoiser, change)
    names = {title: verifying.CHECKS[title]}
    monkeypatch.setattr(verifying, "CHECKS", names)
    status, lines = verify("rslm_denoise")
    assert status == 1
    assert lines[0].startswith(f"FAIL {title}: ") and reason in lines[0]
    assert lines[1] == "rslm_denoise: not fit to be shared"


@pytest.mark.package
@pytest.mark.parametrize("name", packing.bundle_names())
def test_every_bundle_of_the_collection_passes(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["verify", name])
    verifying.main()
    assert f"{name}: all checks passed" in capsys.readouterr().out
