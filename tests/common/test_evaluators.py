# SPDX-License-Identifier: Apache-2.0
"""One case that fails costs a line and the exit status, not the other cases."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, MapTransform
from torch import nn

from common.engine import evaluators
from common.engine.evaluators import CaseEvaluator
from common.errors import InputError
from common.inferers import ForegroundInferer
from common.io.inputs import CaseLoader, Cases, CheckVoxelsd


class Doubling(nn.Module):
    """Doubles the image."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 1, 1, bias=False))
        nn.init.ones_(self.layers[0].weight)

    def combine(self, output, image):
        return output + image


class Keep(MapTransform):
    """Collects results; fails on the cases named."""

    def __init__(self, failing, error):
        super().__init__("pred")
        self.failing, self.error, self.kept = failing, error, {}

    def __call__(self, data):
        name = data["image"].meta["filename_or_obj"].rsplit("/", 1)[1]
        if name in self.failing:
            raise self.error
        self.kept[name] = data["pred"]
        return data


def run(folder, names, failing=(), error=None):
    paths = []
    for i, name in enumerate(names):
        data = np.zeros((6, 5, 4 + i), np.float32)
        data[1:4, 1:4, 1:3] = np.random.default_rng(i).random((3, 3, 2)) + 0.1
        if "nan" in name:
            data[2, 2, 2] = np.nan
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / name)
        paths.append({"image": str(folder / name)})
    load = Compose([LoadImaged("image", ensure_channel_first=True), CheckVoxelsd("image")])
    cases, keep = Cases(paths, load), Keep(failing, error)
    evaluator = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=CaseLoader(cases),
        network=Doubling(),
        inferer=ForegroundInferer(),
        postprocessing=keep,
    )
    evaluator.run()
    return cases, keep.kept, evaluator


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(evaluators, "convolution_rate", lambda device: 1e6)


def test_all_cases_are_done_with_a_line_before_each(tmp_path, capsys):
    cases, kept, evaluator = run(tmp_path, ["a.nii", "b.nii"])
    assert sorted(kept) == ["a.nii", "b.nii"] and cases.failures == []
    expected = 2 * nib.load(tmp_path / "b.nii").get_fdata(dtype=np.float32)
    np.testing.assert_allclose(torch.as_tensor(kept["b.nii"])[0].numpy(), expected, rtol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/a.nii: 6 x 5 x 4 voxels, about 1 s"
    assert lines[1].startswith(f"{tmp_path}/b.nii: 6 x 5 x 5 voxels")
    assert evaluator.rate != 1e6  # measured on the last case
    cases.finish()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("out of\nmemory"), "failed (out of memory)"), (InputError("too bright", "a.nii"), "too bright")],
)
def test_a_failing_case_is_skipped_and_reported(tmp_path, error, reason, caplog):
    with caplog.at_level(logging.ERROR):
        cases, kept, _ = run(tmp_path, ["a.nii", "b.nii", "c.nii"], failing=["b.nii"], error=error)
    assert sorted(kept) == ["a.nii", "c.nii"]
    assert cases.failures == [(f"{tmp_path}/b.nii", reason)]
    assert f"{tmp_path}/b.nii: {reason}" in caplog.text
    with pytest.raises(SystemExit) as status:
        cases.finish()
    assert status.value.code == 1
    assert "2 of 3 cases done, 1 failed" in caplog.text


def test_cases_that_fail_while_loading_or_in_the_network_leave_the_last_one_done(tmp_path):
    cases, kept, _ = run(tmp_path, ["nan.nii", "b.nii", "c.nii"], failing=["b.nii"], error=ValueError("no"))
    assert list(kept) == ["c.nii"]
    assert [path.rsplit("/", 1)[1] for path, _ in cases.failures] == ["nan.nii", "b.nii"]


def test_a_failing_last_case_ends_the_run_in_order(tmp_path):
    cases, kept, _ = run(tmp_path, ["a.nii", "b.nii"], failing=["b.nii"], error=ValueError("no"))
    assert list(kept) == ["a.nii"] and len(cases.failures) == 1


def test_an_inferer_may_know_its_work_better(tmp_path, capsys):
    class Knowing(ForegroundInferer):
        def work(self, inputs, network):
            assert inputs.shape[0] == 1 and isinstance(network, Doubling)
            return 7200 * 10**9

    _, _, evaluator = run(tmp_path, ["a.nii"])
    evaluator.inferer = Knowing()
    capsys.readouterr()
    evaluator.rate = 1e9
    evaluator.run()
    assert "about 2.0 h" in capsys.readouterr().out
