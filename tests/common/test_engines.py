# SPDX-License-Identifier: Apache-2.0
"""Mixed precision is bfloat16 on the CPU too, where MONAI's own engines do nothing."""

import pytest
import torch
from monai.data import DataLoader
from monai.inferers import SimpleInferer
from torch import nn

from common.engine.engines import AutocastInferer, Evaluator, Trainer, half_type
from common.utils.values import amp_pays

PAIRS = [{"image": torch.rand(1, 6, 5, 4), "label": torch.rand(1, 6, 5, 4)} for _ in range(4)]


class Witness(nn.Module):
    """A convolution that remembers the type in which it computed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 1, 3, padding=1)
        self.seen = set()

    def forward(self, image):
        output = self.layer(image)
        self.seen.add(output.dtype)
        return output


def engine(kind, network, amp):
    loader = DataLoader(PAIRS, batch_size=2)
    if kind is Trainer:
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        return Trainer("cpu", 1, loader, network, optimizer, nn.MSELoss(), decollate=False, amp=amp)
    return Evaluator("cpu", loader, network, decollate=False, amp=amp)


@pytest.mark.parametrize(("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
@pytest.mark.parametrize("kind", [Trainer, Evaluator])
def test_the_forward_pass_has_the_type_that_amp_asks_for(kind, amp, dtype):
    network = Witness()
    made = engine(kind, network, amp)
    made.run()
    assert network.seen == {dtype}
    assert made.state.output["pred"].dtype == torch.float32


def test_weights_are_trained_in_float32_and_nearly_as_without():
    ends = []
    for amp in (True, False):
        torch.manual_seed(0)
        network = Witness()
        engine(Trainer, network, amp).run()
        ends.append(network.layer.weight.detach())
        assert network.layer.weight.dtype == torch.float32
    torch.testing.assert_close(*ends, atol=2e-2, rtol=0)
    assert not torch.equal(*ends)


def test_an_inferers_own_attributes_are_reached_through_autocast():
    inferer = SimpleInferer()
    inferer.factor = 4
    assert AutocastInferer(inferer, "cpu").factor == 4


def test_lists_and_dictionaries_come_back_in_float32():
    class Two(nn.Module):
        def forward(self, image):
            return {"a": [image.bfloat16(), image.bfloat16()], "n": torch.arange(3)}

    output = AutocastInferer(SimpleInferer(), "cpu")(torch.rand(1, 1, 4), Two())
    assert [x.dtype for x in output["a"]] == [torch.float32] * 2
    assert output["n"].dtype == torch.int64


def test_it_pays_where_the_processor_says_so(monkeypatch):
    for can, pays in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        assert amp_pays("cpu") is pays
    assert half_type("cpu") == torch.bfloat16
