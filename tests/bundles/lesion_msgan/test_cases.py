# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder become cases."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from lesion_msgan_lib.cases import inference_cases


def picture(path):
    Image.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20)).save(path)


def scan(path):
    nib.save(nib.Nifti1Image(np.arange(240, dtype=np.float32).reshape(6, 8, 5), np.eye(4)), path)


@pytest.mark.parametrize("name", ["A.PNG", "a.png", "B.JPEG", "B.JPG", "c.BMP"])
def test_a_folder_of_one_picture_in_any_spelling(tmp_path, name):
    picture(tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        cases = inference_cases(source, None, None, None)
        assert cases == {"entries": [{"image": str(tmp_path / name), "guide": []}], "failures": []}


def test_pictures_and_scans_with_their_masks_in_capitals(tmp_path):
    picture(tmp_path / "b.png")
    for name in ("A-T1C.NII.GZ", "A-seg.NII.GZ"):
        scan(tmp_path / name)
    cases = inference_cases(tmp_path, None, "t1c", "seg")
    assert [Path(entry["image"]).name for entry in cases["entries"]] == ["A-T1C.NII.GZ"]
    assert [Path(path).name for entry in cases["entries"] for path in entry["guide"]] == ["A-seg.NII.GZ"]
    assert [Path(entry["image"]).name for entry in inference_cases(tmp_path, "*.PNG", None, None)["entries"]] == [
        "b.png"
    ]


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"no file matches .* under .*PNG or JPEG"):
        inference_cases(tmp_path, None, None, None)


def test_cases_come_in_natural_order_and_links_once(tmp_path):
    for name in ("case10.png", "case2.png"):
        picture(tmp_path / name)
    (tmp_path / "case1.png").symlink_to(tmp_path / "case2.png")
    (tmp_path / "case3.png").symlink_to(tmp_path / "gone.png")
    cases = inference_cases(tmp_path, None, None, None)
    assert [Path(entry["image"]).name for entry in cases["entries"]] == ["case2.png", "case10.png"]
    assert cases["failures"] == [(str(tmp_path / "case3.png"), "a link to a file that is not there")]


def test_a_mask_that_is_not_there_is_told_as_it_was_given(tmp_path):
    picture(tmp_path / "a.png")
    ((_, reason),) = inference_cases(tmp_path, None, None, "m.nii.gz")["failures"]
    assert reason == "mask 'm.nii.gz' not found: no such file"
