# SPDX-License-Identifier: Apache-2.0
"""What several test modules need."""

import shutil
import subprocess

import itk
import pytest


@pytest.fixture
def write_dicom():
    """A function that writes a series of 1 x 1.2 x 5 mm slices into a folder, from voxels ``(slice, row, column)``."""

    def write(folder, voxels):
        folder.mkdir(parents=True)
        for k, plane in enumerate(voxels):
            image = itk.image_from_array(plane[None])
            image.SetSpacing([1.0, 1.2, 5.0])
            image.SetOrigin([-9.0, 4.0, 5.0 * k])
            tags = image.GetMetaDataDictionary()
            tags["0020|000e"], tags["0008|0060"] = "1.2.826.0.1.9", "MR"
            tags["0020|0032"] = f"-9\\4\\{5 * k}"
            io = itk.GDCMImageIO.New()
            io.KeepOriginalUIDOn()
            itk.ImageFileWriter.New(image, FileName=str(folder / f"{k}.dcm"), ImageIO=io).Update()

    return write


@pytest.fixture
def remount():
    """A function that makes a mounted folder read-only ("ro") or not ("rw")."""
    return lambda folder, mode: subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB; skips where no root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed writer may still be open


def pytest_addoption(parser):
    """How often the fault suite kills."""
    parser.addoption("--kills", type=int, default=20, help="kills at random moments in tests/bundles/test_faults.py")
