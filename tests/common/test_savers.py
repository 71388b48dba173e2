# SPDX-License-Identifier: Apache-2.0
"""Results carry the input's geometry, are labelled as what they are, and overwrite nobody's file."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, SaveImaged

from common.errors import InputError
from common.io.find import stem_of
from common.io.hashes import file_hash
from common.io.savers import SaveRestoredd, result_path

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([0.9, -1.1, 2.5]), [-40.0, 12.5, 7.25]
)
FACTS = {"bundle": "a bundle", "version": "1"}


def scan(path, codes=(1, 1), affine=OBLIQUE, shape=(6, 5, 4)):
    """Writes a scan, and returns it as loaded, the prediction of a network that changes nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    nifti = nib.Nifti1Image((100 * rng.random(shape)).astype(np.float32), affine)
    nifti.set_qform(affine, codes[0])
    nifti.set_sform(affine, codes[1])
    nib.save(nifti, path)
    return LoadImage(image_only=True, ensure_channel_first=True)(str(path))


def save(image, folder, **options):
    options = {"output_postfix": "sr", "facts": FACTS, **options}
    SaveRestoredd("pred", output_dir=str(folder), **options)({"pred": image})
    return sorted(folder.rglob("*.nii.gz"))


def refused(image, folder, **options):
    with pytest.raises(InputError) as caught:
        save(image, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# geometry and values


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 4), (1, 0), (0, 3)])
def test_affine_and_codes_are_the_inputs(tmp_path, codes):
    image = scan(tmp_path / "in" / "a.nii.gz", codes)
    result = nib.load(save(image, tmp_path / "out")[0])
    assert (int(result.header["qform_code"]), int(result.header["sform_code"])) == codes
    corners = np.array([[x, y, z] for x in (-0.5, 5.5) for y in (-0.5, 4.5) for z in (-0.5, 3.5)])
    expected = nib.affines.apply_affine(np.asarray(image.affine), corners)
    np.testing.assert_allclose(nib.affines.apply_affine(result.affine, corners), expected, atol=1e-4)
    assert result.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(result.get_fdata(), image[0], atol=1e-4)


def test_without_a_valid_code_the_result_gets_one(tmp_path):
    image = scan(tmp_path / "in" / "a.nii.gz", (0, 0), np.diag([2.0, 2, 3, 1]))
    result = nib.load(save(image, tmp_path / "out")[0])
    assert int(result.header["sform_code"]) > 0
    np.testing.assert_allclose(result.affine, np.asarray(image.affine), atol=1e-5)


def test_an_image_that_was_no_nifti_gets_valid_codes(tmp_path):
    image = MetaTensor(torch.rand(1, 4, 5, 6), affine=torch.as_tensor(OBLIQUE), meta={"filename_or_obj": "series"})
    result = nib.load(save(image, tmp_path)[0])
    assert int(result.header["qform_code"]) == int(result.header["sform_code"]) == 1


def test_results_are_float32_or_rounded_int16(tmp_path):
    image = scan(tmp_path / "in" / "a.nii.gz")
    floating = nib.load(save(image, tmp_path / "float")[0])
    integers = nib.load(save(image, tmp_path / "int", integers=True)[0])
    assert floating.get_data_dtype() == np.float32 and integers.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(integers.dataobj), np.rint(np.asarray(floating.dataobj)))


@pytest.mark.parametrize("number", [32767.6, -32769.0])
def test_values_that_do_not_fit_int16_are_an_error_and_leave_no_file(tmp_path, number):
    image = scan(tmp_path / "in" / "a.nii.gz")
    image[0, 1, 1, 1] = number
    text = refused(image, tmp_path / "out", integers=True)
    assert text.startswith(f"{tmp_path}/in/a.nii.gz: values ") and "do not fit int16" in text
    assert not [p for p in (tmp_path / "out").iterdir() if p.is_file()]
    image[0, 1, 1, 1] = 32767.4
    save(image, tmp_path / "out", integers=True)


def test_the_header_says_what_it_is(tmp_path):
    image = scan(tmp_path / "in" / "a.nii.gz")
    for text in ("super-resolved, not for diagnosis", "x" * 100):
        result = nib.load(save(image, tmp_path / "out", description=text)[0])
        assert result.header["descrip"].item().decode() == text[:79]


# files


def test_provenance_lies_beside_the_result_without_folders(tmp_path, capsys):
    image = scan(tmp_path / "in" / "a.nii.gz")
    (path,) = save(image, tmp_path / "out")
    assert path == tmp_path / "out" / "a_sr.nii.gz"
    text = (tmp_path / "out" / "a_sr.nii.gz.provenance.json").read_text(encoding="utf-8")
    told = {**FACTS, "input": "a.nii.gz", "input_sha256": file_hash(tmp_path / "in" / "a.nii.gz")}
    assert json.loads(text) == told and str(tmp_path) not in text
    assert capsys.readouterr().out == f"saved {path}\n"
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_equal_names_in_two_folders_do_not_collide(tmp_path):
    images = [scan(tmp_path / "in" / name / "t1.nii.gz") for name in ("sub-1", "sub-2")]
    saver = SaveRestoredd("pred", str(tmp_path / "out"), "sr", FACTS, root=str(tmp_path / "in"))
    for image in images:
        saver({"pred": image})
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.nii.gz"))
    assert found == ["sub-1/t1_sr.nii.gz", "sub-2/t1_sr.nii.gz"]


def test_two_inputs_with_one_result_are_an_error(tmp_path):
    images = [scan(tmp_path / "in" / name) for name in ("a.nii", "a.nii.gz")]
    saver = SaveRestoredd("pred", str(tmp_path / "out"), "sr", FACTS)
    saver({"pred": images[0]})
    saver({"pred": images[0]})  # the same case again is no harm
    with pytest.raises(InputError, match=r"a\.nii\.gz: its result would overwrite that of .*a\.nii;"):
        saver({"pred": images[1]})


def test_the_input_is_never_overwritten(tmp_path):
    path = tmp_path / "in" / "a.nii.gz"
    image = scan(path)
    before = path.read_bytes()
    save(image, tmp_path / "in")  # beside it
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_sr.nii.gz").symlink_to(path)
    assert refused(image, tmp_path / "out").startswith(f"{path}: the result would overwrite it")
    assert path.read_bytes() == before


def test_a_users_own_file_of_the_results_name_is_left_alone(tmp_path):
    own = scan(tmp_path / "in" / "a_sr.nii.gz", shape=(3, 3, 3))
    image = scan(tmp_path / "in" / "a.nii.gz")
    assert "is no earlier result" in refused(image, tmp_path / "in")
    assert nib.load(tmp_path / "in" / "a_sr.nii.gz").shape == own.shape[1:]


def test_an_earlier_result_is_replaced(tmp_path):
    image = scan(tmp_path / "in" / "a.nii.gz")
    save(image, tmp_path / "out")
    save(image + 1, tmp_path / "out")
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "a_sr.nii.gz").get_fdata(), image[0] + 1, atol=1e-4)


def test_several_predictions_have_a_postfix_each(tmp_path):
    image = scan(tmp_path / "in" / "a.nii.gz")
    saver = SaveRestoredd(["pred", "spline"], str(tmp_path / "out"), ["sr", "spline"], FACTS)
    assert isinstance(saver, SaveImaged)  # MONAI Label takes savers of that type out of the chain
    saver({"pred": image, "spline": image})
    assert sorted(p.name for p in (tmp_path / "out").glob("*.gz")) == ["a_spline.nii.gz", "a_sr.nii.gz"]


def test_stems_and_paths(tmp_path, monkeypatch):
    (tmp_path / "series.1").mkdir()
    assert [stem_of(p) for p in ("x/a.nii.gz", "a.b.nii", "A.NII.GZ", "a.mha")] == ["a", "a.b", "A", "a"]
    assert stem_of(tmp_path / "series.1") == "series.1"
    monkeypatch.setenv("HOME", str(tmp_path))
    source = tmp_path / "in" / "sub" / "a.nii.gz"
    scan(source)
    assert result_path(str(source), "~/out", "sr", "~/in") == tmp_path / "out" / "sub" / "a_sr.nii.gz"
    assert result_path(str(source), "out", "sr", str(source)).name == "a_sr.nii.gz"
    (tmp_path / "elsewhere").mkdir()
    assert result_path(str(source), "out", "sr", str(tmp_path / "elsewhere")).parent.name == "out"


def test_a_bundle_may_name_its_results_and_tell_more_of_them(tmp_path):
    class Named(SaveRestoredd):
        def name_of(self, image, source, postfix):
            return f"{postfix}-of-{stem_of(source)}.nii.gz"

        def facts_of(self, image):
            return {**self.facts, "shape": list(image.shape)}

    image = scan(tmp_path / "in" / "sub" / "a.nii.gz")
    options = {"output_postfix": "made", "facts": FACTS, "root": str(tmp_path / "in")}
    Named("pred", output_dir=str(tmp_path / "out"), **options)({"pred": image})
    facts = tmp_path / "out" / "sub" / "made-of-a.nii.gz.provenance.json"
    assert json.loads(facts.read_text(encoding="utf-8"))["shape"] == [1, 6, 5, 4]


def test_the_fingerprint_of_a_loaded_case_stands_beside_all_its_files(tmp_path):
    class More(SaveRestoredd):
        def write_beside(self, target, image, source, data, facts):
            told.append(facts)

    told = []
    image = scan(tmp_path / "in" / "a.nii.gz")
    More("pred", str(tmp_path / "out"), "sr", FACTS)({"pred": image, "input_sha256": "of image and guide"})
    beside = json.loads((tmp_path / "out" / "a_sr.nii.gz.provenance.json").read_text(encoding="utf-8"))
    assert told == [{**FACTS, "input_sha256": "of image and guide"}] and beside == {**told[0], "input": "a.nii.gz"}


def test_a_bundle_may_write_files_of_another_kind_and_more_of_them(tmp_path):
    class Text(SaveRestoredd):
        def name_of(self, image, source, postfix):
            return f"{stem_of(source)}_{postfix}.txt"

        def write(self, path, image, source):
            path.write_text(str(tuple(image.shape)), encoding="utf-8")

        def write_beside(self, target, image, source, data, facts):
            assert not target.exists()  # the result itself tells that all is done
            target.with_suffix(".more").write_text(f"{stem_of(source)} of {sorted(data)}", encoding="utf-8")

    image = scan(tmp_path / "in" / "a.nii.gz")
    saver = Text("pred", str(tmp_path / "out"), "made", FACTS)
    saver({"pred": image, "other": 1})
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
    assert made.keys() == {"a_made.txt", "a_made.txt.provenance.json", "a_made.more"}
    assert made["a_made.txt"] == "(1, 6, 5, 4)" and made["a_made.more"] == "a of ['other', 'pred']"


SHEARED = OBLIQUE @ (np.eye(4) + np.diag([0.3, 0.1], 2))


def test_a_sheared_affine_comes_back_and_no_qform_contradicts_it(tmp_path):
    image = scan(tmp_path / "in" / "a.nii.gz")
    image.affine = torch.as_tensor(SHEARED)
    result = nib.load(save(image, tmp_path / "out")[0])
    np.testing.assert_allclose(result.affine, SHEARED, atol=1e-5)
    assert (int(result.header["qform_code"]), int(result.header["sform_code"])) == (0, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_result_that_is_no_image_is_never_written(tmp_path, value):
    image = scan(tmp_path / "in" / "a.nii.gz")
    image[0, 1, 2, 3] = value
    with pytest.raises(InputError, match=r"a.nii.gz: 1 values of the result are NaN or infinite \(damaged weights"):
        SaveRestoredd(["good", "pred"], str(tmp_path / "out"), ["a", "b"], FACTS)(
            {"good": scan(tmp_path / "in" / "a.nii.gz"), "pred": image}
        )
    assert not (tmp_path / "out").exists()


def test_a_name_that_no_file_system_takes_is_told_before_anything_is_written(tmp_path):
    image = scan(tmp_path / "in" / f"{'a' * 240}.nii")
    assert "longer than 255 bytes" in refused(image, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_that_save_one_result_at_once_lose_nothing(tmp_path):
    class Slow(SaveRestoredd):
        def write(self, path, image, source):
            super().write(path, image, source)
            save(image, tmp_path / "out")  # the other run saves the same case meanwhile

    image = scan(tmp_path / "in" / "a.nii.gz")
    Slow("pred", str(tmp_path / "out"), "sr", FACTS)({"pred": image})
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"a_sr.nii.gz", "a_sr.nii.gz.provenance.json"}
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "a_sr.nii.gz").get_fdata(), image[0], atol=1e-4)
