# SPDX-License-Identifier: Apache-2.0
"""What a result could not keep of a picture is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from common.io.pictures import ORIENTATION, open_picture, orientation, turned

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def refused(path, **options):
    with pytest.raises(InputError) as caught, open_picture(path, **options):
        pass
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_what_can_be_kept_is_opened(tmp_path, mode):
    image = Image.fromarray(GREY.astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    image.save(tmp_path / "a.png")
    with open_picture(tmp_path / "a.png") as picture:
        assert picture.mode == mode and picture.size == (16, 16)


def test_a_palette_and_a_transparent_colour_are_refused(tmp_path):
    Image.fromarray(GREY).convert("P").save(tmp_path / "palette.png")
    assert "palette" in refused(tmp_path / "palette.png")
    Image.fromarray(GREY).save(tmp_path / "clear.png", transparency=0)
    assert "transparency" in refused(tmp_path / "clear.png")
    with open_picture(tmp_path / "palette.png", kept=False) as picture:  # a mask, of which no result is made
        assert picture.mode == "P"


def test_fewer_than_eight_bits_are_refused(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    assert "1 bits" in refused(tmp_path / "a.png")
    Image.fromarray(GREY > 100).save(tmp_path / "a.bmp")
    assert "1 bits" in refused(tmp_path / "a.bmp")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tif")
    assert "pixels of kind F" in refused(tmp_path / "a.tif", kinds=("TIFF",))


def test_other_formats_animations_and_no_pictures_are_refused(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert "animated, with 2 pictures" in refused(tmp_path / "a.png")
    frames[0].save(tmp_path / "a.gif")
    assert refused(tmp_path / "a.gif") == "GIF is not read; convert it to PNG"
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert refused(tmp_path / "b.png").startswith("not a picture")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert "16 x 16 pixels are more than" in refused(tmp_path / "a.png", most=255)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert "million pixels; cut it into parts" in refused(tmp_path / "bomb.png")


def test_missing_rows_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert "of 64 rows are there" in refused(tmp_path / "a.png")


@pytest.mark.parametrize(("stored", "told"), [(1, 1), (6, 6), (9, 1), (0, 1)])
def test_orientation_is_kept_and_nonsense_is_none(tmp_path, stored, told):
    exif = Image.Exif()
    exif[ORIENTATION] = stored
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    with open_picture(tmp_path / "a.jpg") as picture:
        assert orientation(picture) == told
        picture.save(tmp_path / "b.jpg", **turned(told))
    with open_picture(tmp_path / "b.jpg") as again:
        assert orientation(again) == told
