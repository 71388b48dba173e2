# SPDX-License-Identifier: Apache-2.0
"""Images are found and loaded case by case; what cannot work costs one line, not the run."""

import io
import logging
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, MetaTensor, ThreadDataLoader
from monai.engines import SupervisedEvaluator
from monai.transforms import EnsureChannelFirstd, LoadImaged
from torch._utils import ExceptionWrapper

from common.errors import InputError, one_line
from common.io.headers import check_headers
from common.io.inputs import CaseLoader, Cases, CheckVoxelsd, find_scans, plain_errors, root_cause

LOAD = (LoadImaged("image"), EnsureChannelFirstd("image"), CheckVoxelsd("image"))


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(path, data=None):
    data = np.arange(7 * 9 * 5, dtype=np.float32).reshape(7, 9, 5) if data is None else data
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return str(path)


def message(call, *args):
    """Return the text of the InputError that `call` raises: one line."""
    with pytest.raises(InputError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# find_scans


def found(folder, *args):
    return [path.removeprefix(f"{folder}/") for path in find_scans(folder, *args)]


def test_files_are_sorted_naturally_and_hidden_ones_ignored(tmp_path):
    touch(
        tmp_path, "sub-10/a.nii.gz", "sub-2/a.nii", "sub-2/.a.nii", ".git/b.nii", "b.nii.gz", "notes.txt", "b.nii.json"
    )
    assert found(tmp_path) == ["b.nii.gz", "sub-2/a.nii", "sub-10/a.nii.gz"]
    assert found(tmp_path, "*.nii*") == ["b.nii.gz"]


def test_an_ending_may_be_in_capitals_but_not_the_rest_of_a_name(tmp_path):
    for name in ("A.NII.GZ", "b-T1.NII", "c-t1.nii"):
        write(tmp_path / name)
    touch(tmp_path, "d.png")
    assert found(tmp_path) == ["A.NII.GZ", "b-T1.NII", "c-t1.nii"]
    assert found(tmp_path, "*-t1.nii") == ["c-t1.nii"] and found(tmp_path, "A.nii.gz") == ["A.NII.GZ"]
    paths = find_scans(tmp_path)
    assert check_headers(paths) == (paths, [])
    cases = Cases([{"image": path} for path in paths], LOAD)
    assert len(list(cases)) == 3 and cases.failures == []


def test_brackets_in_the_folder_name_are_plain_characters(tmp_path):
    touch(tmp_path, "data [old]/a.nii")
    assert found(tmp_path / "data [old]") == ["a.nii"]


def test_one_file_is_taken_whatever_its_name(tmp_path):
    touch(tmp_path, "a.mha", "a.mha.provenance.json")
    assert find_scans(tmp_path / "a.mha") == [str(tmp_path / "a.mha")]


def test_a_link_to_nowhere_is_found_so_that_it_can_be_named(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to("gone")
    assert check_headers(find_scans(tmp_path))[1] == [
        (str(tmp_path / "a.nii.gz"), "a link to a file that is not there")
    ]


def test_earlier_results_are_not_read_again(tmp_path, caplog):
    touch(tmp_path, "a.nii.gz", "a_denoised.nii.gz", "a_denoised.nii.gz.provenance.json")
    with caplog.at_level(logging.INFO):
        assert found(tmp_path) == ["a.nii.gz"]
    assert "1 earlier results" in caplog.text
    (tmp_path / "a.nii.gz").unlink()
    assert "1 earlier results skipped" in message(find_scans, tmp_path)


def test_dicom_folders_are_cases(tmp_path):
    dicom = bytes(128) + b"DICM"
    touch(tmp_path, "p10/x.dcm", "DICOMDIR", ".old/x.dcm", "docs/readme.txt")
    (tmp_path / "DICOMDIR").write_bytes(dicom)
    (tmp_path / "p2" / "study").mkdir(parents=True)
    (tmp_path / "p2" / "study" / "IM0001").write_bytes(dicom)
    assert found(tmp_path) == ["p2/study", "p10"]


def test_what_is_missing_is_named_in_one_line(tmp_path):
    assert message(find_scans, tmp_path / "none") == f"{tmp_path}/none: no such file or folder"
    assert (
        message(find_scans, None) == "dataset_dir is not given; expected one NIfTI file or DICOM series folder per case"
    )
    touch(tmp_path, "a.txt")
    assert (
        message(find_scans, tmp_path, "**/*-t1.nii.gz", "CASE/CASE-t1.nii.gz")
        == f"no file matches **/*-t1.nii.gz under {tmp_path}; expected CASE/CASE-t1.nii.gz"
    )


# CheckVoxelsd


def image(shape=(1, 7, 9, 5), **voxels):
    data = torch.arange(float(np.prod(shape))).reshape(shape)
    for value, count in voxels.items():
        data.view(-1)[:count] = float(value)
    return {"image": MetaTensor(data, meta={"filename_or_obj": "in/sub-01.nii.gz"})}


def test_good_voxels_pass_unchanged():
    data = image()
    assert CheckVoxelsd("image")(data)["image"] is data["image"]
    frames = {"a": torch.arange(12).reshape(2, 2, 3), "b": np.arange(12).reshape(2, 2, 3)}
    assert CheckVoxelsd(["a", "b"], spatial_dims=2, channels=2)(frames).keys() == frames.keys()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (image(nan=12), "12 voxels are NaN or infinite; replace them first"),
        (image(inf=1), "1 voxel is NaN or infinite; replace them first"),
        (image(**{"-inf": 2, "nan": 1}), "2 voxels are NaN or infinite; replace them first"),
        ({"image": image()["image"] * 0 + 3}, "constant image: every voxel is 3"),
        (image((2, 7, 9, 5)), "2 channel(s) where 1 is meant"),
        (image((1, 7, 9)), "2D image (7, 9) where a 3D one is meant"),
        (image((1, 7, 9, 5, 2)), "4D image (7, 9, 5, 2) where a 3D one is meant"),
        (image((1, 7, 0, 5)), "no voxels (shape (7, 0, 5))"),
    ],
)
def test_bad_voxels_are_named(data, reason):
    assert message(CheckVoxelsd("image"), data) == f"in/sub-01.nii.gz: {reason}"


def test_plain_tensor_has_no_file_name():
    assert message(CheckVoxelsd("x"), {"x": torch.ones(1, 2, 3, 4)}) == "image: constant image: every voxel is 1"


# Cases


@pytest.fixture
def files(tmp_path):
    """Good, NaN, truncated, text, good: paths, and those that fail with a word of the reason."""
    names = ["1.nii.gz", "2.nii.gz", "3.nii.gz", "4.nii.gz", "5.nii.gz"]
    paths = [write(tmp_path / name) for name in names]
    write(paths[1], np.full((7, 9, 5), np.nan, np.float32))
    Path(paths[2]).write_bytes(Path(paths[2]).read_bytes()[:-40])
    Path(paths[3]).write_text("no image", encoding="utf-8")
    return paths, {paths[1]: "315 voxels are NaN", paths[2]: "cannot be read (Compressed", paths[3]: "not a gzip"}


def cases_of(paths, **options):
    return Cases([{"image": path} for path in paths], LOAD, **options)


def check_failures(failures, expected):
    assert [path for path, _ in failures] == list(expected)
    for (_, reason), word in zip(failures, expected.values(), strict=True):
        assert word in reason and "\n" not in reason


@pytest.mark.parametrize("loader", [CaseLoader, DataLoader, ThreadDataLoader])
def test_failed_cases_are_skipped_and_the_others_go_on(files, loader, caplog):
    paths, expected = files
    cases = cases_of(paths)
    names = [batch["image"].meta["filename_or_obj"][0] for batch in loader(cases)]
    assert names == [paths[0], paths[4]]
    assert len(cases) == 5 and [item["image"] for item in cases.data] == paths
    check_failures(cases.failures, expected)
    assert len(caplog.records) == 3  # one line each
    with pytest.raises(SystemExit) as stop:
        cases.finish()
    assert stop.value.code == 1
    lines = [record.getMessage() for record in caplog.records[3:]]
    assert lines[0] == "2 of 5 cases done, 3 failed:"
    check_failures([tuple(line.strip().split(": ", 1)) for line in lines[1:]], expected)


def test_all_well_ends_without_an_exit(tmp_path, caplog):
    cases = cases_of([write(tmp_path / "a.nii")])
    with caplog.at_level(logging.INFO):
        assert len(list(CaseLoader(cases))) == 1
        cases.finish()
    assert caplog.messages == ["1 of 1 cases done"]


def test_cases_refused_by_their_headers_are_in_the_summary(files, caplog):
    paths, expected = files
    good, refused = check_headers(paths)
    assert [path for path, _ in refused] == paths[2:4]
    cases = cases_of(good, failures=refused)
    list(CaseLoader(cases))
    cases.add(good[-1], "the disk is full")  # found out later, by whoever processes the case
    cases.finish(raise_error=False)
    assert "1 of 5 cases done, 4 failed:" in caplog.messages
    assert {path for path, _ in cases.failures} == {*expected, good[-1]}


def test_cases_never_reached_are_told(files, caplog):
    cases = cases_of(files[0][:1])
    cases.finish(raise_error=False)
    assert f"  {files[0][0]}: was not processed" in caplog.messages


def test_failed_cases_are_not_tried_again(files):
    cases = cases_of(files[0])
    assert [len(list(cases)) for _ in range(2)] == [2, 2]
    assert len(cases.failures) == 3


def test_the_next_case_loads_while_one_is_processed(tmp_path):
    second_loads, main = threading.Event(), threading.get_ident()

    def load(item):
        assert threading.get_ident() != main
        if item["name"] == "b":
            second_loads.set()
        return item

    batches = iter(CaseLoader(Cases([{"name": "a"}, {"name": "b"}], load)))
    assert next(batches)["name"] == ["a"]
    assert second_loads.wait(timeout=10)
    assert next(batches)["name"] == ["b"]


def test_an_engine_sees_each_good_case_once(files):
    cases, seen = cases_of(files[0]), []
    evaluator = SupervisedEvaluator("cpu", CaseLoader(cases), torch.nn.Identity())
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.iteration))
    evaluator.run()
    assert seen == [1, 2]


def test_several_paths_in_one_case_are_named_by_their_folder(tmp_path):
    def fail(item):
        raise OSError("disk\ngone")

    cases = Cases([{"t1": f"{tmp_path}/a/t1.nii", "rest": [f"{tmp_path}/a/t2.nii"]}, {"n": 1}], fail)
    assert list(cases) == []
    assert cases.failures == [(f"{tmp_path}/a", "cannot be read (disk gone)"), ("case", "cannot be read (disk gone)")]


def test_worker_processes_are_refused(files, monkeypatch):
    monkeypatch.setattr("common.io.inputs.get_worker_info", lambda: "worker 0 of 2")
    with pytest.raises(RuntimeError, match="num_workers=0"):
        next(iter(cases_of(files[0])))


# errors


def wrapped(error):
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("applying transform") from cause
    except RuntimeError as outer:
        return outer


def test_root_cause_is_the_input_error_or_the_deepest():
    inner = InputError("bad", "a.nii")
    assert root_cause(wrapped(wrapped(inner))) is inner
    deepest = EOFError("short")
    assert root_cause(wrapped(wrapped(deepest))) is deepest
    assert root_cause(deepest) is deepest


@pytest.mark.parametrize("wrap", [wrapped, lambda error: error])
def test_root_cause_is_found_through_a_worker_process(wrap):
    try:
        raise wrap(InputError("constant image", "a.nii"))
    except (RuntimeError, InputError):
        parcel = ExceptionWrapper(where="in DataLoader worker process 0")  # as torch's worker sends its error home
    with pytest.raises((RuntimeError, InputError)) as caught:
        parcel.reraise()
    assert str(root_cause(caught.value)) == "a.nii: constant image"


def test_a_librarys_error_names_no_address():
    error = OSError(f"cannot identify {io.BytesIO()}")
    assert one_line(error) == "cannot identify _io.BytesIO"


def test_input_error_is_one_line():
    assert str(InputError("two\nlines", "a.nii")) == "a.nii: two lines"
    assert str(InputError("no file")) == "no file"


def test_config_with_bad_input_ends_in_one_line(tmp_path, monkeypatch, capsys):
    others = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error))
    plain_errors()
    hook = sys.excepthook
    plain_errors()
    assert sys.excepthook is hook

    parser = ConfigParser({"scans": "$find(@folder)", "folder": str(tmp_path), "count": "$len(@scans)"})
    parser.globals["find"] = find_scans
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("count")
    hook(caught.type, caught.value, caught.tb)
    expected = (
        f"error: no file matches **/*.nii* under {tmp_path}; expected one NIfTI file or DICOM series folder per case"
    )
    assert capsys.readouterr().err == f"{expected}\n"
    assert others == []

    full = wrapped(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 163840 bytes"))
    hook(RuntimeError, full, None)
    line = capsys.readouterr().err
    assert line.startswith("error: not enough memory (DefaultCPUAllocator: ") and line.endswith(" take less\n")

    bug = wrapped(KeyError("bug"))
    hook(RuntimeError, bug, None)
    assert others == [(RuntimeError, bug, None)]
