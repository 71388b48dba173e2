# SPDX-License-Identifier: Apache-2.0
"""What is suggested for files and folders of every kind that the bundles read."""

from __future__ import annotations

import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from tools import bundles as listing
from tools.suggest import suggestions

TOOL = listing


def volume(path, shape=(8, 9, 10), spacing=(1, 1, 1)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), np.diag([*spacing, 1])), path)
    return path


def told(place):
    """Bundles with their jobs and further keys, from the commands."""
    found = {}
    for line in suggestions(str(place))[1:]:
        if line.startswith("    "):
            words = shlex.split(line)
            config = Path(words[words.index("--config_file") + 1])
            assert config.is_file() and words[words.index("--dataset_dir") + 1]
            found[config.parts[-3], config.stem] = line
    return found


def test_a_volume_of_thick_slices_can_get_isotropic(tmp_path, command, capsys):
    path = volume(tmp_path / "a b.nii.gz", spacing=(1, 1, 4))
    assert {bundle for bundle, _ in told(path)} == {"mri_sr3d", "rslm_denoise", "lesion_msgan"}
    assert "--scale" not in told(path)["mri_sr3d", "inference"]
    command(path)
    assert "a b.nii.gz: 8 x 9 x 10 voxels of 1 x 1 x 4 mm\n" in capsys.readouterr().out


def test_an_isotropic_volume_needs_a_scale(tmp_path):
    assert '--scale "[2,2,2]"' in told(volume(tmp_path / "a.nii.gz"))["mri_sr3d", "inference"]


def test_three_sequences_ask_for_the_fourth_and_four_can_train(tmp_path):
    for sequence in ("t1n", "t1c", "t2w"):
        volume(tmp_path / "p" / f"p-{sequence}.nii.gz")
    assert "--target t2f" in told(tmp_path)["brasyn_synthesis", "inference"]
    volume(tmp_path / "p" / "p-t2f.nii.gz")
    assert ("brasyn_synthesis", "inference") not in told(tmp_path)
    assert ("brasyn_synthesis", "train") in told(tmp_path)
    assert ("brasyn_synthesis", "inference") in told(volume(tmp_path / "four.nii.gz", (6, 6, 6, 3), (1, 1, 1)))


def test_slices_pictures_and_probes(tmp_path):
    assert set(told(volume(tmp_path / "slice.nii.gz", (8, 8, 1)))) == {("lesion_msgan", "inference")}
    for side in ("low", "high"):
        (tmp_path / "probes" / side).mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "probes" / side / "a.png")
    assert set(told(tmp_path / "probes")) == {("us_despeckle", "train")}
    assert set(told(tmp_path / "probes" / "low")) == {("us_despeckle", "inference")}
    assert ("us_despeckle", "inference") in told(tmp_path / "probes" / "low" / "a.png")


@pytest.mark.parametrize(("modality", "bundle"), [("US", "us_despeckle"), ("MR", "mri_sr3d")])
def test_dicom_is_told_by_its_modality(tmp_path, modality, bundle):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header = pydicom.Dataset()
    header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.MRImageStorage, pydicom.uid.generate_uid()
    header.file_meta, header.Modality, header.PixelSpacing, header.SliceThickness = meta, modality, [1, 1], 5
    header.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    assert (bundle, "inference") in told(tmp_path)
    assert (bundle, "inference") in told(tmp_path / "one.dcm")


def test_what_no_bundle_reads_is_one_line(tmp_path, command):
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    (tmp_path / "bad.nii").write_text("text", encoding="utf-8")
    for place in ("notes.txt", "bad.nii", "nothing"):
        with pytest.raises(SystemExit, match=r"^error: .*"):
            command(tmp_path / place)
    (tmp_path / "bad.nii").unlink()
    with pytest.raises(ValueError, match="no NIfTI, DICOM or picture file in it"):
        suggestions(str(tmp_path))


def test_of_a_bids_dataset_one_sequence_and_results_as_derivatives(tmp_path, capsys):
    for name in (
        "sub-01/anat/sub-01_T2w",
        "sub-02/anat/sub-02_T2w",
        "sub-02/anat/sub-02_FLAIR",
        "sub-02/func/sub-02_x",
    ):
        volume(tmp_path / f"{name}.nii.gz")
    (tmp_path / "dataset_description.json").write_text("{}", encoding="utf-8")
    commands = told(tmp_path)
    assert "--sequence T2w" in commands["mri_sr3d", "train"] and "--bids" not in commands["mri_sr3d", "train"]
    assert f"--sequence T2w --bids true --output_dir {tmp_path}" in commands["rslm_denoise", "inference"]
    assert "a BIDS dataset of 3 NIfTI files" in suggestions(str(tmp_path))[0]
