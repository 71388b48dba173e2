# SPDX-License-Identifier: Apache-2.0
"""The made probes differ as real ones do; frames repeat and are kept."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.data.sample_data import is_sample, sample_probes, write_probe_frames
from common.data.sample_data.ultrasound import PROBES, make_frame


@pytest.fixture(scope="module")
def pair():
    return {name: make_frame(7, probe, 192) for name, probe in PROBES.items()}


def test_a_seed_makes_the_same_pixels_and_another_others(pair):
    again = make_frame(7, PROBES["low"], 192)
    assert np.array_equal(again["image"], pair["low"]["image"])
    assert again["image"].dtype == np.uint8
    assert not np.array_equal(make_frame(8, PROBES["low"], 192)["image"], again["image"])
    assert np.array_equal(pair["low"]["clean"], pair["high"]["clean"])  # the same tissue


def test_compounding_and_aperture_show(pair):
    def rest(frame):
        return frame["image"].astype(float) - frame["clean"]

    low, high = rest(pair["low"])[60:], rest(pair["high"])[60:]
    assert low.std() > 1.7 * high.std()

    def lag(image):  # correlation of lateral neighbours three pixels apart
        image = image - ndimage.gaussian_filter(image, 8)
        return (image[:, 3:] * image[:, :-3]).mean() / image.var()

    assert lag(low) > lag(high) + 0.15


def test_speckle_lies_about_the_clean_picture(pair):
    smooth = [ndimage.gaussian_filter(pair[name][kind].astype(float), 4) for name, kind in
              (("high", "image"), ("high", "clean"))]  # fmt: skip
    assert np.corrcoef(smooth[0].ravel(), smooth[1].ravel())[0, 1] > 0.85


def test_a_fan_has_black_margins_and_text():
    frame = make_frame(1, PROBES["high"], 160, fan=True)
    assert 0.3 < (frame["clean"] > 0).mean() < 0.6
    assert frame["image"][-15:, :80].max() > 150
    assert not frame["clean"][-15:, :80].any()


def test_files_are_written_once_and_kept(tmp_path):
    paths = write_probe_frames(tmp_path, 2, 96, seed=3, progress=False)
    assert [str(p.relative_to(tmp_path)) for p in paths] == [
        f"{side}/frame-00{i}.png" for side in ("low", "high") for i in range(2)
    ]
    assert len(list((tmp_path / "truth").iterdir())) == 2
    pictures = [np.asarray(Image.open(p)) for p in paths]
    assert len({picture.tobytes() for picture in pictures}) == 4
    stamp = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    write_probe_frames(tmp_path, 3, 96, seed=3, progress=False)
    assert paths[0].stat().st_mtime_ns == stamp
    assert np.array_equal(np.asarray(Image.open(paths[1])), pictures[1])
    with pytest.raises(FileExistsError, match="made with other settings"):
        write_probe_frames(tmp_path, 2, 96, seed=4, progress=False)
    paths[0].write_bytes(b"damaged")
    with pytest.raises(FileExistsError, match="damaged"):
        write_probe_frames(tmp_path, 2, 96, seed=3, progress=False)


@pytest.mark.parametrize("settings", [{"frames": 0}, {"size": 40}, {"size": "big"}, {"seed": -1}])
def test_settings_out_of_range(tmp_path, settings):
    with pytest.raises(ValueError, match="must be a whole number"):
        write_probe_frames(tmp_path, **settings, progress=False)


def test_the_cache_is_known_as_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = sample_probes(1)
    assert is_sample(folder / "low" / "frame-000.png")
    assert sample_probes(1) == folder
