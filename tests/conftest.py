# SPDX-License-Identifier: Apache-2.0
"""What several test modules need."""

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
