# SPDX-License-Identifier: Apache-2.0
"""DICOM without the patient: the Basic Application Level Confidentiality Profile of DICOM PS3.15, annex E."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["deidentified"]

# attributes that say how the pixels are to be read; none of them is in table E.1-1, and all that is not here goes,
# private ones, overlays and sequences included, so that an attribute which the table gets later is not kept
KEPT = (
    *("SpecificCharacterSet", "SOPClassUID", "Modality", "SeriesNumber", "InstanceNumber", "DerivationDescription"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "PixelAspectRatio", "PixelSpacing"),
    *("FrameIncrementPointer", "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate"),
    *("WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "PresentationLUTShape"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "UltrasoundColorDataPresent"),
)
EMPTY = (  # of type 2: there, without a value
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "Manufacturer"),
)
REPLACED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
NUMBERS = {"FD", "FL", "SL", "SS", "UL", "US"}  # of an ultrasound region's items
SALT = secrets.token_hex(16)  # of this process: its files of one study stay together, and nobody can hash a way back


def deidentified(dataset: Dataset) -> Dataset:
    """A copy that holds the pixels and how to read them, with new UIDs; nothing else of the source.

    What is written into the pixels is not looked at.

    Args:
        dataset: uncompressed.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import generate_uid

    new = Dataset()
    for name in KEPT:
        if name in dataset:
            new[name] = dataset[name]
    for name in EMPTY:
        setattr(new, name, None)
    for name in REPLACED:
        setattr(new, name, generate_uid(entropy_srcs=[SALT, str(dataset.get(name, ""))]))
    new.ImageType = ["DERIVED", "SECONDARY"]
    if "SequenceOfUltrasoundRegions" in dataset:
        new.SequenceOfUltrasoundRegions = [_numbers_of(item) for item in dataset.SequenceOfUltrasoundRegions]
    new.PatientIdentityRemoved = "YES"
    new.LongitudinalTemporalInformationModified = "REMOVED"
    new.DeidentificationMethod = "all but pixels, pixel format and region geometry removed"
    method = Dataset()
    method.CodeValue, method.CodingSchemeDesignator = "113100", "DCM"
    method.CodeMeaning = "Basic Application Confidentiality Profile"
    new.DeidentificationMethodCodeSequence = [method]
    new.file_meta = FileMetaDataset()  # the source's names its sender
    new.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    return new


def _numbers_of(item: Dataset) -> Dataset:
    from pydicom import Dataset

    kept = Dataset()
    for element in item:
        if element.VR in NUMBERS and not element.tag.is_private:
            kept[element.tag] = element
    return kept
