# SPDX-License-Identifier: Apache-2.0
"""DICOM files full of a patient's data leave nothing of it in results, sidecars, pictures and logs."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pydicom
import pytest
from PIL import Image

SECRET = "Zzyzx^Quorra"
NAMES = (
    *("PatientName", "PatientID", "PatientAddress", "OtherPatientNames", "PatientComments", "AdditionalPatientHistory"),
    *("ReferringPhysicianName", "InstitutionName", "InstitutionAddress", "StationName", "StudyDescription"),
    *("SeriesDescription", "ProtocolName", "AccessionNumber", "StudyID", "DeviceSerialNumber", "ImageComments"),
    *(
        "OperatorsName",
        "PerformingPhysicianName",
        "RequestingPhysician",
        "AcquisitionComments",
        "DerivationDescription",
    ),
)


def fill(path):
    """Puts a patient's data wherever a DICOM file takes text."""
    dataset = pydicom.dcmread(path)
    for name in NAMES:
        setattr(dataset, name, SECRET[:16])
    dataset.PatientBirthDate, dataset.StudyDate, dataset.ContentDate = "19601231", "20201231", "20201231"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.10.424242"
    request = pydicom.Dataset()
    request.RequestedProcedureDescription, request.ScheduledProcedureStepID = SECRET, SECRET[:16]
    dataset.RequestAttributesSequence = [request]
    dataset.add_new(0x00091010, "LO", SECRET)  # private
    dataset.add_new(0x60000022, "LO", SECRET)  # of an overlay
    for region in dataset.get("SequenceOfUltrasoundRegions", []):
        region.add_new(0x00091010, "LO", SECRET)
    dataset.file_meta.SourceApplicationEntityTitle = SECRET[:16]
    dataset.preamble = SECRET.encode().ljust(128, b"\0")
    dataset.save_as(path)
    return dataset


TRACES = (b"zyzx", b"uorra", b"19601231", b"20201231", b"424242")


def traces(folder):
    """Files that hold something of the patient."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            if any(trace in data + path.name.encode() for trace in TRACES):
                found.append(path.name)
    return found


CASES = {
    "mri_sr3d": {},
    "rslm_denoise": {"estimate_noise": False},
    "lesion_msgan": {"detector": "foreground"},
    "brasyn_synthesis": {"target": "t1c", "views": 1},
}


@pytest.mark.parametrize("name", CASES)
def test_a_series_leaves_nothing_of_the_patient(tiny, run_files, write_dicom, tmp_path, capfd, caplog, name):
    caplog.set_level("DEBUG")
    data = tmp_path / "data"
    rng, grid = np.random.default_rng(0), np.indices((6, 96, 96)) - np.reshape((2.5, 47.5, 47.5), (3, 1, 1, 1))
    head = np.hypot(grid[1], grid[2]) < 30
    for series in ("t1n", "t2w", "t2f") if name == "brasyn_synthesis" else ("series",):
        write_dicom(data / "case" / series, (head * rng.integers(50, 900, head.shape)).astype(np.int16))
    for path in data.rglob("*.dcm"):
        fill(path)
    bundle, out = tiny(name), tmp_path / "out"
    keys = bundle.keys("inference", out, dataset_dir=str(data), device="cpu", **CASES[name])
    run_files(bundle.files("inference"), "infer", **keys)
    assert list(out.rglob("*.nii.gz")) and traces(out) == []
    said = "".join(capfd.readouterr()) + caplog.text
    assert not any(trace.decode() in said for trace in TRACES)


def ultrasound(path, photometric):
    """A loop of two frames with a name burned in outside the region that the file tells."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.10.424242.1"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.10.424242.2"
    dataset.FrameTime, dataset.FrameIncrementPointer = 40.0, 0x00181063
    dataset.Modality = "US"
    pixels = np.random.default_rng(0).integers(20, 200, (2, 96, 96), dtype=np.uint8)
    pixels[:, :8] = 255  # the patient's name
    dataset.set_pixel_data(pixels, photometric, 8)
    region = pydicom.Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 16
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 95, 95
    region.PhysicalDeltaX = 0.01
    dataset.SequenceOfUltrasoundRegions = [region]
    path.parent.mkdir(parents=True)
    dataset.save_as(path, enforce_file_format=True)
    return fill(path)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_deidentified_ultrasound_leaves_nothing_of_the_patient(tiny, run_files, tmp_path, capfd, photometric):
    before = ultrasound(tmp_path / "in" / "loop.dcm", photometric)
    bundle = tiny("us_despeckle")
    for deidentify in (False, True):
        out = tmp_path / f"out-{deidentify}"
        keys = bundle.keys("inference", out, dataset_dir=str(tmp_path / "in"), device="cpu", deidentify=deidentify)
        run_files(bundle.files("inference"), "infer", **keys)
    assert traces(tmp_path / "out-False") == ["loop_despeckled.dcm"]  # whose format wants the patient
    assert traces(tmp_path / "out-True") == []
    assert "zyzx" not in "".join(capfd.readouterr())
    made, plain = (pydicom.dcmread(tmp_path / f"out-{which}" / "loop_despeckled.dcm") for which in (True, False))
    assert made.PatientName == "" and made.PatientID == "" and made.PatientIdentityRemoved == "YES"
    assert made.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert not any(element.tag.is_private for element in made) and 0x60000022 not in made
    uids = [made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID]
    assert len(set(uids)) == 3 and not set(uids) & {before[name].value for name in before.dir("InstanceUID")}
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert made.SequenceOfUltrasoundRegions[0].PhysicalDeltaX == 0.01 and made.FrameTime == 40
    pixels, others = made.pixel_array, plain.pixel_array
    np.testing.assert_array_equal(pixels[:, 16:], others[:, 16:])
    assert np.unique(pixels[:, :16]).tolist() == [255 if photometric == "MONOCHROME1" else 0]


def test_a_deidentified_picture_is_black_outside_its_region(tiny, run_files, tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (96, 96, 1), dtype=np.uint8).repeat(3, axis=2)
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x010E] = SECRET
    Image.fromarray(pixels).save(tmp_path / "in" / "frame.png", exif=exif)
    bundle = tiny("us_despeckle")
    keys = bundle.keys("inference", tmp_path / "out", dataset_dir=str(tmp_path / "in"), device="cpu")
    run_files(bundle.files("inference"), "infer", **keys, region=[0, 16, 96, 96], deidentify=True)
    assert traces(tmp_path / "out") == []
    made = np.asarray(Image.open(tmp_path / "out" / "frame_despeckled.png"))
    assert made[:16].max() == 0 and made[16:].max() > 0


@pytest.mark.parametrize("name", ["rslm_denoise", "brasyn_synthesis"])
def test_a_folders_name_reaches_no_sidecar(tiny, run_files, tmp_path, monkeypatch, name):
    bundle = tiny(name)
    folder = tmp_path / "Zzyzx [Quorra] 'x' \"y\", z"
    case = sorted(bundle.data.iterdir())[0]
    (folder / case.name).parent.mkdir()
    (folder / case.name).symlink_to(case)
    files = {"brasyn_synthesis": {"t1n": f"{folder}/{case.name}/{case.name}-t1n.nii.gz"}}.get(name, {})
    words = [f"--{key}={text}" for key, text in {**files, "dataset_dir": folder, "weights": folder / "m.pt"}.items()]
    monkeypatch.setattr("sys.argv", ["monai", "run", *words])
    more = {"target": "t1c", "views": 1} if name == "brasyn_synthesis" else {"sequence": "t1c", "estimate_noise": False}
    keys = bundle.keys("inference", tmp_path / "out", dataset_dir=str(folder), device="cpu", **more)
    run_files(bundle.files("inference"), "infer", **keys)
    assert traces(tmp_path / "out") == []
    (sidecar,) = (tmp_path / "out").rglob("*.json")
    assert json.loads(sidecar.read_text(encoding="utf-8"))["overrides"]["weights"] == "m.pt"
